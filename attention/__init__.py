"""Attention layers whose span is decided for each input, and what is read off them."""

from .adaptive_update import (
    AdaptiveUpdateAttention,
    AttentionCombiner,
    KeyValueCache,
    ProjectionModule,
)
from .controllers import SpanController
from .integrated import IntegratedAttention, Outcome
from .predictor import Predictor, RefreshPredictor
from .sliding_window import LocalPass, SlidingWindowAttention
from .spans import ACTIONS, Spans

__all__ = [
    "ACTIONS",
    "AdaptiveUpdateAttention",
    "AttentionCombiner",
    "IntegratedAttention",
    "KeyValueCache",
    "LocalPass",
    "Outcome",
    "Predictor",
    "ProjectionModule",
    "RefreshPredictor",
    "SlidingWindowAttention",
    "SpanController",
    "Spans",
]
