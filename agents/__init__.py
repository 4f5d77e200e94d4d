"""Agents: the original Refiner, Stable-Baselines3's, reference policies and one's own refiner."""

from .check_agent import check_agent
from .deep import DeepAgent
from .loading import NAMES, AgentKind, find_agent
from .protocol import Agent
from .reference import FixedAgent, RandomAgent
from .refiner import Refiner
from .tabular import ControllerAgent

__all__ = [
    "NAMES",
    "Agent",
    "AgentKind",
    "ControllerAgent",
    "DeepAgent",
    "FixedAgent",
    "RandomAgent",
    "Refiner",
    "check_agent",
    "find_agent",
]
