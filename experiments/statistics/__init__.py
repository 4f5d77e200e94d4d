"""What the rows of a comparison say."""

from .analysis import Statistics, analyse

__all__ = ["Statistics", "analyse"]
