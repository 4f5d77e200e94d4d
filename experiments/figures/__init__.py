"""The figures of a comparison."""

from .kinds import FIGURES
from .panels import NothingToDraw
from .results import Results

__all__ = ["FIGURES", "NothingToDraw", "Results"]
