"""The figures of a pilot."""

from .kinds import PILOT_FIGURES
from .results import PilotAxis, PilotResults

__all__ = ["PILOT_FIGURES", "PilotAxis", "PilotResults"]
