"""A Gymnasium suite in which the attention span of live PyTorch layers is the action.

Importing this package registers the ids with Gymnasium. PyTorch is imported only when an
environment is made.

Example:
    >>> import gymnasium as gym
    >>> env = gym.make("spangym/SpanControl-v0")
    >>> env.action_space
    Discrete(10)
"""

import importlib.metadata
from pathlib import Path

# In a checkout the packages are siblings of this folder. This line makes `import spangym` work in a
# Python that was started there, where this folder hides the installed package.
__path__.append(str(Path(__file__).parents[1]))

from spangym.envs.registration import register_environments  # noqa: E402

__version__ = importlib.metadata.version("spangym")

register_environments()
