"""``spangym bench experiments``: what the runner adds to its trials, and how fast it draws."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from spangym.experiments.analysis.comparison_stats import compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.benchmarks.measure import Row
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.save import save_comparison_figures
from spangym.experiments.reports.write_outputs import smoke_test, write_outputs
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.runner.job import RESULT_FILE
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.progress import NullReporter
from spangym.experiments.runner.run import run_jobs
from spangym.experiments.studies.load_study import load_study, normalize_study
from spangym.experiments.studies.study import Study, StudyAgent, Trial
from spangym.experiments.trials.run_dir import RunDir

_OVERHEAD_GOAL = 1.10
"""Wall time of a study over the sum of its trials' own times, divided by the processes."""
_CURVES_GOAL = 20.0
"""Seconds for a thousand trials of a thousand rows each."""


def run(quick: bool) -> Iterator[Row]:
    """Measure the runner on real trials, and the drawing on rows that are made up.

    Args:
        quick: Shorter trainings and fewer rows.

    Yields:
        Figures as they are measured.
    """
    num_workers = available_cpus()
    study = load_study("quickstart")
    steps, seeds = (64, (0,)) if quick else (2_000, (0, 1))
    study = normalize_study(replace(study, total_timesteps=steps, seeds=seeds))
    with tempfile.TemporaryDirectory() as place:
        yield Row(
            f"wall time over the trials' own, {len(study.trials())} trials, {num_workers} processes",
            runner_overhead(study, Path(place, "run"), num_workers),
            None if quick else _OVERHEAD_GOAL,
            "lower",
        )
    trials, episodes, rounds = (10, 100, 1) if quick else (1_000, 1_000, 3)
    with tempfile.TemporaryDirectory() as place:
        folder = synthetic_run(Path(place, "run"), trials, episodes)
        times = [_seconds_of_curves(folder) for _ in range(rounds)]
        yield Row(
            f"seconds of spangym curves, {trials:,} trials of {episodes:,} rows",
            statistics.median(times),
            None if quick else _CURVES_GOAL,
            "lower",
        )


def runner_overhead(study: Study, path: Path, num_workers: int) -> float:
    """Wall time of a study over the sum of its trials' own times, divided by the processes.

    From the study that is read to the report that is written; the start of Python is not in it.

    Args:
        study: What is run.
        path: Folder for the run.
        num_workers: Processes.
    """
    began = time.perf_counter()
    smoke_test(study)
    folder = RunDir(path)
    trials = folder.create(study, make_manifest(study, ["bench"], num_workers))
    failed = run_jobs(folder.unfinished(), LocalExecutor(num_workers), NullReporter())
    write_outputs(folder, failed)
    wall = time.perf_counter() - began
    return wall / (sum(folder.result(trial)["wall_seconds"] for trial in trials) / num_workers)


def synthetic_run(path: Path, learners: int, episodes: int) -> RunDir:
    """A run of made-up rows: ten agents, the trials of learners being so many.

    Args:
        path: Folder for the run.
        learners: Trials of learners; a multiple of ten.
        episodes: Of each training.
    """
    quickstart = load_study("quickstart")
    (environment,) = quickstart.environments
    agents = tuple(
        StudyAgent(
            "refiner", name=f"agent {number}", hyperparameters={"epsilon": 0.01 * (number + 1)}
        )
        for number in range(10)
    )
    steps = episodes * environment.episode_steps
    study = normalize_study(
        replace(
            quickstart, agents=agents, total_timesteps=steps, seeds=tuple(range(learners // 10))
        )
    )
    folder = RunDir(path)
    generator = np.random.default_rng(0)
    for trial in folder.create(study, make_manifest(study, ["bench"], 1)):
        _fake_trial(trial, folder.folder_of(trial), generator)
    return folder


def _fake_trial(trial: Trial, folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    steps, eval_config = trial.environment.episode_steps, trial.evaluation
    episodes = trial.total_timesteps // steps
    curve = pd.DataFrame(
        {
            "step": np.arange(1, episodes + 1) * steps,
            "episode": np.arange(episodes),
            "return": generator.normal(size=episodes).cumsum(),
            "mean_span": generator.uniform(0, 384, episodes),
            "qk_pairs": generator.integers(1, 1_000_000, episodes),
            "wall_seconds": np.arange(1, episodes + 1) * 0.1,
        }
    )
    evaluation = pd.DataFrame(
        {
            "evaluation_seed": eval_config.seed + np.arange(eval_config.episodes),
            "return": generator.normal(size=eval_config.episodes),
            "mean_span": generator.uniform(0, 384, eval_config.episodes),
            "qk_pairs": generator.integers(1, 1_000_000, eval_config.episodes),
            "output_norm": 1.0,
            "actions": " ".join(["0"] * steps),
        }
    )
    action_counts = pd.DataFrame(
        {
            "layer": [0],
            "content_type": ["text"],
            "action": [0],
            "count": [steps],
            "mean_span": [1.0],
        }
    )
    for name, table in (
        ("curve", curve),
        ("evaluation", evaluation),
        ("action_counts", action_counts),
    ):
        table.to_csv(folder / f"{name}.csv", index=False)
    result = {
        "total_timesteps": trial.total_timesteps,
        "wall_seconds": 1.0,
        "regret": None,
        "full_qk_pairs": trial.eval_config().full_qk_pairs,
    }
    (folder / RESULT_FILE).write_text(json.dumps(result))


def _seconds_of_curves(folder: RunDir) -> float:
    """As ``spangym curves`` does it, from the stored rows to the picture."""
    began = time.perf_counter()
    results = load_results([folder])
    data = PlotData(results, compute_statistics(results, np.random.default_rng(0)))
    save_comparison_figures(data, ["reward"], folder.path, ["png", "svg"])
    return time.perf_counter() - began
