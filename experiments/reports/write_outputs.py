"""A comparison, but for its trials: what is checked before them, and made of them after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from spangym.agents import SB3Agent
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.analysis.comparison_stats import ComparisonStats, compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.save import save_comparison_figures
from spangym.experiments.reports.comparison_report import save_report
from spangym.experiments.reports.html import RunInfo
from spangym.experiments.runner.job_dir import json_records
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.errors import UserError

FORMATS = ("png", "svg")
"""Of the figure that lies beside the report."""

_RESAMPLING_SEED = 0


def smoke_test(study: Study) -> None:
    """Refuse a study whose environments or networks cannot be made, before anything is run.

    Raises:
        UserError: One cannot; the message says which and why.
    """
    for environment in study.environments:
        trials = [study.trial(environment, each, seed=0) for each in study.agents_in(environment)]
        with _startable(f"environment {environment.name!r}"):
            SB3SpanControlVecEnv(trials[-1].eval_config(), study.evaluation.episodes).reset()
            SB3SpanControlVecEnv(trials[-1].train_config(), study.n_envs).reset()
        for trial in trials:
            if trial.total_timesteps:
                with _startable(f"agent {trial.agent.name!r}"):
                    agent = trial.make_agent()
                    if isinstance(agent, SB3Agent):
                        env = SB3SpanControlVecEnv(trial.train_config(), trial.n_envs)
                        agent.make_model(env, trial.total_timesteps)


@contextlib.contextmanager
def _startable(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Libraries raise what they like on a wrong hyperparameter.
        raise UserError(f"{name} cannot be started: {type(error).__name__}: {error}") from error


def write_outputs(folder: RunDir, failed: Mapping[str, str]) -> tuple[Results, ComparisonStats]:
    """Gather the finished trials: ``evaluation.csv``, ``summary.json``, figures and report.

    Args:
        folder: Folder of the run.
        failed: Names of the trials that are missing, each with its error.

    Returns:
        What the trials left behind, and what that says.

    Raises:
        UserError: Stored rows are damaged.
    """
    results = load_results([folder], failed)
    statistics = compute_statistics(results, np.random.default_rng(_RESAMPLING_SEED))
    study = folder.study()
    folder.write("evaluation.csv", results.episodes.to_csv(index=False, lineterminator="\n"))
    folder.save_json(
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
    if len(results.curves):
        save_comparison_figures(PlotData(results, statistics), ["reward"], folder.path, FORMATS)
    run_info = RunInfo(study.name, study.to_toml(), folder.manifest(), str(folder.path))
    save_report(folder.path / "report.html", results, statistics, run_info)
    return results, statistics
