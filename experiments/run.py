"""Results of a run in Python and in notebooks."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from spangym.agents import Agent
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.experiments.analysis.load_results import open_run
from spangym.experiments.analysis.results import KEYS
from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_names import Axis
from spangym.experiments.plots.plot_registry import DEFAULT_PLOTS, PLOTS
from spangym.experiments.plots.save import parse_figure_names
from spangym.experiments.reports.load_summary import load_summary
from spangym.experiments.reports.notebook_page import notebook_page
from spangym.experiments.reports.result_tables import result_tables, text_tables, wide_summary
from spangym.experiments.reports.write_outputs import evaluation_rows, load_data, make_summary
from spangym.experiments.runner.run_dir import RunDir, is_summary, run_command
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.export_agent import export_agent
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.utils.errors import UserError
from spangym.utils.serialization import SUFFIX
from spangym.utils.streams import in_notebook
from spangym.utils.text import pluralize, printable, slug


def _show_figures_inline() -> None:
    """Make the notebook show figures of Matplotlib that are the value of a cell."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    # The notebook's backend registers itself when it is chosen; open figures would be closed.
    if not plt.get_fignums():
        plt.switch_backend(mpl.get_backend())


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open the folder of a comparison or a pilot, finished or not.

    Raises:
        ValueError: The folder is not of a run.
    """
    return Run(path)


class Run:
    """A comparison or a pilot in its folder; results are read when they are first asked for.

    A notebook shows it as its tables, and ``print`` too.

    Args:
        path: Folder of the run.
        data: The results, if they are loaded already.

    Attributes:
        path: Absolute path of the folder.
    """

    def __init__(self, path: str | os.PathLike[str], data: PlotData | None = None) -> None:
        kind = PILOT if run_command(Path(path)) == PILOT.command else COMPARISON
        self._folder: RunDir[Any, Any] = RunDir(Path(path), kind)
        self.path = self._folder.path
        self._loaded = data
        if not self._is_summary:
            open_run(Path(path))

    @cached_property
    def study(self) -> Any:
        """The normalized study, a `Study`, or a `PilotStudy`."""
        return self._folder.study()

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.summary["study"]) if self._is_summary else self.study.name

    @property
    def report(self) -> Path:
        """The HTML report, which is written when the jobs have ended."""
        return self.path / "report.html"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json`` with headlines, means, differences and failed jobs."""
        if self._is_summary:
            return self._folder.summary()
        return make_summary(self._data, self.name)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Means over training seeds with 95 % intervals, one row per environment and agent.

        Columns are ``environment``, ``agent``, and ``METRIC``, ``METRIC_low``, ``METRIC_high``,
        ``METRIC_n`` (number of seeds) of each metric, ``return`` first. In a pilot ``environment``
        is the task, ``agent`` the ``variant``, and there is one row per ``split``.
        """
        wide = wide_summary(self._data.statistics.summary)
        if self._is_pilot:
            return wide.rename(columns={"environment": "task", "group": "variant"})
        return wide.drop(columns="split", errors="ignore").rename(columns={"group": "agent"})

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """Evaluation episodes of a comparison, as in ``evaluation.csv``."""
        return evaluation_rows(self._whole_data)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Learning curves.

        Of a comparison one row per training episode, with ``step``, ``seconds``, ``return`` and
        ``qk_pairs``; of a pilot one row per measurement, see
        `spangym.experiments.analysis.results.Results`.
        """
        curves = self._whole_data.results.curves
        if self._is_pilot:
            return curves.rename(columns={"environment": "task", "group": "variant"})
        parts = dict(list(curves.groupby("metric")))
        wide = curves.iloc[: len(parts.get("return", ()))][[*KEYS, "step", "seconds"]]
        for metric in ("return", "qk_pairs"):
            wide = wide.assign(**{metric: parts[metric]["value"].to_numpy() if parts else ()})
        return wide.rename(columns={"group": "agent", "seed": "training_seed"})

    @property
    def failed(self) -> dict[str, str]:
        """One-line errors of the failed jobs, by job."""
        return dict(self._data.results.failed)

    def plot(self, name: str | None = None, *, x: Axis = "steps", smooth: float = 0.1) -> Figure:
        """Draw a figure of the command ``spangym curves``.

        Args:
            name: Name of the figure, such as ``reward``, ``pareto``, ``differences``,
                ``span_heatmap``; default: ``reward``, in a pilot ``error``.
            x: Horizontal axis of curves: ``steps``, ``wall`` or ``qk_pairs``.
            smooth: Fraction of the training over which curves are averaged.

        Raises:
            ValueError: The name is unknown, or the run has no data for the figure.
        """
        (name,) = parse_figure_names(
            [name or DEFAULT_PLOTS[self._whole_data.results.study_type][0]]
        )
        if in_notebook():
            _show_figures_inline()
        try:
            return PLOTS[name].draw(replace(self._whole_data, x=x, smooth=smooth))
        except NoData as reason:
            raise UserError(f"figure {name!r} cannot be drawn: {reason}") from None

    def load_agent(
        self, agent: str, *, environment: str | None = None, seed: int | None = None
    ) -> Agent:
        """Load a trained agent of a comparison.

        Args:
            agent: Name of the agent in the study.
            environment: Name or id of the environment, if the study has several.
            seed: Training seed; the first of the study by default.

        Raises:
            ValueError: There is no such agent, or its trial is not finished.
        """
        return load_trained_agent(self._comparison, agent, environment, seed).agent

    def export(
        self,
        agent: str,
        out: str | os.PathLike[str] | None = None,
        *,
        environment: str | None = None,
        seed: int | None = None,
    ) -> ExportedPolicy:
        """Export a trained agent to a file for `spangym.attention.load_controller`.

        Args:
            agent: Name of the agent in the study.
            out: File, ``.safetensors``; ``AGENT.safetensors`` in the working folder by default.
            environment: Name or id of the environment, if the study has several.
            seed: Training seed; the first of the study by default.

        Returns:
            The controller in the file; for an agent that observes the layer index, that of layer 0.

        Raises:
            ValueError: There is no such agent, its trial is not finished, or it cannot be exported.
        """
        path = Path(slug(agent) + SUFFIX if out is None else out)
        if path.suffix != SUFFIX:
            raise UserError(f"out: {str(path)!r} must end in {SUFFIX}")
        return export_agent(self._comparison, agent, path.absolute(), environment, seed)

    def __repr__(self) -> str:
        """Return name, size and folder."""
        lines = [f"<spangym.Run {self.name}: {self._counts}>"]
        return "\n".join(
            map(printable, [*lines, *(f"{name}: {text}" for name, text in self._facts.items())])
        )

    def __str__(self) -> str:
        """Return `repr` and the tables as text."""
        return "\n\n".join([repr(self), *text_tables(self._data)])

    def _repr_html_(self) -> str:
        tables = result_tables(self._data)
        title, headlines = f"{self.name}: {self._counts}", self.summary["headlines"]
        return notebook_page(title, self._facts, self.failed, headlines, tables)

    @property
    def _is_summary(self) -> bool:
        return is_summary(self.path)

    @property
    def _comparison(self) -> ComparisonDir:
        return RunDir.open(Path(self._folder.name), COMPARISON)

    @cached_property
    def _data(self) -> PlotData:
        if self._is_summary:
            return load_summary(self.path)
        return self._loaded or load_data([self._folder])

    @property
    def _whole_data(self) -> PlotData:
        """The results; a UserError if the folder holds their summary only."""
        if self._is_summary:
            open_run(Path(self._folder.name))
        return self._data

    @property
    def _is_pilot(self) -> bool:
        return self._folder.kind is PILOT

    @property
    def _counts(self) -> str:
        if self._is_summary:
            return "a summary without the files of its jobs"
        results = self._data.results
        counts = {
            "finished": len(results.finished),
            "failed": len(results.failed),
            "missing": results.missing,
        }
        jobs = sum(counts.values())
        others = [
            f"{count} {name}" for name, count in counts.items() if count or name == "finished"
        ]
        return f"{pluralize(jobs, 'job')}, {', '.join(others)}"

    @property
    def _facts(self) -> dict[str, str]:
        results = self._data.results
        if self._is_pilot:
            names = {"variants": results.groups}
        else:
            agents = (*results.learners, "baselines")
            names = {"environments": results.environments, "agents": agents}
        # The study of a summary may be of an earlier version.
        if not self._is_summary:
            study = self.study
            own = () if self._is_pilot else (each.seeds for each in study.environments)
            names["seeds"] = tuple(sorted({*study.seeds}.union(*own)))
        return {"folder": self._folder.name} | {
            what: ", ".join(map(str, each)) for what, each in names.items()
        }
