"""The span options of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.validation import check
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import NonNegativeFloat, PositiveInt, normalize_fields
from spangym.utils.suggestions import did_you_mean

ActionScale = Literal["relative", "absolute"]

GlobalPath = Literal["full", "pooled", "none"]


@dataclass(frozen=True)
class SpanConfig:
    """Span options of a layer and its local path.

    Attributes:
        win_size: Window at span scale 1, in tokens, at least 1.
        max_span: Span at span scale 1, in tokens, at least ``win_size``.
        max_dist: Upper bound on the span, in tokens, at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        temperature_law: Name of the temperature law (`spangym.attention.temperature`).
        scale_weights: Whether local attention weights are multiplied by ``1 / m``.
        causal: Whether a token attends only to itself and earlier tokens.
        soft_span: Whether the interval fades out at its edges, which gives the span predictor a
            gradient (`spangym.attention.geometry.SoftEdge`).
        soft_edge_width: Width of a soft edge, in tokens, at least 1.
        action_scale: Meaning of an action ``a`` of ``A``: ``relative``, the fraction
            ``a / (A - 1)`` of the predicted span; ``absolute``, of the longest span.
        local_projections: Whether the local path learns query, key and value projections.
        num_refinement_steps: Largest number of refinement passes, at least 1.
        num_induction_heads: Number of local heads with shifted keys (`SlidingWindowAttention`).
        global_path: What the global path attends to: ``full``, to every token; ``pooled``, to means
            of blocks of tokens (`PooledAttention`); ``none``: there is no global path, and the span
            predictor reads its input.
        pool: Tokens of a block of the pooled global path, at least 1.
        use_refresh_predictors: Whether the global path's refresh predictors decide which keys and
            values of a stream are recomputed (`AdaptiveUpdateAttention`). Nothing here trains
            them; all are recomputed by default.

    Raises:
        TypeError: An option has another type.
        ValueError: An option breaks its rule.
    """

    __repr__ = readable_repr

    win_size: PositiveInt = 256
    max_span: int = 384
    max_dist: int = 512
    temp_scale: NonNegativeFloat = 0.01
    temperature_law: TemperatureLaw = "longer"
    scale_weights: bool = False
    causal: bool = False
    soft_span: bool = False
    soft_edge_width: PositiveInt = 32
    action_scale: ActionScale = "relative"
    local_projections: bool = False
    num_refinement_steps: PositiveInt = 10
    num_induction_heads: int = 0
    global_path: GlobalPath = "full"
    pool: PositiveInt = 16
    use_refresh_predictors: bool = False

    def __post_init__(self) -> None:
        normalize_fields(self)
        window, span, dist = self.win_size, self.max_span, self.max_dist
        and_window = f"win_size={window}"
        check(
            [
                (span >= window, f"max_span must be at least win_size, got {span}, {and_window}"),
                (dist >= window, f"max_dist must be at least win_size, got {dist}, {and_window}"),
            ]
        )
        for name, known in (
            ("temperature_law", TemperatureLaw),
            ("action_scale", ActionScale),
            ("global_path", GlobalPath),
        ):
            value, names = getattr(self, name), get_args(known)
            if value not in names:
                hint = did_you_mean(str(value), names)
                raise ValueError(
                    f"{name} must be one of {', '.join(names)}, got {short_repr(value)}{hint}"
                )

    def visible_range(self, spans: SpanGeometry, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of the keys of each query in self-attention over ``tokens`` tokens."""
        return spans.intervals(tokens)
