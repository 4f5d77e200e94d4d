"""The jobs that a run would have: which are finished, and how long the others may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich import box
from rich.table import Table as RichTable

from spangym.experiments.runner.job import Job
from spangym.experiments.runner.job_files import RESULT_FILE, is_finished
from spangym.utils.serialization import parse_json
from spangym.utils.text import pluralize

State = Literal["finished", "resume", "run"]


@dataclass(frozen=True)
class PlannedJob:
    """A job of a run that has not been started.

    Attributes:
        job: The job.
        group: Names that it shares with the same job at other seeds, by column of a table.
        steps: Steps of its training.
        state: ``finished`` in an earlier run, ``resume`` from a checkpoint, or ``run``.
        seconds: Seconds that it took; None if it is not finished.
    """

    job: Job
    group: tuple[tuple[str, str], ...]
    steps: int
    state: State
    seconds: float | None = None


def plan_job(job: Job, row: dict[str, Any], folder: Path) -> PlannedJob:
    """Find out how far a job is; ``row`` is its row in ``jobs.json``."""
    names = {name: value for name, value in row.items() if isinstance(value, str)}
    del names["folder"]
    group = tuple(names.items())
    steps = row.get("total_timesteps", job.total)
    if is_finished(folder):
        return PlannedJob(job, group, steps, "finished", _seconds(folder))
    has_checkpoint = any(folder.glob("checkpoints/step-*"))
    return PlannedJob(job, group, steps, "resume" if has_checkpoint else "run")


def plan_table(plan: Sequence[PlannedJob]) -> RichTable:
    """Return a table of the jobs, with one row for the seeds of a group.

    Groups whose names differ after ``fixed:`` only have one row too.
    """
    rows: dict[Any, list[PlannedJob]] = {}
    for each in plan:
        names = tuple(_without_action(value) for _, value in each.group)
        rows.setdefault((names, each.steps), []).append(each)
    columns = [name for name, _ in plan[0].group]
    table = RichTable(*columns, box=box.SIMPLE_HEAD)
    for name in ("seeds", "steps", "finished", "to resume", "to run"):
        table.add_column(name, justify="right")
    for (names, steps), jobs in rows.items():
        counts = [sum(each.state == state for each in jobs) for state in State.__args__]
        distinct = {each.group for each in jobs}
        shown = [f"{name} ({len(distinct)})" if name.endswith("*") else name for name in names]
        seeds = sorted({each.job.seed for each in jobs})
        table.add_row(*shown, format_seeds(seeds), _count(steps), *map(_count, counts))
    return table


def describe_time(
    plan: Sequence[PlannedJob],
    num_workers: int,
    least_seconds: Callable[[Sequence[Job]], Sequence[float]] | None = None,
) -> str:
    """Estimate the time that the unfinished jobs take, and say what the estimate is based on.

    Args:
        plan: All jobs.
        num_workers: Number of parallel jobs.
        least_seconds: Lower bounds of the seconds that jobs take; without it, none is known for
            jobs of which no other seed is finished.
    """
    left = [each for each in plan if each.state != "finished"]
    if not left:
        return "nothing is left to run"
    taken: dict[Any, list[float]] = {}
    for each in plan:
        if each.seconds is not None:
            taken.setdefault((each.group, each.steps), []).append(each.seconds)
    known = [each for each in left if (each.group, each.steps) in taken]
    unknown = [each for each in left if (each.group, each.steps) not in taken]
    seconds = [fmean(taken[each.group, each.steps]) for each in known]
    basis = []
    if known:
        number = sum(map(len, taken.values()))
        basis.append(f"the wall times of {pluralize(number, 'finished job')} of other seeds")
    if unknown:
        if least_seconds is None:
            number = f"{len(unknown)} of " if known else ""
            return (
                f"time: not known: of {number}{len(left)} jobs to run no other seed is finished in "
                "this folder"
            )
        seconds += least_seconds([each.job for each in unknown])
        basis.append(
            "the speed of the environments alone, measured now"
            + (f" (for {pluralize(len(unknown), 'job')})" if known else "")
            + "; what agents compute comes on top"
        )
    total = max(sum(seconds) / min(num_workers, len(left)), max(seconds))
    bound = "at least" if unknown else "about"
    workers = pluralize(num_workers, "worker")
    return f"time: {bound} {format_seconds(total)} with {workers}, from {' and '.join(basis)}"


def format_seconds(seconds: float) -> str:
    """Return a time in the largest unit.

    Example:
        >>> format_seconds(8), format_seconds(90), format_seconds(5400), format_seconds(200_000)
        ('8 s', '2 min', '1.5 h', '2.3 days')
    """
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 86400 else f"{seconds / 86400:.1f} days"


def format_seeds(seeds: Sequence[int]) -> str:
    """Return sorted seeds, consecutive ones as a range.

    Example:
        >>> format_seeds([0, 1, 2, 5, 7, 8])
        '0-2, 5, 7, 8'
    """
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def _without_action(name: str) -> str:
    kind, _, action = name.partition(":")
    return "fixed:*" if kind == "fixed" and action.isdecimal() else name


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _seconds(folder: Path) -> float | None:
    try:
        result = parse_json((folder / RESULT_FILE).read_text("utf-8"))
        seconds = result.get("wall_seconds", result.get("seconds"))
        return float(seconds)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
