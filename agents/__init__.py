"""Agents: the original Refiner, Stable-Baselines3's, reference policies and one's own."""

from .check_agent import check_agent
from .cluster_agent import ClusterAgent
from .clusters import Clusters
from .deep import DeepAgent
from .export import freeze
from .foreseeing import GreedyAgent, OracleAgent, PredictorAgent, ThresholdAgent
from .loading import NAMES, AgentKind, find_agent
from .protocol import Agent, ResumableAgent
from .reference import FixedAgent, RandomAgent
from .refiner import Refiner
from .schedules import Linear
from .soft_span import SoftSpanAgent
from .tabular import ControllerAgent
from .told import ToldAgent

__all__ = [
    "NAMES",
    "Agent",
    "AgentKind",
    "ClusterAgent",
    "Clusters",
    "ControllerAgent",
    "DeepAgent",
    "FixedAgent",
    "GreedyAgent",
    "Linear",
    "OracleAgent",
    "PredictorAgent",
    "RandomAgent",
    "Refiner",
    "ResumableAgent",
    "SoftSpanAgent",
    "ThresholdAgent",
    "ToldAgent",
    "check_agent",
    "find_agent",
    "freeze",
]
