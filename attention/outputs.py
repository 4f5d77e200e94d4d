"""What one pass through a layer did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spangym.attention.attention_stats import AttentionStats
from spangym.attention.features import features, quality, state_ids
from spangym.attention.layers.cached_attention import KeyValueCache


@dataclass(frozen=True)
class LayerCache:
    """What a layer keeps of a pass for the next one on the same stream, detached.

    Attributes:
        key_value: Keys and values of the global path; None if it keeps none.
        global_mean: Mean of the global output, shape (lanes, dims).
        features: Features of the local path's input, shape (lanes, 2 * dims).
        observed: What a `TensorController` that decides from the previous pass observed of it,
            lanes first; None without one.
    """

    key_value: KeyValueCache | None
    global_mean: Tensor
    features: Tensor
    observed: Tensor | None = None


def check_cache(cache: LayerCache, lanes: int, dims: int) -> None:
    """Refuse what is no cache of so many lanes.

    Raises:
        ValueError: The message says what would be right.
    """
    if not isinstance(cache, LayerCache):
        raise ValueError(f"cache is a {type(cache).__name__}; it must be an outcome's `cache`")
    if cache.global_mean.shape != (lanes, dims):
        raise ValueError(
            f"cache is of shape {tuple(cache.global_mean.shape)} (lanes, dims), this pass needs "
            f"{(lanes, dims)}: begin the stream without a cache"
        )


@dataclass(frozen=True)
class Outcome:
    """What one pass through a layer did; tensors are on the layer's device.

    Attributes:
        output: Output of the layer, shape (lanes, tokens, dims).
        local_input: Normalised input of the local path, same shape.
        local_output: Output of the local path, same shape; zero where a lane is off.
        scale: Span scale ``m`` of each lane, shape (lanes,), in [0, 1].
        window: Window of each lane in tokens, shape (lanes,), int64.
        span: Span of each lane in tokens, shape (lanes,), int64; 0 where a lane is off.
        visited_keys: Query-key pairs that the local path scored, over all its passes, shape
            (lanes,), int64.
        focus_steps: Passes of iterative focus, shape (lanes,), int64.
        features: What the decision was to be made from, shape (lanes, 2 * dims): of the local
            input, in a causal layer of the pass before or of the first token.
        cache: What the next pass on the same stream is handed.
        lengths: Tokens of each lane that are no padding, shape (lanes,); all if None.
        stats: Statistics of the local path's attention weights, if asked for.
    """

    output: Tensor
    local_input: Tensor
    local_output: Tensor
    scale: Tensor
    window: Tensor
    span: Tensor
    visited_keys: Tensor
    focus_steps: Tensor
    features: Tensor
    cache: LayerCache
    lengths: Tensor | None = None
    stats: AttentionStats | None = None

    @property
    def reward(self) -> Tensor:
        """Quality of each lane's local output, shape (lanes,)."""
        return quality(self.local_output, self.lengths).quality

    @property
    def state(self) -> list[int]:
        """State id of each lane, that decisions are made from; copies to the host."""
        return state_ids(self.features)

    @property
    def next_state(self) -> list[int]:
        """State id of each lane's local output, the original's bootstrap; copies to the host."""
        return state_ids(features(self.local_output, self.lengths))
