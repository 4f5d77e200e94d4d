"""Rendering of an episode, as text and as an image: the keys that each query sees."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from spangym.attention.geometry import SoftEdge, SpanGeometry, full_qk_pairs
from spangym.attention.span_config import SpanConfig
from spangym.envs.env_config import EnvConfig
from spangym.utils.readable_repr import short_repr

RENDER_MODES = ("ansi", "rgb_array")

_TEXT_CELLS = 32
"""Characters of a layer's bar in text."""
_SHADES = " ░▒▓█"

# Layout in pixels. Sides of the image are multiples of 16, which video encoders prefer.
_CELL = 320
_PANEL = 240
_LEFT = 56
_TITLE = 44
_HEADER = 48
_HISTORY = 176
_MAX_COLUMNS = 4
_MIN_WINDOW = 6
"""Smallest window, in pixels, that is separated from the next by a line."""
_OVERSAMPLING = 4
"""Queries averaged in a row of pixels."""
_MAX_NAME = 45
"""Characters of a caption that fit in the header."""

# The palette of Okabe and Ito, which color-blind readers can distinguish.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_FG = "#222222"
_MUTED = "#808080"
_MASKED = 0.95
"""Gray level of keys outside the span."""


def check_render_mode(mode: str | None) -> str | None:
    """Return the mode; a `ValueError` if it is neither None nor one of `RENDER_MODES`."""
    if mode not in (None, *RENDER_MODES):
        raise ValueError(
            f"render_mode must be None, {' or '.join(RENDER_MODES)}, got {short_repr(mode)}"
        )
    return mode


@dataclass(frozen=True)
class LayerDecision:
    """The action of one step, as it is drawn.

    Attributes:
        window: Queries that share an interval of keys, in tokens.
        span: Span in tokens; 0 where the local path is off.
        reward: Reward of the step.
        attention_fraction: Query-key pairs scored, over all passes, as a fraction of one full
            attention's.
    """

    window: int
    span: int
    reward: float
    attention_fraction: float

    def intervals(self, options: SpanConfig, ctx: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """First key and end of the interval that each of ``ctx`` queries sees, shape (ctx,)."""
        span = torch.tensor([self.span])
        edge = SoftEdge(span.double(), options.soft_edge_width) if options.soft_span else None
        geometry = SpanGeometry(torch.tensor([self.window]), span, options.causal, edge=edge)
        first, end = options.visible_range(geometry, ctx)
        return first[0].numpy(), end[0].numpy()

    def coverage(
        self, options: SpanConfig, ctx: int, queries: NDArray[np.integer[Any]], cells: int
    ) -> NDArray[np.float64]:
        """Fraction of the keys in each of equal cells that queries see, (queries, cells)."""
        first, end = (each[queries, None] for each in self.intervals(options, ctx))
        edges = np.linspace(0, ctx, cells + 1)
        overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], first)
        return np.clip(overlap * cells / ctx, 0, 1)


@dataclass(frozen=True)
class EpisodeRenderer:
    """The part of an episode so far that is drawn.

    Attributes:
        config: Arguments of the environment.
        options: Span options of each layer.
        content_type: Content type of the current chunk.
        decisions: One per step of the episode.
        cost_coef: Cost coefficient of the episode; None where it is neither drawn nor observed.
    """

    config: EnvConfig
    options: tuple[SpanConfig, ...]
    content_type: str = ""
    decisions: tuple[LayerDecision, ...] = ()
    cost_coef: float | None = None

    @classmethod
    def of_episode(
        cls, config: EnvConfig, options: tuple[SpanConfig, ...], info: Mapping[str, Any]
    ) -> EpisodeRenderer:
        """Begin an episode, given the info of its reset; empty before the first."""
        return cls(config, options, info.get("content_type", ""), (), info.get("cost_coef"))

    @property
    def chunk(self) -> int:
        """Index of the chunk of the last step."""
        return max(0, len(self.decisions) - 1) // self.config.num_layers

    @property
    def caption(self) -> str:
        """Content type of the chunk, and the cost coefficient of the episode."""
        cost = "" if self.cost_coef is None else f", cost coefficient {self.cost_coef:.3g}"
        return f"{self.content_type}{cost}"

    @property
    def chunk_decisions(self) -> tuple[LayerDecision, ...]:
        """Decisions of the current chunk."""
        return self.decisions[self.chunk * self.config.num_layers :]

    @property
    def episode_return(self) -> float:
        """Sum of the rewards."""
        return sum(each.reward for each in self.decisions)

    @property
    def mean_attention_fraction(self) -> float:
        """Mean of the steps' attention fractions; 0 before the first."""
        return sum(each.attention_fraction for each in self.decisions) / max(1, len(self.decisions))

    def with_step(self, reward: float, info: Mapping[str, Any]) -> EpisodeRenderer:
        """Copy with one more step."""
        pairs = full_qk_pairs(self.config.ctx, self.options[info["layer"]].causal)
        if self.config.blocks:
            pairs = self.config.full_qk_pairs
        decision = LayerDecision(info["window"], info["span"], reward, info["qk_pairs"] / pairs)
        return dataclasses.replace(
            self, content_type=info["content_type"], decisions=(*self.decisions, decision)
        )

    def state_dict(self) -> dict[str, Any]:
        """Content type, cost coefficient and decisions as JSON values."""
        decisions = [*map(dataclasses.asdict, self.decisions)]
        more = {"content_type": self.content_type, "cost_coef": self.cost_coef}
        return {**more, "decisions": decisions}

    def from_state(self, state: Mapping[str, Any]) -> EpisodeRenderer:
        """Restore what `state_dict` gave, for the same environment."""
        decisions = tuple(LayerDecision(**decision) for decision in state["decisions"])
        more = {name: state[name] for name in ("content_type", "cost_coef")}
        return dataclasses.replace(self, decisions=decisions, **more)

    def __str__(self) -> str:
        """Draw as text, one line per layer.

        The bar of a layer stands for the keys; it is dark where the query in the middle sees them.
        Of a decision about a key-value cache it shows the tokens that stay.
        """
        config = self.config
        lines = [f"chunk {self.chunk + 1}/{config.chunks_per_episode}  {self.caption}"]
        for layer, options in enumerate(self.options):
            line = f"layer {layer}  not yet decided"
            if layer < len(self.chunk_decisions):
                decision = self.chunk_decisions[layer]
                size = f"window {decision.window:4}  span {decision.span:4}"
                pairs = _percent(decision.attention_fraction)
                bar = _text_bar(decision, options, config.ctx)
                if config.blocks:
                    bar = _shade(self._held_keys(layer, min(_TEXT_CELLS, config.ctx)))
                line = (
                    f"layer {layer}  {size if decision.span else 'off':22}  qk pairs {pairs:>6}  "
                    f"reward {decision.reward:+10.3g}  ▕{bar}▏"
                )
            lines.append(line)
        steps = f"{len(self.decisions)}/{config.chunks_per_episode * config.num_layers}"
        mean = _percent(self.mean_attention_fraction)
        lines.append(f"return {self.episode_return:+.3g}, mean qk pairs {mean}, decision {steps}")
        return "\n".join(lines)

    def draw(self, render_mode: str) -> str | NDArray[np.uint8]:
        """Draw in one of `RENDER_MODES`."""
        return self.rgb_array() if render_mode == "rgb_array" else str(self)

    def rgb_array(self) -> NDArray[np.uint8]:
        """Draw as an image, uint8 of shape (height, width, 3).

        Its size depends on the number of layers only. A panel per layer shows which keys (x axis)
        each query (y axis) sees; two bar charts below show the rewards and attention fractions.
        Decisions about a key-value cache share one panel: each sets the keys of the next block.
        """
        layers = 1 if self.config.blocks else len(self.options)
        rows = -(-layers // _MAX_COLUMNS)
        columns = -(-layers // rows)
        width, height = max(2, columns) * _CELL, _HEADER + rows * _CELL + _HISTORY
        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)
        chunk = f"chunk {self.chunk + 1} of {self.config.chunks_per_episode}"
        _write(draw, 24, 32, chunk, 18, bold=True)
        _write(draw, width - 24, 32, self.caption[-_MAX_NAME:], 18, anchor="rs")
        margin = (width - columns * _CELL) // 2 + _LEFT
        for layer in range(layers):
            row, column = divmod(layer, columns)
            left, top = margin + column * _CELL, _HEADER + row * _CELL + _TITLE
            if self.config.blocks:
                self._draw_document(image, draw, left, top)
            else:
                self._draw_panel(image, draw, left, top, layer)
            if layer + columns >= layers:
                for x, label in ((0, "0"), (_PANEL / 2, "keys"), (_PANEL, f"{self.config.ctx}")):
                    _write(draw, left + x, top + _PANEL + 14, label, 11, anchor="ms")
            if not column:
                for y, label in ((0, "0"), (_PANEL / 2, "queries"), (_PANEL, f"{self.config.ctx}")):
                    _write(draw, left - 6, top + y, label, 11, anchor="rm")
        rewards = [each.reward for each in self.decisions]
        fractions = [each.attention_fraction for each in self.decisions]
        mean = _percent(self.mean_attention_fraction)
        top, chart_width = height - _HISTORY + 32, width // 2 - _CELL + _PANEL
        for left, title, values, to_text in (
            (_LEFT, f"reward, sum {self.episode_return:+.3g}", rewards, "{:+.2g}".format),
            (width // 2 + _LEFT, f"qk pairs of full attention, mean {mean}", fractions, _percent),
        ):
            _write(draw, left, top - 16, title, 12)
            self._draw_bar_chart(draw, left, top, chart_width, values, to_text)
        return np.array(image)

    def _draw_panel(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, layer: int
    ) -> None:
        right, center = left + _PANEL, (left + _PANEL / 2, top + _PANEL / 2)
        _write(draw, left, top - 26, f"layer {layer}", 14, bold=True)
        outline = (left - 1, top - 1, right, top + _PANEL)
        if layer < len(self.chunk_decisions):
            decision = self.chunk_decisions[layer]
            size = f"window {decision.window}, span {decision.span}" if decision.span else "off"
            qk_pairs = f"qk pairs {_percent(decision.attention_fraction)}"
            _write(draw, right, top - 26, size, 14, anchor="rs")
            _write(draw, left, top - 9, f"reward {decision.reward:+.3g}", 12, _MUTED)
            _write(draw, right, top - 9, qk_pairs, 12, _MUTED, anchor="rs")
            pixels = _paint(decision, self.options[layer], self.config.ctx, _color(layer))
            image.paste(Image.fromarray(pixels), (left, top))
            draw.rectangle(outline, outline=_MUTED)
            message = "" if decision.span else "off"
        else:
            draw.rectangle(outline, fill="#dcdcdc", outline=_MUTED)
            message = "not yet decided"
        _write(draw, *center, message, 14, _MUTED, anchor="mm")

    def _held_keys(self, layer: int, cells: int) -> NDArray[np.float64]:
        """Fraction of the keys in each of equal cells that stay at a decision, shape (cells,)."""
        ctx, sinks = self.config.ctx, self.config.sinks
        past, held = (layer + 1) * ctx // self.config.blocks, self.chunk_decisions[layer].span
        first = past - held + sinks if held < past else 0
        edges = np.linspace(0, ctx, cells + 1)
        recent = np.minimum(edges[1:], past) - np.maximum(edges[:-1], first)
        overlap = np.clip(recent, 0, None) + np.clip(min(sinks, first) - edges[:-1], 0, None)
        return np.clip(overlap * cells / ctx, 0, 1)

    def _draw_document(
        self, image: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int
    ) -> None:
        """Draw the keys that the queries of each block see, in the color of the decision."""
        decisions, blocks, right = self.chunk_decisions, self.config.blocks, left + _PANEL
        _write(draw, left, top - 26, "document", 14, bold=True)
        made = f"{len(decisions)} of {len(self.options)} decisions"
        _write(draw, right, top - 26, made, 14, anchor="rs")
        if decisions:
            _write(draw, left, top - 9, f"reward {decisions[-1].reward:+.3g}", 12, _MUTED)
            held = f"tokens held {decisions[-1].span}"
            _write(draw, right, top - 9, held, 12, _MUTED, anchor="rs")
        draw.rectangle((left - 1, top - 1, right, top + _PANEL), fill="#dcdcdc", outline=_MUTED)
        for block in range(len(decisions) + 1):
            first, end = (_PANEL * each // blocks for each in (block, block + 1))
            seen = self._held_keys(block - 1, _PANEL) if block else np.zeros(_PANEL)
            covered = np.repeat(seen[None], end - first, axis=0)
            covered[:, first:end] = np.tri(end - first)
            pixels = _blend(covered, _color(block - 1) if block else _MUTED)
            image.paste(Image.fromarray(pixels), (left, top + first))

    def _draw_bar_chart(
        self,
        draw: ImageDraw.ImageDraw,
        left: int,
        top: int,
        width: int,
        values: list[float],
        to_text: Callable[[float], str],
    ) -> None:
        """Draw one bar per step, in the color of its layer; skip values that are not finite."""
        height, layers, chunks = 100, self.config.num_layers, self.config.chunks_per_episode
        values = [value if math.isfinite(value) else 0.0 for value in values]
        low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        scale = height / (high - low or 1.0)
        zero = round(top + high * scale) if high > low else top + height
        for index, value in enumerate(values):
            start = left + width * index / (chunks * layers)
            stop = start + 0.86 * width / (chunks * layers)
            y0, y1 = sorted((zero, round(zero - value * scale)))
            if y0 < y1:
                box = (round(start), y0, max(round(start), round(stop) - 1), y1 - 1)
                draw.rectangle(box, fill=_color(index % layers))
        draw.line((left - 1, top, left - 1, top + height), fill=_MUTED)
        draw.line((left - 1, zero, left + width, zero), fill=_MUTED)
        _write(draw, left - 6, zero, "0", 11, anchor="rm")
        if high > low:
            extreme = high if high >= -low else low
            _write(draw, left - 6, zero - extreme * scale, to_text(extreme), 11, anchor="rm")
        for x, label in ((0, "0"), (width / 2, "chunks"), (width, f"{chunks}")):
            _write(draw, left + x, top + height + 18, label, 11, anchor="ms")


def _text_bar(decision: LayerDecision, options: SpanConfig, ctx: int) -> str:
    (covered,) = decision.coverage(options, ctx, np.array([ctx // 2]), min(_TEXT_CELLS, ctx))
    return _shade(covered)


def _shade(covered: NDArray[np.float64]) -> str:
    levels = np.ceil(covered * (len(_SHADES) - 1) - 1e-9).astype(int)
    return "".join(_SHADES[level] for level in levels)


def _paint(decision: LayerDecision, options: SpanConfig, ctx: int, color: str) -> NDArray[np.uint8]:
    """Draw the keys (x axis) that each query (y axis) sees, shape (panel, panel, 3)."""
    queries = np.arange(_OVERSAMPLING * _PANEL) * ctx // (_OVERSAMPLING * _PANEL)
    covered = decision.coverage(options, ctx, queries, _PANEL)
    covered = covered.reshape(_PANEL, _OVERSAMPLING, _PANEL).mean(1)
    if decision.window * _PANEL >= _MIN_WINDOW * ctx:
        for start in range(decision.window, ctx, decision.window):
            line = start * _PANEL // ctx
            # A light line where the windows on both sides see keys.
            covered[line] *= 1 - 0.8 * covered[line - 1]
    return _blend(covered, color)


def _blend(covered: NDArray[np.float64], color: str) -> NDArray[np.uint8]:
    """Mix a color with the gray of keys that are not seen."""
    alpha = covered[..., None]
    rgb = np.array(ImageColor.getrgb(color))
    return np.rint(alpha * rgb + (1 - alpha) * _MASKED * 255).astype(np.uint8)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # Only for its fonts; most environments are never drawn.
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", name), size)


def _write(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    size: int,
    color: str = _FG,
    *,
    anchor: str = "ls",
    bold: bool = False,
) -> None:
    draw.text((x, y), text.replace("\n", " "), color, _font(size, bold), anchor=anchor)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.{0 if fraction >= 1 else 1}f}%"


def _color(layer: int) -> str:
    return _COLORS[layer % len(_COLORS)]
