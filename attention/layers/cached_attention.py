"""The global path: multi-head attention that may reuse the keys and values of its last pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import real_tokens, token_mean
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.predictor import RefreshPredictor


@dataclass(frozen=True)
class KeyValueCache:
    """What the global path keeps of a pass for the next one on the same stream, detached.

    Attributes:
        keys: Shape (lanes, heads, tokens, head size).
        values: Same shape.
        refreshed_keys: Which lanes' keys the pass computed anew, boolean (lanes,).
        refreshed_values: The same of the values.
        lengths: Keys of each lane that are no padding, shape (lanes,), integers; all if None.
        summary: Mean of the pass's tokens, shape (lanes, dims): what causal decisions of the next
            pass are made from.
    """

    keys: Tensor
    values: Tensor
    refreshed_keys: Tensor
    refreshed_values: Tensor
    lengths: Tensor | None
    summary: Tensor


class AdaptiveUpdateAttention(MultiHeadAttention):
    """Full multi-head attention with an explicit key-value cache.

    On a stream, two small predictors say for each lane whether its keys, and whether its values,
    are computed anew or taken from the pass before. On the CPU only those are computed; on an
    accelerator, where the choice would have to be read back first, all are, and then chosen from.

    The predictors read the mean over the tokens that keys come from; with ``causal``, where that
    would tell of later tokens, the mean of the pass before.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        causal: Whether a token sees none after it; of another sequence, ``xa``, it sees all.

    Example:
        >>> attention = AdaptiveUpdateAttention(16, head=4)
        >>> first, cache = attention(torch.zeros(2, 6, 16))
        >>> second, cache = attention(torch.ones(2, 6, 16), cache=cache)
        >>> second.shape, cache.refreshed_keys.shape
        (torch.Size([2, 6, 16]), torch.Size([2]))
    """

    def __init__(self, dims: int, head: int, causal: bool = False) -> None:
        super().__init__(dims, head, causal)
        self.key_update_predictor = RefreshPredictor(dims)
        self.value_update_predictor = RefreshPredictor(dims)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
        cache: KeyValueCache | None = None,
        refresh: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend over the whole sequence.

        Args:
            x: Where queries come from, shape (lanes, queries, dims).
            xa: Where keys and values come from, shape (lanes, keys, dims); ``x`` if None.
            mask: Boolean (True: may be seen) or added to the scores; broadcastable to (lanes,
                heads, queries, keys).
            key_lengths: Keys of each lane that are no padding, shape (lanes,), integers. What was
                padding in the last pass is computed anew.
            cache: What the last pass over the same lanes gave; None where a stream begins.
            refresh: Whether keys, and values, are computed anew, boolean (lanes, 2); the
                predictors decide if None. Without a cache everything is.

        Returns:
            Output of shape (lanes, queries, dims), and the cache for the next pass.

        Raises:
            ValueError: The cache holds keys of another shape.
        """
        source = x if xa is None else xa
        summary = token_mean(source, key_lengths)
        query = self.query_module(x)
        if cache is None:
            everything = torch.ones(len(x), dtype=torch.bool, device=x.device)
            anew_keys = anew_values = everything
            key, value = self.key_module(source), self.value_module(source)
        else:
            self._check(cache, query.shape, source.shape[1])
            read = (cache.summary if self.causal else summary)[:, None]
            if refresh is None:
                anew_keys = self.key_update_predictor(read)[:, 0]
                anew_values = self.value_update_predictor(read)[:, 0]
            else:
                anew_keys, anew_values = refresh.unbind(-1)
            key = _anew(self.key_module, source, anew_keys, cache.keys, cache.lengths)
            value = _anew(self.value_module, source, anew_values, cache.values, cache.lengths)
        # A copy, as the caller may go on to write into theirs.
        lengths = None if key_lengths is None else key_lengths.clone()
        kept = KeyValueCache(
            key.detach(), value.detach(), anew_keys, anew_values, lengths, summary.detach()
        )
        causal = self.causal and xa is None
        return self._attended(query, key, value, mask, key_lengths, causal), kept

    def _check(self, cache: KeyValueCache, query: torch.Size, keys: int) -> None:
        needed = (*query[:2], keys, query[3])
        if tuple(cache.keys.shape) != needed:
            raise ValueError(
                f"cache holds keys of shape {tuple(cache.keys.shape)}, this pass needs {needed} "
                "(lanes, heads, tokens, head size): begin the stream without a cache"
            )


def _anew(
    module: torch.nn.Module, source: Tensor, anew: Tensor, cached: Tensor, lengths: Tensor | None
) -> Tensor:
    """The cached projections, with those of the chosen lanes computed anew.

    Args:
        module: The projection.
        source: What is projected, shape (lanes, tokens, dims).
        anew: Which lanes are, boolean (lanes,).
        cached: Shape (lanes, heads, tokens, head size).
        lengths: Tokens of each lane that are cached; all if None.
    """
    chosen = anew[:, None].expand(-1, source.shape[1])
    if lengths is not None:
        chosen = chosen | ~real_tokens(source.shape[1], lengths)
    if source.device.type != "cpu" or torch.compiler.is_compiling():
        projected = module(source)
        return torch.where(chosen[:, None, :, None], projected, cached.to(projected.dtype))
    lanes = chosen.any(1).nonzero()[:, 0]
    if len(lanes) == len(anew) and chosen.all():
        return module(source)
    # Without a lane, for its type: the caller's autocast may have changed it.
    projected = module(source[lanes])
    cached = cached.to(projected.dtype)
    merged = torch.where(chosen[lanes][:, None, :, None], projected, cached[lanes])
    return cached.index_copy(0, lanes, merged)
