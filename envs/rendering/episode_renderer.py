"""What an environment shows of itself: the keys that each query sees, in text and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from spangym.attention.geometry import SoftEdge, SpanGeometry
from spangym.attention.span_config import SpanConfig
from spangym.envs.env_config import EnvConfig, full_qk_pairs
from spangym.envs.rendering.canvas import MUTED, Canvas

RENDER_MODES = ("ansi", "rgb_array")

_CELLS = 32
"""Characters of a layer's bar."""
_SHADES = " ░▒▓█"

# In pixels. Sides of a picture are multiples of 16, as video encoders like them.
_CELL = 320
"""Side of the square that a layer's panel stands in."""
_PANEL = 240
_LEFT = 56
"""From the left edge of a cell to its panel."""
_TITLE = 44
"""From the upper edge of a cell to its panel."""
_HEADER = 48
_HISTORY = 176
_COLUMNS = 4
_LEAST_WINDOW = 6
"""Height of a window from which a line is drawn between it and the next."""
_ROWS = 4
"""Queries drawn in a row of pixels, where there are as many."""

_LONGEST = 45
"""Letters of a content type's name that there is room for."""

# Okabe and Ito's colors, which the color-blind can tell apart; layers beyond begin again.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_UNSEEN = 0.95
"""Gray of keys that are not seen."""


@dataclass(frozen=True)
class LayerDecision:
    """A decision for one layer, as it is drawn.

    Attributes:
        window: Queries that share an interval of keys.
        span: Keys from the first query of a window on; 0 where the local path is off.
        reward: What the decision earned.
        attention_fraction: Visited keys, all passes together, in those of one full attention.
    """

    window: int
    span: int
    reward: float
    attention_fraction: float

    def spans(self, options: SpanConfig) -> SpanGeometry:
        """Which keys the queries of a layer with such options see."""
        span = torch.tensor([self.span])
        edge = SoftEdge(span.double(), options.soft_edge_width) if options.soft_span else None
        return SpanGeometry(torch.tensor([self.window]), span, options.causal, edge=edge)

    def intervals(self, options: SpanConfig, ctx: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """First key and end of the interval that each of ``ctx`` queries sees, shape (ctx,)."""
        first, end = options.visible_range(self.spans(options), ctx)
        return first[0].numpy(), end[0].numpy()

    def coverage(
        self, options: SpanConfig, ctx: int, queries: NDArray[np.integer[Any]], cells: int
    ) -> NDArray[np.float64]:
        """How much of the keys some queries see, where the keys are cut in equal cells.

        Args:
            options: Of the layer.
            ctx: Tokens of the chunk.
            queries: Positions of the queries, shape (queries,).
            cells: How many cells.

        Returns:
            Share of each cell that is seen, shape (queries, cells).
        """
        first, end = (each[queries, None] for each in self.intervals(options, ctx))
        edges = np.linspace(0, ctx, cells + 1)
        seen = np.minimum(edges[1:], end) - np.maximum(edges[:-1], first)
        return np.clip(seen * cells / ctx, 0, 1)


@dataclass(frozen=True)
class EpisodeRenderer:
    """An episode so far, as it is drawn.

    Attributes:
        config: Of the environment.
        options: Of the spans of each layer.
        content_type: What the chunk is that was last decided on, or is first to be.
        decisions: Decisions of the episode.
    """

    config: EnvConfig
    options: tuple[SpanConfig, ...]
    content_type: str = ""
    decisions: tuple[LayerDecision, ...] = ()

    @property
    def chunk(self) -> int:
        """Index of the chunk that was last decided on."""
        return max(0, len(self.decisions) - 1) // self.config.num_layers

    @property
    def chunk_decisions(self) -> tuple[LayerDecision, ...]:
        """Decisions for the chunk's layers, as many as have been taken."""
        return self.decisions[self.chunk * self.config.num_layers :]

    @property
    def episode_return(self) -> float:
        """Sum of all rewards of the episode."""
        return sum(decision.reward for decision in self.decisions)

    @property
    def mean_attention_fraction(self) -> float:
        """Mean share of visited keys of the episode's decisions; 0 before the first."""
        return sum(decision.attention_fraction for decision in self.decisions) / max(
            1, len(self.decisions)
        )

    def with_step(self, reward: float, info: Mapping[str, Any]) -> EpisodeRenderer:
        """The picture after one more step."""
        pairs = full_qk_pairs(self.config.ctx, self.options[info["layer"]].causal)
        decision = LayerDecision(info["window"], info["span"], reward, info["qk_pairs"] / pairs)
        return dataclasses.replace(
            self, content_type=info["content_type"], decisions=(*self.decisions, decision)
        )

    def state_dict(self) -> dict[str, Any]:
        """What an episode changes, as JSON can hold it."""
        return {
            "content_type": self.content_type,
            "decisions": [*map(dataclasses.asdict, self.decisions)],
        }

    def from_state(self, state: Mapping[str, Any]) -> EpisodeRenderer:
        """The picture of the same environment in the state that `state_dict` gave."""
        decisions = tuple(LayerDecision(**decision) for decision in state["decisions"])
        return dataclasses.replace(self, content_type=state["content_type"], decisions=decisions)

    def __str__(self) -> str:
        """The picture as text: a line for each layer, between where the episode is and totals.

        The bar of a layer is its keys from the first to the last, dark where the query in the
        middle of the chunk sees them.
        """
        lines = [f"chunk {self.chunk + 1}/{self.config.chunks_per_episode}  {self.content_type}"]
        for layer, options in enumerate(self.options):
            decided = self.chunk_decisions[layer : layer + 1]
            said = self._line(decided[0], options) if decided else "not yet decided"
            lines.append(f"layer {layer}  {said}")
        lines.append(
            f"return {self.episode_return:+.3g}, mean visited keys {_percent(self.mean_attention_fraction)}, "
            f"decision {len(self.decisions)}/{self.config.chunks_per_episode * self.config.num_layers}"
        )
        return "\n".join(lines)

    def _line(self, decision: LayerDecision, options: SpanConfig) -> str:
        size = "off" if not decision.span else f"window {decision.window:4}  span {decision.span:4}"
        seen = _bar(decision, options, self.config.ctx)
        return f"{size:22}  visited {_percent(decision.attention_fraction):>6}  reward {decision.reward:+10.3g}  ▕{seen}▏"

    def rgb_array(self) -> NDArray[np.uint8]:
        """The picture as an image, uint8 of shape (height, width, 3).

        Its size depends on the number of layers alone. Of each layer it shows which keys (to the
        right) each query (downwards) sees, below that the rewards and the visited keys of all
        decisions of the episode.
        """
        layers = len(self.options)
        rows = -(-layers // _COLUMNS)
        columns = -(-layers // rows)
        canvas = Canvas(max(2, columns) * _CELL, _HEADER + rows * _CELL + _HISTORY)
        canvas.text(
            24, 32, f"chunk {self.chunk + 1} of {self.config.chunks_per_episode}", 13, weight="bold"
        )
        canvas.text(canvas.width - 24, 32, self.content_type[-_LONGEST:], 13, ha="right")
        margin = (canvas.width - columns * _CELL) // 2 + _LEFT
        for layer in range(layers):
            row, column = divmod(layer, columns)
            left, top = margin + column * _CELL, _HEADER + row * _CELL + _TITLE
            self._draw_layer(canvas, left, top, layer)
            self._draw_axes(canvas, left, top, keys=layer + columns >= layers, queries=not column)
        self._draw_history(
            canvas,
            _LEFT,
            f"reward, sum {self.episode_return:+.3g}",
            [decision.reward for decision in self.decisions],
            "{:+.2g}".format,
        )
        self._draw_history(
            canvas,
            canvas.width // 2 + _LEFT,
            f"visited of full attention, mean {_percent(self.mean_attention_fraction)}",
            [decision.attention_fraction for decision in self.decisions],
            _percent,
        )
        return canvas.rgb_array()

    def _draw_layer(self, canvas: Canvas, left: int, top: int, layer: int) -> None:
        canvas.text(left, top - 26, f"layer {layer}", 10, weight="bold")
        decided = self.chunk_decisions[layer : layer + 1]
        if decided:
            self._draw_decision(canvas, left, top, layer, decided[0])
        else:
            canvas.rect(left, top, left + _PANEL, top + _PANEL, "#dcdcdc")
            _write_in_panel(canvas, left, top, "not yet decided")
        canvas.outline(left, top, _PANEL, _PANEL)

    def _draw_axes(self, canvas: Canvas, left: int, top: int, *, keys: bool, queries: bool) -> None:
        middle, end = _PANEL / 2, f"{self.config.ctx}"
        if keys:
            bottom = top + _PANEL + 14
            for x, said in ((0, "0"), (middle, "keys"), (_PANEL, end)):
                canvas.text(left + x, bottom, said, 8, ha="center")
        if queries:
            style = {"ha": "right", "va": "center"}
            canvas.text(left - 6, top, "0", 8, **style)
            canvas.text(left - 6, top + middle, "queries", 8, rotation=90, **style)
            canvas.text(left - 6, top + _PANEL, end, 8, **style)

    def _draw_decision(
        self, canvas: Canvas, left: int, top: int, layer: int, decision: LayerDecision
    ) -> None:
        size = f"window {decision.window}, span {decision.span}" if decision.span else "off"
        canvas.text(left + _PANEL, top - 26, size, 10, ha="right")
        canvas.text(left, top - 9, f"reward {decision.reward:+.3g}", 9, color=MUTED)
        canvas.text(
            left + _PANEL,
            top - 9,
            f"visited {_percent(decision.attention_fraction)}",
            9,
            color=MUTED,
            ha="right",
        )
        canvas.image(left, top, _paint(decision, self.options[layer], self.config.ctx, layer))
        if not decision.span:
            _write_in_panel(canvas, left, top, "off")

    def _draw_history(
        self,
        canvas: Canvas,
        left: int,
        title: str,
        values: list[float],
        write: Callable[[float], str],
    ) -> None:
        """A bar for each decision of the episode so far, in the color of its layer."""
        layers, chunks = self.config.num_layers, self.config.chunks_per_episode
        top, width, height = canvas.height - _HISTORY + 32, canvas.width // 2 - _CELL + _PANEL, 100
        canvas.text(left, top - 16, title, 9)
        colors = [_color(layer) for layer in range(layers)]
        canvas.bar_chart((left, top, width, height), values, chunks * layers, colors, write)
        below = top + height + 18
        canvas.text(left, below, "0", 8, ha="center")
        canvas.text(left + width / 2, below, "chunks", 8, ha="center")
        canvas.text(left + width, below, f"{chunks}", 8, ha="center")


def _bar(decision: LayerDecision, options: SpanConfig, ctx: int) -> str:
    """The interval of the query in the middle, in characters."""
    (covered,) = decision.coverage(options, ctx, np.array([ctx // 2]), min(_CELLS, ctx))
    levels = np.ceil(covered * (len(_SHADES) - 1) - 1e-9).astype(int)
    return "".join(_SHADES[level] for level in levels)


def _paint(
    decision: LayerDecision, options: SpanConfig, ctx: int, layer: int
) -> NDArray[np.float64]:
    """A decision in the color of its layer, shape (panel, panel, 3)."""
    queries = np.arange(_ROWS * _PANEL) * ctx // (_ROWS * _PANEL)
    covered = (
        decision.coverage(options, ctx, queries, _PANEL).reshape(_PANEL, _ROWS, _PANEL).mean(1)
    )
    if decision.window * _PANEL >= _LEAST_WINDOW * ctx:
        for start in range(decision.window, ctx, decision.window):
            line = start * _PANEL // ctx
            # A light line where the windows on both sides see keys.
            covered[line] *= 1 - 0.8 * covered[line - 1]
    seen = covered[..., None]
    return seen * to_rgb(_color(layer)) + (1 - seen) * _UNSEEN


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 1 else 1}f}%"


def _color(layer: int) -> str:
    return _COLORS[layer % len(_COLORS)]


def _write_in_panel(canvas: Canvas, left: int, top: int, text: str) -> None:
    middle = (left + _PANEL / 2, top + _PANEL / 2)
    canvas.text(*middle, text, 10, color=MUTED, ha="center", va="center")
