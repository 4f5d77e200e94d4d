"""Attention layers whose span is decided for each input, and what is read off them."""

from .adaptive_span import AdaptiveSpan, LocalPass
from .adaptive_update import AdaptiveUpdateAttention, KeyValueCache
from .controllers import SpanController, StoredController, TensorController
from .frozen import FrozenController, load_controller
from .heads import AttentionCombiner, ProjectionModule
from .integrated import IntegratedAttention
from .multi_head import MultiHeadAttention
from .observation import Observation
from .options import SpanOptions
from .outcome import LayerCache, Outcome
from .predictor import Predictor, RefreshPredictor
from .relatives import FocusAttention, HybridAttention
from .sliding_window import SlidingWindowAttention
from .spans import ACTIONS, Spans
from .statistics import AttentionStats
from .two_path import TwoPathAttention

__all__ = [
    "ACTIONS",
    "AdaptiveSpan",
    "AdaptiveUpdateAttention",
    "AttentionCombiner",
    "AttentionStats",
    "FocusAttention",
    "FrozenController",
    "HybridAttention",
    "IntegratedAttention",
    "KeyValueCache",
    "LayerCache",
    "LocalPass",
    "MultiHeadAttention",
    "Observation",
    "Outcome",
    "Predictor",
    "ProjectionModule",
    "RefreshPredictor",
    "SlidingWindowAttention",
    "SpanController",
    "SpanOptions",
    "Spans",
    "StoredController",
    "TensorController",
    "TwoPathAttention",
    "load_controller",
]
