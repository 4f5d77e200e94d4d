"""Multi-head attention that can reuse the keys and values of its previous pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import sequence_mask, token_mean
from spangym.attention.layers.modules import RefreshPredictor
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.utils.readable_repr import readable_repr


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of a pass for the next one over the same stream, detached.

    Attributes:
        keys: Shape (batch, heads, tokens, head size).
        values: Shape (batch, heads, tokens, head size).
        recomputed_keys: Sequences whose keys the pass recomputed, boolean (batch,).
        recomputed_values: Sequences whose values the pass recomputed, boolean (batch,).
        lengths: Unpadded number of keys of each sequence, shape (batch,); None without padding.
        mean_token: Mean of the tokens, shape (batch, dims): the refresh predictors' input in the
            next causal pass.
    """

    __repr__ = readable_repr

    keys: Tensor
    values: Tensor
    recomputed_keys: Tensor
    recomputed_values: Tensor
    lengths: Tensor | None
    mean_token: Tensor


class AdaptiveUpdateAttention(MultiHeadAttention):
    """Full multi-head attention with an explicit key-value cache.

    On a stream the keys, and the values, of a sequence can be taken from the previous pass. The
    caller decides; without a decision everything is recomputed, as in the original, which writes
    its cache and never reads it. The CPU computes only the projections that it needs. An
    accelerator computes all of them, since reading the decision would synchronize.

    With ``use_refresh_predictors``, two small predictors decide for each sequence. Nothing here
    trains them, so they are off by default. They read the token mean of the key input; with
    ``causal``, where that mean would reveal later tokens, the mean of the previous pass.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        causal: Whether a token attends only to itself and earlier tokens.
        use_refresh_predictors: Whether the refresh predictors decide.

    Example:
        >>> attention = AdaptiveUpdateAttention(16, head=4)
        >>> first, cache = attention(torch.zeros(2, 6, 16))
        >>> second, cache = attention(torch.ones(2, 6, 16), cache=cache)
        >>> second.shape, cache.recomputed_keys.shape
        (torch.Size([2, 6, 16]), torch.Size([2]))
    """

    def __init__(
        self, dims: int, head: int, causal: bool = False, use_refresh_predictors: bool = False
    ) -> None:
        super().__init__(dims, head, causal)
        self.use_refresh_predictors = use_refresh_predictors
        self.key_update_predictor = RefreshPredictor(dims)
        self.value_update_predictor = RefreshPredictor(dims)

    def extra_repr(self) -> str:
        """Causality, and whether the refresh predictors are used."""
        options = [super().extra_repr(), "use_refresh_predictors=True"]
        return ", ".join(filter(None, options[: 1 + self.use_refresh_predictors]))

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
        cache: KeyValueCache | None = None,
        recompute_kv: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend over the whole sequence, with the arguments of `MultiHeadAttention` and a cache.

        ``cache`` is the previous pass's, None at the start of a stream, where all keys and values
        are computed. ``recompute_kv``, boolean of shape (batch, 2), decides for keys and values.
        If it is None, the refresh predictors decide where they are used; else everything is
        recomputed. Keys that were padding are always recomputed.

        Returns:
            Output of shape (batch, queries, dims), and the cache for the next pass.

        Raises:
            ValueError: A shape or type is wrong, or reused keys or values have another shape.
        """
        x, source = self._sources(x, xa, key_lengths)
        mean_token = token_mean(source, key_lengths)
        query = self.query_module(x)
        if cache is not None and recompute_kv is None and self.use_refresh_predictors:
            mean = (cache.mean_token if self.causal else mean_token)[:, None]
            predictors = (self.key_update_predictor, self.value_update_predictor)
            recompute_kv = torch.cat([predictor(mean) for predictor in predictors], dim=-1)
        if cache is None or recompute_kv is None:
            recompute_keys = recompute_values = x.new_ones(x.shape[0], dtype=torch.bool)
            key, value = self.key_module(source), self.value_module(source)
        else:
            needed = (*query.shape[:2], source.shape[1], query.shape[3])
            if tuple(cache.keys.shape) != needed:
                raise ValueError(
                    f"cache holds keys of shape {tuple(cache.keys.shape)}, needed: {needed} "
                    "(batch, heads, tokens, head size): start the stream without a cache"
                )
            recompute_keys, recompute_values = recompute_kv.unbind(-1)
            key = _recompute(self.key_module, source, recompute_keys, cache.keys, cache.lengths)
            value = _recompute(
                self.value_module, source, recompute_values, cache.values, cache.lengths
            )
        new_cache = KeyValueCache(
            key.detach(),
            value.detach(),
            recompute_keys,
            recompute_values,
            # A copy, since the caller may overwrite the tensor.
            None if key_lengths is None else key_lengths.clone(),
            mean_token.detach(),
        )
        causal = self.causal and xa is None
        return self._attend(query, key, value, mask, key_lengths, causal), new_cache


def _recompute(
    module: torch.nn.Module,
    source: Tensor,
    recompute: Tensor,
    cached: Tensor,
    lengths: Tensor | None,
) -> Tensor:
    """Cached projections with those of the sequences in ``recompute``, (batch,), replaced."""
    chosen = recompute[:, None].expand(-1, source.shape[1])
    if lengths is not None:
        chosen = chosen | ~sequence_mask(source.shape[1], lengths)
    if source.device.type != "cpu" or torch.compiler.is_compiling():
        projected = module(source)
        return torch.where(chosen[:, None, :, None], projected, cached.to(projected.dtype))
    indices = chosen.any(1).nonzero()[:, 0]
    if len(indices) == len(recompute) and chosen.all():
        return module(source)
    # Runs even without any sequence: autocast may have changed the dtype since the last pass.
    projected = module(source[indices])
    cached = cached.to(projected.dtype)
    merged = torch.where(chosen[indices][:, None, :, None], projected, cached[indices])
    return cached.index_copy(0, indices, merged)
