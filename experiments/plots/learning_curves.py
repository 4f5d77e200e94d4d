"""Learning curves: mean over training seeds with its interval, in the course of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from spangym.experiments.analysis.intervals import Floats, t_interval
from spangym.experiments.analysis.results import TRAINING, WHOLE_MODEL
from spangym.experiments.plots.labels import label_right_edge
from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import LINES, MUTED, LineStyle, ci_alpha, format_tick

GRID_POINTS = 200
MARKERS_PER_LINE = 5
YLIM_MARGIN = 0.3
"""Space for bands around the lines, relative to the range of the lines; wider bands are cut."""


@dataclass(frozen=True)
class SeedCurves:
    """Values of one group, shape (seeds, points), on a grid ``x`` that all seeds share.

    ``is_measured`` is False for moving averages.
    """

    group: str
    x: Floats
    values: Floats
    is_measured: bool

    @property
    def mean(self) -> Floats:
        """Mean over the seeds, shape (points,)."""
        return self.values.mean(0)


def plot_learning_curves(data: PlotData, metric: str) -> list[Panel]:
    """Plot a metric in training and evaluation: one panel for each environment and split."""
    if metric not in data.results.metrics:
        raise NoData(f"a {data.results.study_type} has no {metric}")
    info = data.results.metrics[metric]
    panels = []
    for environment in data.results.environments:
        for split in (TRAINING, *data.results.splits):
            layer = None if metric == "qk_pairs" else WHOLE_MODEL
            curves = seed_curves(data, environment, metric, split, layer)
            if curves:
                title = environment
                if data.is_pilot:
                    where = "training" if split == TRAINING else data.split_label(split)
                    title = f"{info.label[0].upper()}{info.label[1:]}, {where}"
                draw = partial(_draw, data, environment, metric, curves)
                panels.append(Panel(title, draw, right=56 if metric == "return" else 14))
    if not panels:
        raise NoData("no job is finished that was trained")
    return panels


def plot_span_curves(data: PlotData) -> list[Panel]:
    """Plot the mean spans in training: one panel for each variant, one line for each layer."""
    (environment, *_), table = data.results.environments, data.results.curves
    layers = sorted({*table.loc[table["metric"] == "span", "layer"]})
    curves = [
        (layer, curve)
        for layer in layers
        for curve in seed_curves(data, environment, "span", TRAINING, layer)
    ]
    if not curves:
        raise NoData("no spans were recorded in training")
    xlim = 1.02 * max(1e-9, *(curve.x[-1] for _, curve in curves))
    ylim = 1.05 * max(1.0, *(curve.mean.max() for _, curve in curves))

    def draw(own: list[tuple[int, SeedCurves]], axes: Axes) -> None:
        for number, (_, curve) in enumerate(own):
            style = data.line_style(curve.group)
            style = LineStyle(style.color, LINES[number % len(LINES)], style.marker)
            _draw_curve(axes, curve, style, ci_alpha(len(own)))
        # All panels have the same limits, so that variants can be compared.
        axes.set(xlim=(0, xlim), ylim=(0, ylim))
        label_axes(axes, _x_label(data), "span in tokens")
        label_right_edge(axes, {f"layer {layer}": curve.mean[-1] for layer, curve in own}, 152)

    panels = []
    for group in data.results.groups:
        own = [(layer, curve) for layer, curve in curves if curve.group == group]
        if own:
            panels.append(Panel(group, partial(draw, own), height=220, right=56))
    return panels


def seed_curves(
    data: PlotData,
    environment: str,
    metric: str,
    split: str = TRAINING,
    layer: int | None = WHOLE_MODEL,
) -> list[SeedCurves]:
    """Curves of all groups that have any, up to the last step that all their seeds have reached.

    Finite values of a layer (None: their mean over the layers), as moving averages in ``training``
    and as measured in a split of evaluations.
    """
    seeds = _read_seeds(data, environment, metric, split, layer)
    costs = {}
    if data.x == "qk_pairs":
        costs = _read_seeds(data, environment, "qk_pairs", TRAINING, WHOLE_MODEL)
    curves = []
    for group in data.results.groups:
        own = {key: seed for key, seed in seeds.items() if key[0] == group}
        if not own:
            continue
        steps = [seed[0] for seed in own.values()]
        if split == TRAINING:
            first, last = max(each[0] for each in steps), min(each[-1] for each in steps)
            grid = np.linspace(first, max(first, last), GRID_POINTS)
            window = data.smooth * max(each[-1] for each in steps)
            lines = [moving_average_on_grid(*seed[:2], grid, window) for seed in own.values()]
        else:
            grid = _common_steps(steps)
            lines = [interp_on_grid(grid, *seed[:2]) for seed in own.values()]
        x = grid
        if data.x == "wall":
            seconds = [interp_on_grid(grid, seed[0], seed[2]) for seed in own.values()]
            x = np.mean(seconds, axis=0)
        elif data.x == "qk_pairs":
            pairs = [interp_on_grid(grid, costs[key][0], costs[key][1].cumsum()) for key in own]
            x = np.mean(pairs, axis=0)
        scaled = data.results.metrics[metric].scale * np.stack(lines)
        curves.append(SeedCurves(group, x, scaled, split != TRAINING))
    return curves


def log_scale(axes: Axes) -> None:
    """Use a logarithmic y axis: an outlier leaves the other lines apart."""
    if not (_line_ydata(axes) > 0).any():
        return
    axes.set_yscale("log", nonpositive="clip")
    low, high = ylim_from_lines(axes)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.yaxis.set_minor_locator(NullLocator())


def ylim_from_lines(axes: Axes) -> tuple[float, float]:
    """Limits of the y axis that show all lines, and bands up to `YLIM_MARGIN`."""
    lines = _line_ydata(axes)
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        lines = lines[lines > 0]
        ratio = (lines.max() / lines.min()) ** YLIM_MARGIN if lines.max() > lines.min() else 1.5
        return max(low, lines.min() / ratio), min(high, lines.max() * ratio)
    margin = YLIM_MARGIN * (lines.max() - lines.min() or 1.0)
    return max(low, lines.min() - margin), min(high, lines.max() + margin)


def moving_average_on_grid(steps: Floats, values: Floats, grid: Floats, window: float) -> Floats:
    """Mean of the values in the window before each grid step, or of the last values before it.

    ``steps`` ascend, no grid step is before the first of them, and the window is in steps.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    until = np.searchsorted(steps, grid, side="right")
    # Several values share the last step if environments ended together.
    last = np.searchsorted(steps, steps[until - 1], side="left")
    since = np.minimum(np.searchsorted(steps, grid - window, side="right"), last)
    return (sums[until] - sums[since]) / (until - since)


def interp_on_grid(grid: Floats, steps: Floats, values: Floats) -> Floats:
    """Interpolate linearly; of several values at one step the last counts."""
    last = np.flatnonzero(np.diff(steps, append=np.inf))
    return np.interp(grid, steps[last], values[last])


def _read_seeds(
    data: PlotData, environment: str, metric: str, split: str, layer: int | None
) -> dict[tuple[str, int], tuple[Floats, Floats, Floats]]:
    """Steps, values and seconds of finite values, by group and seed."""
    table = data.results.curves
    is_wanted = (table["environment"] == environment) & (table["metric"] == metric)
    is_wanted &= (table["split"] == split) & np.isfinite(table["value"].astype(float))
    if layer is not None:
        is_wanted &= table["layer"] == layer
    table = pd.DataFrame(table[is_wanted]).sort_values(["seed", "step"], kind="stable")
    if layer is None:
        steps = table.groupby(["group", "seed", "step"], sort=False, as_index=False)
        table = pd.DataFrame(steps[["seconds", "value"]].mean())
    seeds = {}
    for _, rows in table.groupby(["group", "seed"], sort=False):
        columns = (rows[name].to_numpy(float) for name in ("step", "value", "seconds"))
        seeds[rows["group"].iloc[0], rows["seed"].iloc[0]] = tuple(columns)
    return seeds


def _common_steps(steps: Sequence[Floats]) -> Floats:
    """Steps at which any seed was measured, in the range that all seeds cover."""
    first, last = max(each[0] for each in steps), min(each[-1] for each in steps)
    union = np.unique(np.concatenate([*steps]))
    return union[(union >= first) & (union <= max(first, last))]


def _draw(
    data: PlotData, environment: str, metric: str, curves: Sequence[SeedCurves], axes: Axes
) -> None:
    stopped = {group for group, _, _ in data.results.stopped}
    for curve in curves:
        style = data.line_style(curve.group)
        markers = slice(None)
        if not curve.is_measured:
            # Where lines coincide, markers at the same place would hide each other.
            step = max(1, len(curve.x) // MARKERS_PER_LINE)
            place = data.results.groups.index(curve.group) / len(data.results.groups)
            markers = slice(int(place * step), None, step)
        _draw_curve(axes, curve, style, ci_alpha(len(curves)), markers)
        if curve.group in stopped:
            cross = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": "none"}
            axes.plot(curve.x[-1:], curve.mean[-1:], color=style.color, **cross)
    means = data.means(environment, metric) if metric == "return" else {}
    levels = {
        group: means[group]
        for group in ("oracle", data.best_fixed(environment), "random")
        if group in means and group in data.results.baselines
    }
    for group, level in levels.items():
        axes.axhline(level, color=MUTED, linestyle=(0, (4, 3)), linewidth=1).set_label(group)
    low, high = ylim_from_lines(axes)
    axes.set_ylim(max(0.0, low) if data.is_pilot else low, high)
    axes.set_xlim(0, 1.02 * max(1e-9, *(curve.x[-1] for curve in curves)))
    label_axes(axes, _x_label(data), data.results.metrics[metric].axis_label)
    label_right_edge(axes, levels, Panel.height - Panel.top - Panel.bottom)
    if metric in ("error", "loss"):
        log_scale(axes)


def _draw_curve(
    axes: Axes, curve: SeedCurves, style: LineStyle, alpha: float, markers: slice | None = None
) -> None:
    # A single point makes no line.
    marker = style.marker if markers is not None or curve.x[0] == curve.x[-1] else None
    (line,) = axes.plot(
        curve.x,
        curve.mean,
        **style._replace(marker=marker)._asdict(),
        linewidth=1.6,
        markersize=5,
        markevery=markers,
    )
    line.set_label(curve.group)
    low, high = t_interval(curve.values.T)
    axes.fill_between(curve.x, low, high, color=style.color, alpha=alpha, linewidth=0)


def _x_label(data: PlotData) -> str:
    steps = "updates" if data.is_pilot else "environment steps"
    names = {"steps": steps, "wall": "seconds", "qk_pairs": "query-key pairs"}
    return f"{names[data.x]} in training"


def _line_ydata(axes: Axes) -> Floats:
    """Values of all lines, except for vertical ones across the axes."""
    return np.concatenate(
        [
            np.asarray(line.get_ydata(), float)
            for line in axes.lines
            if line.get_transform().contains_branch_seperately(axes.transData)[1]
        ]
    )
