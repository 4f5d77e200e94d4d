"""What an attention span may be, typed and checked: one list for every layer that has one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.temperature import TemperatureLaw, check_temperature_law


@dataclass(frozen=True)
class SpanConfig:
    """Options of span-limited attention.

    Attributes:
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        temperature_law: The temperature law: see `spangym.attention.temperature`.
        scale_weights: Whether attention weights are multiplied by ``1 / m``, ``m`` the span scale.
        causal: Whether a token sees none after it.
        soft_span: Whether the edge of the interval fades out, which gives the span a gradient.
        soft_edge_width: Tokens over which a soft edge fades out, at least 1.

    Raises:
        ValueError: An option breaks its rule; the message names both.
    """

    win_size: int = 256
    max_span: int = 384
    max_dist: int = 512
    temp_scale: float = 0.01
    temperature_law: TemperatureLaw = "longer"
    scale_weights: bool = False
    causal: bool = False
    soft_span: bool = False
    soft_edge_width: int = 32

    def __post_init__(self) -> None:
        win_size, max_span, max_dist = self.win_size, self.max_span, self.max_dist
        check_ints(
            win_size=win_size,
            max_span=max_span,
            max_dist=max_dist,
            soft_edge_width=self.soft_edge_width,
        )
        check(
            [
                (win_size >= 1, f"win_size must be at least 1, got {win_size}"),
                (
                    max_span >= win_size,
                    f"max_span must be at least win_size, got max_span={max_span}, "
                    f"win_size={win_size}",
                ),
                (
                    max_dist >= win_size,
                    f"max_dist must be at least win_size, got max_dist={max_dist}, "
                    f"win_size={win_size}",
                ),
                (
                    0 <= self.temp_scale < math.inf,
                    f"temp_scale must be at least 0 and finite, got {self.temp_scale}",
                ),
                (
                    self.soft_edge_width >= 1,
                    f"soft_edge_width must be at least 1, got {self.soft_edge_width}",
                ),
            ]
        )
        check_temperature_law(self.temperature_law)

    def visible_range(self, spans: SpanGeometry, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of what each query sees of its own sequence.

        Args:
            spans: Windows and spans.
            tokens: Length of the sequences.

        Returns:
            As `SpanGeometry.intervals` gives them.
        """
        return spans.intervals(tokens)


def check_sizes(ctx: int, dims: int, head: int) -> None:
    """Refuse sizes of a layer that break a rule.

    Raises:
        ValueError: A size breaks its rule; the message names both.
    """
    check_ints(ctx=ctx, dims=dims, head=head)
    check(
        [
            (ctx >= 1, f"ctx must be at least 1, got {ctx}"),
            (dims >= 4, f"dims must be at least 4, got {dims}"),
            (head >= 1, f"head must be at least 1, got {head}"),
            (head < 1 or dims % head == 0, f"head must divide dims, got head={head}, dims={dims}"),
        ]
    )


def check_ints(**numbers: int) -> None:
    """Refuse what is no integer; a ``ValueError`` names it."""
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{name} must be an integer, got {number!r}")


def check(rules: Iterable[tuple[bool, str]]) -> None:
    """Raise a ``ValueError`` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
