"""A Gymnasium suite in which the attention span of live PyTorch layers is the action.

Importing this package registers the ids with Gymnasium. PyTorch and the other libraries are
imported when a name is used.

Example:
    >>> import gymnasium as gym
    >>> import spangym
    >>> env = gym.make("spangym/SpanControl-v0")
    >>> env.action_space
    Discrete(10)
    >>> run = spangym.compare("quickstart")  # doctest: +SKIP
"""

import importlib.metadata
from pathlib import Path

import lazy_loader

# In a checkout the packages are siblings of this folder. This line makes `import spangym` work in a
# Python that was started there, where this folder hides the installed package.
__path__.append(str(Path(__file__).parents[1]))

from spangym.envs.registration import register_environments  # noqa: E402

# `__init__.pyi` lists the names; a module is imported when one of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = importlib.metadata.version("spangym")
__all__ += ["__version__"]

register_environments()
