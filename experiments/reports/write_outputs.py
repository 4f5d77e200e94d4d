"""A comparison, but for its trials: what is checked before them, and made of them after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from spangym.agents import DeepAgent
from spangym.envs import SpanControlVecEnv
from spangym.experiments.analysis.comparison_stats import Statistics, analyse
from spangym.experiments.analysis.load_results import gather
from spangym.experiments.analysis.results import Rows
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.save import draw_figures
from spangym.experiments.reports.comparison_report import write_report
from spangym.experiments.reports.html import Facts
from spangym.experiments.runner.job_dir import json_records
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.run_dir import RunFolder
from spangym.utils.errors import UserError

FORMATS = ("png", "svg")
"""Of the figure that lies beside the report."""

_RESAMPLING_SEED = 0


def check_startable(study: Study) -> None:
    """Refuse a study whose environments or networks cannot be made, before anything is run.

    Raises:
        UserError: One cannot; the message says which and why.
    """
    for environment in study.environments:
        trials = [study.trial(environment, each, seed=0) for each in study.entries(environment)]
        with _startable(f"environment {environment.label!r}"):
            SpanControlVecEnv(trials[-1].judging(), study.evaluation.episodes).reset()
            SpanControlVecEnv(trials[-1].training(), study.lanes).reset()
        for trial in trials:
            if trial.steps:
                with _startable(f"agent {trial.agent.label!r}"):
                    agent = trial.make_agent()
                    if isinstance(agent, DeepAgent):
                        env = SpanControlVecEnv(trial.training(), trial.lanes)
                        agent.make_model(env, trial.steps)


@contextlib.contextmanager
def _startable(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Libraries raise what they like on a wrong hyperparameter.
        raise UserError(f"{name} cannot be started: {type(error).__name__}: {error}") from error


def conclude(folder: RunFolder, failed: Mapping[str, str]) -> tuple[Rows, Statistics]:
    """Gather the finished trials: ``evaluation.csv``, ``summary.json``, figures and report.

    Args:
        folder: Folder of the run.
        failed: Names of the trials that are missing, each with its error.

    Returns:
        What the trials left behind, and what that says.

    Raises:
        UserError: Stored rows are damaged.
    """
    rows = gather([folder], failed)
    statistics = analyse(rows, np.random.default_rng(_RESAMPLING_SEED))
    study = folder.study()
    folder.write("evaluation.csv", rows.episodes.to_csv(index=False, lineterminator="\n"))
    folder.write_json(
        "summary.json",
        {
            "study": study.name,
            "verdict": statistics.verdict,
            "remarks": statistics.remarks,
            "agents": json_records(statistics.summaries),
            "aggregates": json_records(statistics.aggregates),
            "differences": json_records(statistics.differences),
            "failed": dict(failed),
        },
    )
    if len(rows.curves):
        draw_figures(Results(rows, statistics), ["reward"], folder.path, FORMATS)
    facts = Facts(study.name, study.to_toml(), folder.manifest(), str(folder.path))
    write_report(folder.path / "report.html", rows, statistics, facts)
    return rows, statistics
