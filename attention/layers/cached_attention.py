"""The global path: multi-head attention that may reuse the keys and values of its last pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import sequence_mask, token_mean
from spangym.attention.layers.modules import RefreshPredictor
from spangym.attention.layers.multi_head import MultiHeadAttention


@dataclass(frozen=True)
class KeyValueCache:
    """What the global path keeps of a pass for the next one on the same stream, detached.

    Attributes:
        keys: Shape (batch, heads, tokens, head size).
        values: Same shape.
        recomputed_keys: Which sequences' keys the pass computed anew, boolean (batch,).
        recomputed_values: The same of the values.
        lengths: Keys of each sequence that are no padding, shape (batch,), integers; all if None.
        mean_token: Mean of the pass's tokens, shape (batch, dims): what causal decisions of the next
            pass are made from.
    """

    keys: Tensor
    values: Tensor
    recomputed_keys: Tensor
    recomputed_values: Tensor
    lengths: Tensor | None
    mean_token: Tensor


class AdaptiveUpdateAttention(MultiHeadAttention):
    """Full multi-head attention with an explicit key-value cache.

    On a stream, two small predictors say for each sequence whether its keys, and whether its values,
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
        >>> second.shape, cache.recomputed_keys.shape
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
        recompute_kv: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend over the whole sequence.

        Args:
            x: Where queries come from, shape (batch, queries, dims).
            xa: Where keys and values come from, shape (batch, keys, dims); ``x`` if None.
            mask: Boolean (True: may be seen) or added to the scores; broadcastable to (batch,
                heads, queries, keys).
            key_lengths: Keys of each sequence that are no padding, shape (batch,), integers. What was
                padding in the last pass is computed anew.
            cache: What the last pass over the same sequences gave; None where a stream begins.
            recompute_kv: Whether keys, and values, are computed anew, boolean (batch, 2); the
                predictors decide if None. Without a cache everything is.

        Returns:
            Output of shape (batch, queries, dims), and the cache for the next pass.

        Raises:
            ValueError: The cache holds keys of another shape.
        """
        source = x if xa is None else xa
        mean_token = token_mean(source, key_lengths)
        query = self.query_module(x)
        if cache is None:
            everything = torch.ones(len(x), dtype=torch.bool, device=x.device)
            recompute_keys = recompute_values = everything
            key, value = self.key_module(source), self.value_module(source)
        else:
            self._check(cache, query.shape, source.shape[1])
            read = (cache.mean_token if self.causal else mean_token)[:, None]
            if recompute_kv is None:
                recompute_keys = self.key_update_predictor(read)[:, 0]
                recompute_values = self.value_update_predictor(read)[:, 0]
            else:
                recompute_keys, recompute_values = recompute_kv.unbind(-1)
            key = _recompute(self.key_module, source, recompute_keys, cache.keys, cache.lengths)
            value = _recompute(
                self.value_module, source, recompute_values, cache.values, cache.lengths
            )
        # A copy, as the caller may go on to write into theirs.
        lengths = None if key_lengths is None else key_lengths.clone()
        kept = KeyValueCache(
            key.detach(),
            value.detach(),
            recompute_keys,
            recompute_values,
            lengths,
            mean_token.detach(),
        )
        causal = self.causal and xa is None
        return self._attend(query, key, value, mask, key_lengths, causal), kept

    def _check(self, cache: KeyValueCache, query: torch.Size, keys: int) -> None:
        needed = (*query[:2], keys, query[3])
        if tuple(cache.keys.shape) != needed:
            raise ValueError(
                f"cache holds keys of shape {tuple(cache.keys.shape)}, this pass needs {needed} "
                "(batch, heads, tokens, head size): begin the stream without a cache"
            )


def _recompute(
    module: torch.nn.Module,
    source: Tensor,
    recompute: Tensor,
    cached: Tensor,
    lengths: Tensor | None,
) -> Tensor:
    """The cached projections, with those of the chosen sequences computed anew.

    Args:
        module: The projection.
        source: What is projected, shape (batch, tokens, dims).
        recompute: Which sequences are, boolean (batch,).
        cached: Shape (batch, heads, tokens, head size).
        lengths: Tokens of each sequence that are cached; all if None.
    """
    chosen = recompute[:, None].expand(-1, source.shape[1])
    if lengths is not None:
        chosen = chosen | ~sequence_mask(source.shape[1], lengths)
    if source.device.type != "cpu" or torch.compiler.is_compiling():
        projected = module(source)
        return torch.where(chosen[:, None, :, None], projected, cached.to(projected.dtype))
    indices = chosen.any(1).nonzero()[:, 0]
    if len(indices) == len(recompute) and chosen.all():
        return module(source)
    # Without a sequence, for its type: the caller's autocast may have changed it.
    projected = module(source[indices])
    cached = cached.to(projected.dtype)
    merged = torch.where(chosen[indices][:, None, :, None], projected, cached[indices])
    return cached.index_copy(0, indices, merged)
