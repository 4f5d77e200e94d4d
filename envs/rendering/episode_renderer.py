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

from spangym.attention.geometry import SoftEdge, Spans
from spangym.attention.span_config import SpanOptions
from spangym.envs.env_config import Settings, full_keys
from spangym.envs.rendering.canvas import FAINT, Sheet

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
"""Letters of a source's name that there is room for."""

# Okabe and Ito's colours, which the colour-blind can tell apart; layers beyond begin again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_UNSEEN = 0.95
"""Grey of keys that are not seen."""


@dataclass(frozen=True)
class Band:
    """A decision for one layer, as it is drawn.

    Attributes:
        window: Queries that share an interval of keys.
        span: Keys from the first query of a window on; 0 where the local path is off.
        reward: What the decision earned.
        share: Visited keys, all passes together, in those of one full attention.
    """

    window: int
    span: int
    reward: float
    share: float

    def spans(self, options: SpanOptions) -> Spans:
        """Which keys the queries of a layer with such options see."""
        span = torch.tensor([self.span])
        edge = SoftEdge(span.double(), options.ramp) if options.soft_span else None
        return Spans(torch.tensor([self.window]), span, options.causal, edge=edge)

    def intervals(self, options: SpanOptions, ctx: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """First key and end of the interval that each of ``ctx`` queries sees, shape (ctx,)."""
        first, end = options.seen(self.spans(options), ctx)
        return first[0].numpy(), end[0].numpy()

    def coverage(
        self, options: SpanOptions, ctx: int, queries: NDArray[np.integer[Any]], cells: int
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
class Picture:
    """An episode so far, as it is drawn.

    Attributes:
        settings: Of the environment.
        options: Of the spans of each layer.
        source: What the chunk is that was last decided on, or is first to be.
        bands: Decisions of the episode.
    """

    settings: Settings
    options: tuple[SpanOptions, ...]
    source: str = ""
    bands: tuple[Band, ...] = ()

    @property
    def chunk(self) -> int:
        """Index of the chunk that was last decided on."""
        return max(0, len(self.bands) - 1) // self.settings.layers

    @property
    def chunk_bands(self) -> tuple[Band, ...]:
        """Decisions for the chunk's layers, as many as have been taken."""
        return self.bands[self.chunk * self.settings.layers :]

    @property
    def episode_return(self) -> float:
        """Sum of all rewards of the episode."""
        return sum(band.reward for band in self.bands)

    @property
    def mean_share(self) -> float:
        """Mean share of visited keys of the episode's decisions; 0 before the first."""
        return sum(band.share for band in self.bands) / max(1, len(self.bands))

    def after(self, reward: float, info: Mapping[str, Any]) -> Picture:
        """The picture after one more step."""
        pairs = full_keys(self.settings.ctx, self.options[info["layer"]].causal)
        band = Band(info["window"], info["span"], reward, info["visited_keys"] / pairs)
        return dataclasses.replace(self, source=info["source"], bands=(*self.bands, band))

    def state_dict(self) -> dict[str, Any]:
        """What an episode changes, as JSON can hold it."""
        return {"source": self.source, "bands": [*map(dataclasses.asdict, self.bands)]}

    def restored(self, state: Mapping[str, Any]) -> Picture:
        """The picture of the same environment in the state that `state_dict` gave."""
        bands = tuple(Band(**band) for band in state["bands"])
        return dataclasses.replace(self, source=state["source"], bands=bands)

    def __str__(self) -> str:
        """The picture as text: a line for each layer, between where the episode is and totals.

        The bar of a layer is its keys from the first to the last, dark where the query in the
        middle of the chunk sees them.
        """
        lines = [f"chunk {self.chunk + 1}/{self.settings.chunks}  {self.source}"]
        for layer, options in enumerate(self.options):
            decided = self.chunk_bands[layer : layer + 1]
            said = self._line(decided[0], options) if decided else "not yet decided"
            lines.append(f"layer {layer}  {said}")
        lines.append(
            f"return {self.episode_return:+.3g}, mean visited keys {_percent(self.mean_share)}, "
            f"decision {len(self.bands)}/{self.settings.chunks * self.settings.layers}"
        )
        return "\n".join(lines)

    def _line(self, band: Band, options: SpanOptions) -> str:
        size = "off" if not band.span else f"window {band.window:4}  span {band.span:4}"
        seen = _bar(band, options, self.settings.ctx)
        return (
            f"{size:22}  visited {_percent(band.share):>6}  reward {band.reward:+10.3g}  ▕{seen}▏"
        )

    def rgb_array(self) -> NDArray[np.uint8]:
        """The picture as an image, uint8 of shape (height, width, 3).

        Its size depends on the number of layers alone. Of each layer it shows which keys (to the
        right) each query (downwards) sees, below that the rewards and the visited keys of all
        decisions of the episode.
        """
        layers = len(self.options)
        rows = -(-layers // _COLUMNS)
        columns = -(-layers // rows)
        sheet = Sheet(max(2, columns) * _CELL, _HEADER + rows * _CELL + _HISTORY)
        sheet.text(24, 32, f"chunk {self.chunk + 1} of {self.settings.chunks}", 13, weight="bold")
        sheet.text(sheet.width - 24, 32, self.source[-_LONGEST:], 13, ha="right")
        margin = (sheet.width - columns * _CELL) // 2 + _LEFT
        for layer in range(layers):
            row, column = divmod(layer, columns)
            left, top = margin + column * _CELL, _HEADER + row * _CELL + _TITLE
            self._draw_layer(sheet, left, top, layer)
            self._draw_axes(sheet, left, top, keys=layer + columns >= layers, queries=not column)
        self._draw_history(
            sheet,
            _LEFT,
            f"reward, sum {self.episode_return:+.3g}",
            [band.reward for band in self.bands],
            "{:+.2g}".format,
        )
        self._draw_history(
            sheet,
            sheet.width // 2 + _LEFT,
            f"visited of full attention, mean {_percent(self.mean_share)}",
            [band.share for band in self.bands],
            _percent,
        )
        return sheet.rgb_array()

    def _draw_layer(self, sheet: Sheet, left: int, top: int, layer: int) -> None:
        sheet.text(left, top - 26, f"layer {layer}", 10, weight="bold")
        decided = self.chunk_bands[layer : layer + 1]
        if decided:
            self._draw_band(sheet, left, top, layer, decided[0])
        else:
            sheet.box(left, top, left + _PANEL, top + _PANEL, "#dcdcdc")
            _write_in_panel(sheet, left, top, "not yet decided")
        sheet.frame(left, top, _PANEL, _PANEL)

    def _draw_axes(self, sheet: Sheet, left: int, top: int, *, keys: bool, queries: bool) -> None:
        middle, end = _PANEL / 2, f"{self.settings.ctx}"
        if keys:
            bottom = top + _PANEL + 14
            for x, said in ((0, "0"), (middle, "keys"), (_PANEL, end)):
                sheet.text(left + x, bottom, said, 8, ha="center")
        if queries:
            style = {"ha": "right", "va": "center"}
            sheet.text(left - 6, top, "0", 8, **style)
            sheet.text(left - 6, top + middle, "queries", 8, rotation=90, **style)
            sheet.text(left - 6, top + _PANEL, end, 8, **style)

    def _draw_band(self, sheet: Sheet, left: int, top: int, layer: int, band: Band) -> None:
        size = f"window {band.window}, span {band.span}" if band.span else "off"
        sheet.text(left + _PANEL, top - 26, size, 10, ha="right")
        sheet.text(left, top - 9, f"reward {band.reward:+.3g}", 9, color=FAINT)
        sheet.text(
            left + _PANEL, top - 9, f"visited {_percent(band.share)}", 9, color=FAINT, ha="right"
        )
        sheet.image(left, top, _paint(band, self.options[layer], self.settings.ctx, layer))
        if not band.span:
            _write_in_panel(sheet, left, top, "off")

    def _draw_history(
        self,
        sheet: Sheet,
        left: int,
        title: str,
        values: list[float],
        write: Callable[[float], str],
    ) -> None:
        """A bar for each decision of the episode so far, in the colour of its layer."""
        layers, chunks = self.settings.layers, self.settings.chunks
        top, width, height = sheet.height - _HISTORY + 32, sheet.width // 2 - _CELL + _PANEL, 100
        sheet.text(left, top - 16, title, 9)
        colours = [_colour(layer) for layer in range(layers)]
        sheet.bars((left, top, width, height), values, chunks * layers, colours, write)
        below = top + height + 18
        sheet.text(left, below, "0", 8, ha="center")
        sheet.text(left + width / 2, below, "chunks", 8, ha="center")
        sheet.text(left + width, below, f"{chunks}", 8, ha="center")


def _bar(band: Band, options: SpanOptions, ctx: int) -> str:
    """The interval of the query in the middle, in characters."""
    (covered,) = band.coverage(options, ctx, np.array([ctx // 2]), min(_CELLS, ctx))
    levels = np.ceil(covered * (len(_SHADES) - 1) - 1e-9).astype(int)
    return "".join(_SHADES[level] for level in levels)


def _paint(band: Band, options: SpanOptions, ctx: int, layer: int) -> NDArray[np.float64]:
    """A band in the colour of its layer, shape (panel, panel, 3)."""
    queries = np.arange(_ROWS * _PANEL) * ctx // (_ROWS * _PANEL)
    covered = band.coverage(options, ctx, queries, _PANEL).reshape(_PANEL, _ROWS, _PANEL).mean(1)
    if band.window * _PANEL >= _LEAST_WINDOW * ctx:
        for start in range(band.window, ctx, band.window):
            line = start * _PANEL // ctx
            # A light line where the windows on both sides see keys.
            covered[line] *= 1 - 0.8 * covered[line - 1]
    seen = covered[..., None]
    return seen * to_rgb(_colour(layer)) + (1 - seen) * _UNSEEN


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 1 else 1}f}%"


def _colour(layer: int) -> str:
    return _COLOURS[layer % len(_COLOURS)]


def _write_in_panel(sheet: Sheet, left: int, top: int, text: str) -> None:
    middle = (left + _PANEL / 2, top + _PANEL / 2)
    sheet.text(*middle, text, 10, color=FAINT, ha="center", va="center")
