"""What one pass through a layer did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spangym.attention.attention_stats import AttentionStats
from spangym.attention.features import quality, token_moments, tuple_hash_ids
from spangym.attention.layers.cached_attention import KeyValueCache


@dataclass(frozen=True)
class LayerCache:
    """What a layer keeps of a pass for the next one on the same stream, detached.

    Attributes:
        key_value: Keys and values of the global path; None if it keeps none.
        global_mean: Mean of the global output, shape (batch, dims).
        obs_features: Features of the local path's input, shape (batch, 2 * dims).
        controller_obs: What a `BatchController` that decides from the previous pass observed of it,
            batch first; None without one.
    """

    key_value: KeyValueCache | None
    global_mean: Tensor
    obs_features: Tensor
    controller_obs: Tensor | None = None


def check_cache(cache: LayerCache, batch: int, dims: int) -> None:
    """Refuse what is no cache of so many sequences.

    Raises:
        ValueError: The message says what would be right.
    """
    if not isinstance(cache, LayerCache):
        raise ValueError(f"cache is a {type(cache).__name__}; it must be an outcome's `cache`")
    if cache.global_mean.shape != (batch, dims):
        raise ValueError(
            f"cache is of shape {tuple(cache.global_mean.shape)} (batch, dims), this pass needs "
            f"{(batch, dims)}: begin the stream without a cache"
        )


@dataclass(frozen=True)
class LayerOutput:
    """What one pass through a layer did; tensors are on the layer's device.

    Attributes:
        output: Output of the layer, shape (batch, tokens, dims).
        local_input: Normalized input of the local path, same shape.
        local_output: Output of the local path, same shape; zero where a sequence is off.
        span_scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1].
        window: Window of each sequence in tokens, shape (batch,), int64.
        span: Span of each sequence in tokens, shape (batch,), int64; 0 where a sequence is off.
        qk_pairs: Query-key pairs that the local path scored, over all its passes, shape
            (batch,), int64.
        num_refinement_steps: Passes of iterative focus, shape (batch,), int64.
        obs_features: What the decision was to be made from, shape (batch, 2 * dims): of the local
            input, in a causal layer of the pass before or of the first token.
        cache: What the next pass on the same stream is handed.
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.
        stats: Statistics of the local path's attention weights, if asked for.
    """

    output: Tensor
    local_input: Tensor
    local_output: Tensor
    span_scale: Tensor
    window: Tensor
    span: Tensor
    qk_pairs: Tensor
    num_refinement_steps: Tensor
    obs_features: Tensor
    cache: LayerCache
    lengths: Tensor | None = None
    stats: AttentionStats | None = None

    @property
    def reward(self) -> Tensor:
        """Quality of each sequence's local output, shape (batch,)."""
        return quality(self.local_output, self.lengths).quality

    @property
    def state(self) -> list[int]:
        """State id of each sequence, that decisions are made from; copies to the host."""
        return tuple_hash_ids(self.obs_features)

    @property
    def next_state(self) -> list[int]:
        """State id of each sequence's local output, the original's bootstrap; copies to the host."""
        return tuple_hash_ids(token_moments(self.local_output, self.lengths))
