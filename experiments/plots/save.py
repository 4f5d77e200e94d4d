"""Saving of figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spangym.experiments.plots.figure_files import save_figure
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean


def parse_figure_names(names: Sequence[str]) -> list[str]:
    """Check names of `PLOTS`; ``all`` stands for all of them, and a UserError for unknown ones."""
    for name in names:
        if name not in (*PLOTS, "all"):
            raise UserError(f"there is no figure {name!r}{did_you_mean(name, [*PLOTS, 'all'])}")
    return [*PLOTS] if "all" in names else [*dict.fromkeys(names)]


def save_figures(
    data: PlotData, names: Sequence[str], folder: Path, formats: Sequence[str]
) -> list[str]:
    """Draw figures, named as in `PLOTS`, to files; UserError if none has data.

    Returns one message for each file, and for each figure without data.
    """
    has_drawn, messages = False, []
    for name in names:
        try:
            figure = PLOTS[name].draw(data)
        except NoData as reason:
            messages.append(f"{name}: not drawn: {reason}")
            continue
        stem = "reward_curves" if name == "reward" else name
        if PLOTS[name].has_curves and data.x != "steps":
            stem += f"_{data.x}"
        messages += [f"drawn: {path}" for path in save_figure(figure, folder / stem, formats)]
        has_drawn = True
    if not has_drawn:
        raise UserError("; ".join(messages))
    return messages
