"""Options of the original layers, and attention that is cut to its first queries and keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spangym.attention.geometry import SpanGeometry
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.span_config import SpanConfig
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.suggestions import did_you_mean

FIXABLE_DEFECTS = ("temperature", "local_causal", "global_causal", "double_scale", "cut")
"""Names of the defects that can be fixed (`spangym.attention.original.layer`)."""


_LACKED_OPTIONS = (
    "scale_weights",
    "causal",
    "soft_span",
    "local_projections",
    "num_induction_heads",
    "global_path",
)


def parse_fixes(fixes: str | Iterable[str]) -> tuple[str, ...]:
    """Names of defects, without duplicates and in the order of `FIXABLE_DEFECTS`.

    Args:
        fixes: Any number of names, or one name; ``""`` is none.

    Raises:
        TypeError: It is neither a string nor strings.
        ValueError: A name is unknown; the message suggests the closest match.

    Example:
        >>> parse_fixes(["cut", "temperature"]), parse_fixes("cut")
        (('temperature', 'cut'), ('cut',))
    """
    if isinstance(fixes, str):
        names = [fixes] if fixes else []
    else:
        names = [*fixes] if isinstance(fixes, Iterable) else [fixes]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"fixes must be names of defects, such as ['cut'], got {short_repr(fixes)}"
            )
        if name not in FIXABLE_DEFECTS:
            raise ValueError(
                f"fixes {short_repr(name)} is unknown{did_you_mean(name, FIXABLE_DEFECTS)}"
            )
    return tuple(name for name in FIXABLE_DEFECTS if name in names)


@dataclass(frozen=True)
class OriginalSpanConfig(SpanConfig):
    """Span options of the original.

    Attributes:
        fused: Whether attention is fused (causal, without temperature); else it is not causal, and
            scores are ``q·k · head_size ** score_exponent / T``.
        score_exponent: Exponent of the head size in the scores of attention that is not fused.
        fixes: Names of the fixed defects, of `FIXABLE_DEFECTS`. A defect that a layer does not have
            needs no fix: its name changes nothing.

    Raises:
        TypeError: An option has another type.
        ValueError: An option breaks its rule, or the original lacks it.
    """

    __repr__ = readable_repr

    fused: bool = True
    score_exponent: float = 0.0
    fixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fixes", parse_fixes(self.fixes))
        if self.temperature_law == "learned":
            raise ValueError("temperature_law 'learned' is an option that the original lacks")
        for name in _LACKED_OPTIONS:
            if getattr(self, name) != getattr(SpanConfig, name):
                raise ValueError(f"{name} is an option that the original lacks: omit it")

    @property
    def uses_temperature(self) -> bool:
        """Whether scores are divided by the temperature."""
        return not self.fused or "temperature" in self.fixes

    @property
    def slice_causal(self) -> bool:
        """Whether a query attends to no keys of its slice after its own position in it."""
        return self.fused and "local_causal" not in self.fixes

    @property
    def truncate_keys(self) -> bool:
        """Whether a window attends only to as many keys, from the start, as it has queries."""
        return "cut" not in self.fixes

    def spans(self, scale: Tensor) -> SpanGeometry:
        """Windows and spans of the sequences' span scales, shape (batch,)."""
        # The original bounds only what it cuts, where the bound is never reached.
        bound = None if self.truncate_keys else self.max_dist
        spans = SpanGeometry.from_scale(
            scale, win_size=self.win_size, max_span=self.max_span, max_dist=bound
        )
        off = (scale.detach().double() * self.max_span).long() == 0
        return SpanGeometry(spans.window, torch.where(off, 0, spans.span))

    def visible_range(self, spans: SpanGeometry, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of the keys of each query; see `SpanConfig.visible_range`."""
        first, end = spans.intervals(tokens)
        start = spans.window_starts(tokens)
        position = torch.arange(tokens, device=start.device)
        if self.truncate_keys:
            # Positions count from the start of the slice, where the window is not.
            queries = torch.minimum(spans.window[:, None], tokens - start)
            end = first + (position - start + 1 if self.slice_causal else queries)
        elif self.slice_causal:
            end = torch.minimum(end, position + 1)
        return first, torch.where(spans.span[:, None] > 0, end, 0)


def truncated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    head: int,
    config: OriginalSpanConfig,
    temperature: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Attend from the first queries to as many first keys, as the original does.

    Args:
        q: Queries, shape (batch, queries, dims).
        k: Keys, shape (batch, keys, dims).
        v: Values, shape (batch, keys, dims).
        scale: Span scale in [0, 1].
        head: Number of heads.
        config: Span options.
        temperature: Divisor of the scores; None for 1.
        causal: Whether fused attention of query ``i`` is to keys ``0..i`` only.

    Returns:
        Shape (batch, n, dims), ``n = min(int(max_span * scale), queries, keys, max_dist)``. With
        the fix ``cut`` all queries attend to all keys.
    """
    if config.truncate_keys:
        length = min(int(config.max_span * scale), q.shape[1], k.shape[1], config.max_dist)
        q, k, v = (each[:, :length] for each in (q, k, v))
    query, key, value = (split_heads(each, head) for each in (q, k, v))
    return merge_heads(scaled_attention(query, key, value, config, temperature, causal))


def scaled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    config: OriginalSpanConfig,
    temperature: float | None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of split heads, (batch, heads, tokens, head size), in the original's order."""
    if config.fused:
        query = query if temperature is None else query / temperature
        attend = nn.functional.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=mask, is_causal=causal)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** config.score_exponent
    return (scores / (temperature or 1.0)).softmax(-1) @ value
