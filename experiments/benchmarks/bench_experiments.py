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

from spangym.experiments.analysis.comparison_stats import analyse
from spangym.experiments.analysis.load_results import gather
from spangym.experiments.benchmarks.measure import Row
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.save import draw_figures
from spangym.experiments.reports.write_outputs import check_startable, conclude
from spangym.experiments.runner.hardware import usable_cores
from spangym.experiments.runner.job import RESULT
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.progress import QuietView
from spangym.experiments.runner.run import run_jobs
from spangym.experiments.studies.load_study import load_study, resolve
from spangym.experiments.studies.study import AgentEntry, Study, Trial
from spangym.experiments.trials.run_dir import RunFolder

_OVERHEAD_GOAL = 1.10
"""Wall time of a study over the sum of its trials' own times, divided by the processes."""
_CURVES_GOAL = 20.0
"""Seconds for a thousand trials of a thousand rows each."""


def rows(quick: bool) -> Iterator[Row]:
    """Measure the runner on real trials, and the drawing on rows that are made up.

    Args:
        quick: Shorter trainings and fewer rows.

    Yields:
        Figures as they are measured.
    """
    jobs = usable_cores()
    study = load_study("quickstart")
    steps, seeds = (64, (0,)) if quick else (2_000, (0, 1))
    study = resolve(replace(study, steps=steps, seeds=seeds))
    with tempfile.TemporaryDirectory() as place:
        yield Row(
            f"wall time over the trials' own, {len(study.trials())} trials, {jobs} processes",
            runner_overhead(study, Path(place, "run"), jobs),
            None if quick else _OVERHEAD_GOAL,
            "lower",
        )
    trials, episodes, rounds = (10, 100, 1) if quick else (1_000, 1_000, 3)
    with tempfile.TemporaryDirectory() as place:
        folder = make_run(Path(place, "run"), trials, episodes)
        times = [_seconds_of_curves(folder) for _ in range(rounds)]
        yield Row(
            f"seconds of spangym curves, {trials:,} trials of {episodes:,} rows",
            statistics.median(times),
            None if quick else _CURVES_GOAL,
            "lower",
        )


def runner_overhead(study: Study, path: Path, jobs: int) -> float:
    """Wall time of a study over the sum of its trials' own times, divided by the processes.

    From the study that is read to the report that is written; the start of Python is not in it.

    Args:
        study: What is run.
        path: Folder for the run.
        jobs: Processes.
    """
    began = time.perf_counter()
    check_startable(study)
    folder = RunFolder(path)
    trials = folder.plan(study, make_manifest(study, ["bench"], jobs))
    failed = run_jobs(folder.unfinished(), LocalExecutor(jobs), QuietView())
    conclude(folder, failed)
    wall = time.perf_counter() - began
    return wall / (sum(folder.result(trial)["wall_seconds"] for trial in trials) / jobs)


def make_run(path: Path, learners: int, episodes: int) -> RunFolder:
    """A run of made-up rows: ten agents, the trials of learners being so many.

    Args:
        path: Folder for the run.
        learners: Trials of learners; a multiple of ten.
        episodes: Of each training.
    """
    quickstart = load_study("quickstart")
    (environment,) = quickstart.environments
    agents = tuple(
        AgentEntry("refiner", label=f"agent {number}", options={"epsilon": 0.01 * (number + 1)})
        for number in range(10)
    )
    steps = episodes * environment.episode_steps
    study = resolve(
        replace(quickstart, agents=agents, steps=steps, seeds=tuple(range(learners // 10)))
    )
    folder = RunFolder(path)
    generator = np.random.default_rng(0)
    for trial in folder.plan(study, make_manifest(study, ["bench"], 1)):
        _make_up(trial, folder.folder_of(trial), generator)
    return folder


def _make_up(trial: Trial, folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    steps, judged = trial.environment.episode_steps, trial.evaluation
    episodes = trial.steps // steps
    curve = pd.DataFrame(
        {
            "step": np.arange(1, episodes + 1) * steps,
            "episode": np.arange(episodes),
            "return": generator.normal(size=episodes).cumsum(),
            "mean_span": generator.uniform(0, 384, episodes),
            "visited_keys": generator.integers(1, 1_000_000, episodes),
            "wall_seconds": np.arange(1, episodes + 1) * 0.1,
        }
    )
    evaluation = pd.DataFrame(
        {
            "evaluation_seed": judged.first_seed + np.arange(judged.episodes),
            "return": generator.normal(size=judged.episodes),
            "mean_span": generator.uniform(0, 384, judged.episodes),
            "visited_keys": generator.integers(1, 1_000_000, judged.episodes),
            "output_norm": 1.0,
            "actions": " ".join(["0"] * steps),
        }
    )
    choices = pd.DataFrame(
        {"layer": [0], "content": ["text"], "action": [0], "decisions": [steps], "span": [1.0]}
    )
    for name, table in (("curve", curve), ("evaluation", evaluation), ("choices", choices)):
        table.to_csv(folder / f"{name}.csv", index=False)
    result = {
        "training_steps": trial.steps,
        "wall_seconds": 1.0,
        "regret": None,
        "full_keys": trial.judging().full_keys,
    }
    (folder / RESULT).write_text(json.dumps(result))


def _seconds_of_curves(folder: RunFolder) -> float:
    """As ``spangym curves`` does it, from the stored rows to the picture."""
    began = time.perf_counter()
    gathered = gather([folder])
    results = Results(gathered, analyse(gathered, np.random.default_rng(0)))
    draw_figures(results, ["reward"], folder.path, ["png", "svg"])
    return time.perf_counter() - began
