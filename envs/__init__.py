"""Environments in which the attention span of live layers is the action.

Importing this package registers their ids with Gymnasium.
"""

from .registration import ENVIRONMENTS, register_environments, settings_for
from .sb3_vec_env import SpanControlVecEnv
from .settings import Settings
from .simulator import Simulator, Step
from .span_control import SpanControlEnv

register_environments()

__all__ = [
    "ENVIRONMENTS",
    "Settings",
    "Simulator",
    "SpanControlEnv",
    "SpanControlVecEnv",
    "Step",
    "register_environments",
    "settings_for",
]
