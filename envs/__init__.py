"""Environments in which the attention span of live layers is the action.

Importing this package registers their ids with Gymnasium.
"""

from .check_vector_env import check_vector_env
from .registration import ENVIRONMENTS, register_environments, settings_for
from .rewards import Decided, Reward
from .sb3_vec_env import SpanControlVecEnv
from .settings import Parts, Settings, split_arguments
from .simulator import Simulator, Step
from .sources import Source, Stream
from .span_control import SpanControlEnv
from .stack import Stack
from .vector_env import SpanControlVectorEnv

register_environments()

__all__ = [
    "ENVIRONMENTS",
    "Decided",
    "Parts",
    "Reward",
    "Settings",
    "Simulator",
    "Source",
    "SpanControlEnv",
    "SpanControlVecEnv",
    "SpanControlVectorEnv",
    "Stack",
    "Step",
    "Stream",
    "check_vector_env",
    "register_environments",
    "settings_for",
    "split_arguments",
]
