"""The figures of a comparison."""

from .kinds import FIGURES, FigureKind, legend_of
from .panels import NothingToDraw, Results

__all__ = ["FIGURES", "FigureKind", "NothingToDraw", "Results", "legend_of"]
