"""``spangym bench experiments``: the overhead of the runner, and the time to draw a large run."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spangym.experiments.benchmarks.measure import BenchRow
from spangym.experiments.plots.save import save_figures
from spangym.experiments.reports.write_outputs import load_data, write_outputs
from spangym.experiments.runner.job_files import RESULT_FILE
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import available_cpus, make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.run_job import run_jobs
from spangym.experiments.studies.load_study import load_study, normalize_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.smoke_test import smoke_test
from spangym.experiments.trials.trial import Trial, ignore, trials_of

OVERHEAD_GOAL = 1.10
"""Wall time of a study over the sum of its trials' times, divided by the processes."""
CURVES_GOAL = 20.0
"""Seconds to draw a thousand trials of a thousand rows each."""


def run(quick: bool, study: Study | None = None) -> Iterator[BenchRow]:
    """Measure the runner on real trials, and the drawing on synthetic rows.

    Args:
        quick: Whether to use shorter trainings and fewer rows.
        study: The study to run; ``quickstart`` if None.

    Yields:
        Figures in the order of measurement.
    """
    num_workers = available_cpus()
    study = study or load_study("quickstart")
    steps, seeds = (64, (0,)) if quick else (2_000, (0, 1))
    study = normalize_study(replace(study, total_timesteps=steps, seeds=seeds))
    with tempfile.TemporaryDirectory() as place:
        count = len(trials_of(study))
        yield BenchRow(
            f"wall time over the trials' times, {count} trials, {num_workers} processes",
            runner_overhead(study, Path(place, "run"), num_workers),
            None if quick else OVERHEAD_GOAL,
            "lower",
        )
    trials, episodes, rounds = (10, 100, 1) if quick else (1_000, 1_000, 3)
    with tempfile.TemporaryDirectory() as place:
        folder = synthetic_run(study, Path(place, "run"), trials, episodes)
        times = [_seconds_of_curves(folder) for _ in range(rounds)]
        yield BenchRow(
            f"seconds of spangym curves, {trials:,} trials of {episodes:,} rows",
            statistics.median(times),
            None if quick else CURVES_GOAL,
            "lower",
        )


def runner_overhead(study: Study, path: Path, num_workers: int) -> float:
    """Wall time of a study over the sum of its trials' times, divided by the processes.

    It includes everything from the smoke test to the report, but not the start of Python.
    """
    began = time.perf_counter()
    smoke_test(study)
    folder = RunDir(path, COMPARISON)
    trials = folder.create(study, _manifest(study, num_workers))
    failed = run_jobs(folder.unfinished(), LocalExecutor(num_workers), ignore)
    write_outputs(folder, failed)
    wall = time.perf_counter() - began
    return wall / (sum(folder.result(trial)["wall_seconds"] for trial in trials) / num_workers)


def _manifest(study: Study, num_workers: int) -> dict[str, Any]:
    return make_manifest(["bench"], num_workers, study.device, study.content_hashes())


def synthetic_run(study: Study, path: Path, trials: int, episodes: int) -> ComparisonDir:
    """A run folder with synthetic rows of ten agents.

    Args:
        study: A study of one environment.
        path: Folder for the run.
        trials: Trials of the ten agents, a multiple of ten.
        episodes: Episodes of each training.
    """
    (environment,) = study.environments
    agents = tuple(
        StudyAgent(
            "refiner", name=f"agent {number}", hyperparameters={"epsilon": 0.01 * (number + 1)}
        )
        for number in range(10)
    )
    steps = episodes * environment.episode_steps
    study = normalize_study(
        replace(study, agents=agents, total_timesteps=steps, seeds=tuple(range(trials // 10)))
    )
    folder = RunDir(path, COMPARISON)
    generator = np.random.default_rng(0)
    for trial in folder.create(study, _manifest(study, 1)):
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


def _seconds_of_curves(folder: ComparisonDir) -> float:
    """Seconds of ``spangym curves``, from the stored rows to the image files."""
    began = time.perf_counter()
    save_figures(load_data([folder]), ["reward"], folder.path, ["png", "svg"])
    return time.perf_counter() - began
