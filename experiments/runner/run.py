"""Runs jobs by an executor, and shows how that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spangym.experiments.runner.events import Failed
from spangym.experiments.runner.executor import Executor
from spangym.experiments.runner.job import Job, PlacedJob
from spangym.experiments.runner.progress import ProgressReporter


def run_jobs(
    jobs: Sequence[PlacedJob], executor: Executor, reporter: ProgressReporter
) -> dict[str, str]:
    """Run jobs, of which several may have one folder: those are run once, by all their names.

    Args:
        jobs: What is run, and where; interrupted ones go on.
        executor: What runs them.
        reporter: Shown what happens.

    Returns:
        Names of the jobs that failed, each with its error in a line.
    """
    folders = {job.job_id: path for job, path in jobs}
    alike: dict[Path, list[Job]] = {}
    for job, path in jobs:
        alike.setdefault(path, []).append(job)
    failed: dict[str, str] = {}
    for event in executor.run([(same[0], path) for path, same in alike.items()]):
        for job in alike[folders[event.job.job_id]]:
            reporter.show(replace(event, job=job))
            if isinstance(event, Failed):
                failed[job.job_id] = event.error
    return failed
