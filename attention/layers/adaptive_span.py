"""Attention of given queries, keys and values within a span."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import (
    AttentionStats,
    compute_attention_stats,
    full_log_sum_exp,
)
from spangym.attention.features import zero_padding
from spangym.attention.geometry import SoftEdge, SpanGeometry
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.kernels.reference import attention_weights, score_bias
from spangym.attention.kernels.select import select_kernel
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.original.truncation import (
    OriginalSpanConfig,
    parse_fixes,
    truncated_attention,
)
from spangym.attention.span_config import SpanConfig
from spangym.attention.temperature import MIN_TEMPERATURE, TemperatureLaw, temperature
from spangym.attention.validation import (
    check_floats,
    check_lengths,
    check_mask,
    check_values,
)
from spangym.utils.readable_repr import readable_repr
from spangym.utils.scalars import as_int


class LocalAttentionOutput(NamedTuple):
    """Results of attention within a span.

    Attributes:
        output: Shape (batch, queries, dims); 0 for a sequence with span scale 0.
        spans: Window and span of each sequence.
        qk_pairs: Query-key pairs scored, over all refinement passes, shape (batch,), int64. Only
            pairs that the result needs count; a kernel that works in blocks may score more.
        num_refinement_steps: Most refinement passes of a query, shape (batch,), int64.
        stats: Statistics of the attention weights; None unless requested.
        weights: Attention weights of each query's last pass, shape (batch, heads, queries, keys),
            multiplied by ``1 / m`` with ``scale_weights``; None unless requested.
    """

    __repr__ = readable_repr

    output: Tensor
    spans: SpanGeometry
    qk_pairs: Tensor
    num_refinement_steps: Tensor
    stats: AttentionStats | None = None
    weights: Tensor | None = None


class AdaptiveSpan(nn.Module):
    """Attention of given queries, keys and values within a span.

    Queries are cut into windows of ``w = max(1, int(win_size · m))`` tokens, ``m`` the span scale.
    With the span ``S = max(1, int(max_span · m))``, a window that starts at ``s`` attends to the
    keys in ``[s - (S - w), s + S)``. Scores are ``q·k / (sqrt(head size) · T)``, ``T`` the
    temperature: the only parameter, where it is learned. With ``soft_span`` the interval fades out
    at its edges, which gives the span scale a gradient (Sukhbaatar et al., Adaptive Attention Span
    in Transformers, 2019).

    Args:
        head: Number of heads.
        config: Span options.

    Example:
        >>> attention = AdaptiveSpan(2, SpanConfig(win_size=4, max_span=8))
        >>> q = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(0))
        >>> local = attention(q, q, q, torch.tensor([0.0, 0.5, 1.0]))
        >>> local.spans.span.tolist(), local.output[0].abs().max().item()
        ([0, 4, 8], 0.0)
    """

    def __init__(self, head: int, config: SpanConfig) -> None:
        super().__init__()
        self.head = as_int("head", head, 1)
        self.config = config
        self.log_temperature: nn.Parameter | None = None
        if config.temperature_law == "learned":
            self.log_temperature = nn.Parameter(torch.zeros(self.head))

    def extra_repr(self) -> str:
        """Heads and span options."""
        return f"head={self.head}, config={self.config}"

    @classmethod
    def original(
        cls,
        head: int,
        max_dist: int = 512,
        max_span: int = 384,
        temp_scale: float = 0.01,
        *,
        temperature_law: TemperatureLaw = "longer",
        fused: bool = True,
        fixes: str | Iterable[str] = (),
    ) -> AdaptiveSpan:
        """Make the original of this class, `OriginalAdaptiveSpan`.

        Options are those of `SpanConfig`. Fused attention ignores the temperature and is causal
        where a mask is given. ``fixes`` names the defects to fix, of ``temperature``,
        ``local_causal`` and ``cut``, one or several.

        Raises:
            TypeError: A subclass has no original.
            ValueError: An argument breaks its rule.
        """
        if cls is not AdaptiveSpan:
            raise TypeError(f"{cls.__name__} has no original: call AdaptiveSpan.original()")
        config = OriginalSpanConfig(
            win_size=1,
            max_span=max_span,
            max_dist=max_dist,
            temp_scale=temp_scale,
            temperature_law=temperature_law,
            fused=fused,
            fixes=parse_fixes(fixes),
        )
        return OriginalAdaptiveSpan(head, config)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        num_refinement_steps: int = 1,
        is_cross: bool = False,
        return_stats: bool = False,
        return_weights: bool = False,
    ) -> LocalAttentionOutput:
        """Attend within the intervals of the span scales.

        Args:
            q: Queries, shape (batch, queries, dims), float16, bfloat16, float32 or float64.
            k: Keys, shape (batch, keys, dims); they and the values are cast to the queries' dtype.
            v: Values, shape (batch, keys, dims). Passing ``k`` itself saves work.
            scale: Span scale of each sequence, shape (batch,), in [0, 1]; 0 turns a sequence off.
            mask: Boolean (True: attend) or additive mask, broadcastable to (batch, heads, queries,
                keys).
            lengths: Unpadded number of queries of each sequence, shape (batch,), integers. Padding
                may hold any value and has no gradient; its output is 0.
            key_lengths: Unpadded number of keys of each sequence, shape (batch,), integers.
            num_refinement_steps: Largest number of refinement passes.
            is_cross: Whether keys belong to another sequence, which is attended to without
                causality.
            return_stats: Whether to return statistics of the attention weights.
            return_weights: Whether to return the attention weights.

        Raises:
            ValueError: Shapes do not match, or values on the CPU are out of bounds.
        """
        self._check(q, k, v, scale, mask, lengths, key_lengths)
        key = zero_padding(k, key_lengths)
        return self._attend(
            zero_padding(q, lengths),
            key,
            key if v is k else zero_padding(v, key_lengths),
            scale,
            mask,
            lengths,
            key_lengths,
            num_refinement_steps,
            is_cross,
            return_stats,
            return_weights,
        )

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        mask: Tensor | None,
        lengths: Tensor | None,
        key_lengths: Tensor | None,
        num_refinement_steps: int,
        is_cross: bool,
        return_stats: bool,
        return_weights: bool,
        full_lse: Tensor | None = None,
    ) -> LocalAttentionOutput:
        """`forward` with checked arguments and finite padding."""
        spans = self.spans(scale, lengths, key_lengths, is_cross=is_cross)

        dtype = attention_dtype(q)
        query, key = (split_heads(each, self.head).to(dtype) for each in (q, k))
        value = key if v is k else split_heads(v, self.head).to(dtype)
        gain = self._gain(scale, dtype)
        value = value if gain is None else value * gain
        inputs = KernelInputs(
            query,
            key,
            value,
            spans,
            mask,
            steps=num_refinement_steps,
            inverse_temperature=self._inverse_temperature(scale, dtype),
            return_lse=return_stats or return_weights,
        )
        kernel_output = select_kernel(query)(inputs)

        first, end = spans.intervals(q.shape[1], k.shape[1])
        qk_pairs = ((end - first) * kernel_output.passes).sum(-1)
        steps = kernel_output.passes.amax(-1)
        stats = weights = None
        if return_stats:
            weight_stats = compute_attention_stats(inputs, kernel_output, full_lse)
            stats = AttentionStats(spans.window, spans.span, qk_pairs, steps, *weight_stats)
        if return_weights:
            assert kernel_output.last_query is not None
            bias = score_bias(kernel_output.last_query, key, spans, mask)
            weights = attention_weights(kernel_output.last_query, key, bias)
            weights = weights if gain is None else weights * gain
        output = merge_heads(kernel_output.output)
        return LocalAttentionOutput(output, spans, qk_pairs, steps, stats, weights)

    def _gain(self, scale: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Factor of the weights, shape (batch, 1, 1, 1); None if they are not scaled."""
        if not self.config.scale_weights:
            return None
        # The span is at least one token, and a sequence that is off has no weights to scale.
        factor = torch.where(scale > 0, scale.clamp_min(1 / self.config.max_span), 1)
        return factor.reciprocal().to(dtype)[:, None, None, None]

    def full_log_sum_exp(self, q: Tensor, k: Tensor) -> Tensor | None:
        """Log-sum-exp of full attention, to which coverage refers, shape (batch, heads, queries).

        It is None where it depends on the span: with a temperature, or several refinement passes.
        """
        if self.config.temperature_law != "none" or self.config.num_refinement_steps > 1:
            return None
        dtype = attention_dtype(q)
        query, key = (split_heads(each, self.head).to(dtype) for each in (q, k))
        return full_log_sum_exp(KernelInputs(query, key, key, self.spans(q.new_ones(len(q)))))

    def reset_parameters(self) -> None:
        """Set learned temperatures to 1."""
        if self.log_temperature is not None:
            nn.init.zeros_(self.log_temperature)

    def temperature(self, scale: Tensor) -> Tensor:
        """Temperature of each sequence at its span scale, shape (batch,).

        A learned temperature has shape (batch, heads).
        """
        if self.log_temperature is not None:
            bound = -math.log(MIN_TEMPERATURE)
            learned = self.log_temperature.clamp(-bound, bound).exp()
            return learned.expand(*scale.shape, -1)
        return temperature(scale, self.config.temperature_law, self.config.temp_scale)

    def _inverse_temperature(self, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Factor of the queries, shape (batch,); (batch, heads) in their dtype if learned."""
        precise = scale.to(torch.promote_types(scale.dtype, torch.float32))
        inverse = self.temperature(precise).reciprocal()
        return inverse if self.log_temperature is None else inverse.to(dtype)

    def spans(
        self,
        scale: Tensor,
        query_lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        *,
        is_cross: bool = False,
    ) -> SpanGeometry:
        """Windows, spans and visible keys of each sequence; arguments as in `forward`."""
        config = self.config
        spans = SpanGeometry.from_scale(
            scale, win_size=config.win_size, max_span=config.max_span, max_dist=config.max_dist
        )
        edge = None
        if config.soft_span:
            reach = (scale.float() * config.max_span).clamp_max(config.max_dist)
            edge = SoftEdge(reach, config.soft_edge_width)
        return dataclasses.replace(
            spans,
            causal=config.causal and not is_cross,
            per_query_convergence=config.causal,
            query_lengths=query_lengths,
            key_lengths=key_lengths,
            edge=edge,
        )

    def _check(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        mask: Tensor | None,
        lengths: Tensor | None,
        key_lengths: Tensor | None,
    ) -> None:
        check_floats(q=q, k=k, v=v, scale=scale)
        if q.ndim != 3 or 0 in q.shape or q.shape[-1] % self.head:
            raise ValueError(
                f"q has shape {tuple(q.shape)}; it must be (batch, queries, dims), none of them 0, "
                f"with dims a multiple of the {self.head} heads"
            )
        if k.ndim != 3 or k.shape[::2] != q.shape[::2] or k.shape[1] == 0 or v.shape != k.shape:
            raise ValueError(
                f"k and v have shapes {tuple(k.shape)} and {tuple(v.shape)}; both must be "
                f"({q.shape[0]}, keys, {q.shape[2]}) with at least one key"
            )
        if scale.shape != q.shape[:1]:
            raise ValueError(
                f"scale has shape {tuple(scale.shape)}; it must be ({q.shape[0]},), one a sequence"
            )
        check_values("scale", scale, 0, 1)
        check_mask(mask, (*q.shape[:1], self.head, q.shape[1], k.shape[1]))
        check_lengths("lengths", lengths, *q.shape[:2])
        check_lengths("key_lengths", key_lengths, *k.shape[:2])


def attention_dtype(x: Tensor) -> torch.dtype:
    """Dtype of the queries, keys and values of an input: autocast's, if it is on."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class OriginalAdaptiveSpan(AdaptiveSpan):
    """The original's `AdaptiveSpan`, made by `AdaptiveSpan.original`.

    The first queries attend to as many first keys (`truncated_attention`), within the mean span
    scale of the batch. Of a mask only its presence matters.
    """

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        num_refinement_steps: int = 1,
        is_cross: bool = False,
        return_stats: bool = False,
        return_weights: bool = False,
    ) -> LocalAttentionOutput:
        """Attend like `AdaptiveSpan.forward`; the output has shape (batch, n, dims).

        Raises:
            ValueError: Shapes do not match, or an argument is given that the original lacks.
        """
        self._check(q, k, v, scale, mask, lengths, key_lengths)
        if (
            lengths is not None
            or key_lengths is not None
            or num_refinement_steps != 1
            or return_stats
            or return_weights
        ):
            raise ValueError("the original has no lengths, refinement, statistics or weights")
        del is_cross
        config = cast(OriginalSpanConfig, self.config)
        mean = float(scale.detach().double().mean())
        exact = torch.tensor(mean, dtype=torch.float64)
        divisor = float(temperature(exact, config.temperature_law, config.temp_scale))
        is_causal = config.slice_causal and mask is not None
        output = truncated_attention(
            q,
            k.to(q.dtype),
            v.to(q.dtype),
            scale=mean,
            head=self.head,
            config=config,
            temperature=divisor if config.uses_temperature else None,
            causal=is_causal,
        )
        queries = output.shape[1]
        keys = queries if config.truncate_keys else k.shape[1]
        visible = torch.ones(queries, keys)
        pairs = int((visible.tril() if is_causal else visible).sum())
        window, span, qk_pairs, steps = (
            torch.full((len(q),), each, device=q.device)
            for each in (queries, keys, pairs, min(queries, 1))
        )
        return LocalAttentionOutput(output, SpanGeometry(window, span), qk_pairs, steps)
