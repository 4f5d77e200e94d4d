"""Results of one pass through a layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spangym.attention.attention_stats import AttentionStats
from spangym.attention.features import NUM_STATES, quality, token_moments, tuple_hash_ids
from spangym.attention.layers.cached_attention import KeyValueCache
from spangym.utils.readable_repr import readable_repr


@dataclass(frozen=True)
class LayerCache:
    """State that a layer passes to its next pass over the same stream, detached.

    Attributes:
        key_value: Keys and values of the global path; None if it keeps none.
        global_mean: Token mean of the global output, shape (batch, dims).
        obs_features: Features of the local path's input, shape (batch, 2 * dims).
        controller_obs: Observation of a `BatchController` with ``observation_time="previous"``,
            batch first; else None.
    """

    __repr__ = readable_repr

    key_value: KeyValueCache | None
    global_mean: Tensor
    obs_features: Tensor
    controller_obs: Tensor | None = None


def check_cache(cache: LayerCache, batch: int, dims: int) -> None:
    """Raise a ``ValueError`` unless this is a cache of so many sequences."""
    if not isinstance(cache, LayerCache):
        raise ValueError(f"cache is a {type(cache).__name__}; it must be a `LayerOutput.cache`")
    if cache.global_mean.shape != (batch, dims):
        raise ValueError(
            f"cache has shape {tuple(cache.global_mean.shape)} (batch, dims), this pass needs "
            f"{(batch, dims)}: start the stream without a cache"
        )


@dataclass(frozen=True)
class LayerOutput:
    """Results of one pass through a layer, on the layer's device.

    Attributes:
        output: Output of the layer, shape (batch, tokens, dims).
        local_input: Normalized input of the local path, shape (batch, tokens, dims).
        local_output: Output of the local path, shape (batch, tokens, dims); 0 where it is off.
        span_scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1].
        window: Window of each sequence, in tokens, shape (batch,), int64.
        span: Span of each sequence, in tokens, shape (batch,), int64; 0 where the path is off.
        qk_pairs: Query-key pairs scored by the local path over all refinement passes, shape
            (batch,), int64.
        num_refinement_steps: Refinement passes of each sequence, shape (batch,), int64.
        obs_features: Features that the action depends on, shape (batch, 2 * dims): of the local
            input; in a causal layer of the previous pass or of the first token.
        cache: Cache for the next pass over the same stream.
        lengths: Unpadded length of each sequence, shape (batch,); None without padding.
        stats: Statistics of the local attention weights; None unless requested.
        num_states: Number of states; ids are taken modulo ``num_states - 1``.
    """

    __repr__ = readable_repr

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
    num_states: int = NUM_STATES

    @property
    def reward(self) -> Tensor:
        """Quality of the local output of each sequence, shape (batch,)."""
        return quality(self.local_output, self.lengths).quality

    @property
    def state(self) -> list[int]:
        """State id of each sequence before the action; copies to the host."""
        return self.state_ids(self.obs_features, self.num_states)

    @property
    def next_state(self) -> list[int]:
        """State id of the local output, from which the original bootstraps; copies to the host."""
        return self.state_ids(token_moments(self.local_output, self.lengths), self.num_states)

    @staticmethod
    def state_ids(features: Tensor, num_states: int = NUM_STATES) -> list[int]:
        """State id of each row of features, shape (batch, numbers); copies to the host."""
        return tuple_hash_ids(features, num_states)
