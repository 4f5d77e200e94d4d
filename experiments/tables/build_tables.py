"""Makes tables by jobs, before the jobs that need them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console

from spangym.envs import EnvComponents, EnvConfig
from spangym.envs.tables.table_file import TableRequest, open_shipped
from spangym.envs.tables.tabulate import merge_blocks, prepare_parts, tabulate_levels
from spangym.experiments.runner.job import Executor, Job
from spangym.experiments.runner.progress import show_progress
from spangym.experiments.runner.run_job import run_jobs
from spangym.experiments.runner.run_plan import format_seconds
from spangym.experiments.tables.table_job import find_request, is_complete, jobs_of, live_core
from spangym.utils.errors import RunError, UserError
from spangym.utils.process_state import preserve_process_state
from spangym.utils.text import pluralize, printable


@runtime_checkable
class UsesTables(Protocol):
    """A job that may read tables.

    Attributes:
        tables_key: Jobs of a run with equal keys read the same tables.
    """

    @property
    def tables_key(self) -> str: ...  # noqa: D102  (see Attributes)

    def table_configs(self) -> list[EnvConfig]:
        """Return the environments that look everything up in tables."""
        ...


@dataclass(frozen=True)
class TableBuild:
    """A table to be made, of an environment without objects of the user's own.

    Attributes:
        config: Environment.
        request: What the table must be.
    """

    config: EnvConfig
    request: TableRequest

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.request.path.name

    def missing_levels(self) -> int:
        """Return the number of levels that are not evaluated yet."""
        if self.request.find() is not None:
            return 0
        jobs = jobs_of(self.config, self.request)
        return sum(job.total for job, folder in jobs if not is_complete(folder))

    def describe_plan(self, num_workers: int) -> str:
        """Say in a line what is missing, and estimate the time that it takes."""
        levels = pluralize(self.request.num_levels, "level")
        if (path := self.request.find()) is not None:
            return f"table {path.name}: exists already"
        missing = self.missing_levels()
        seconds = missing * self._measure_level() / num_workers
        return (
            f"table {self.name}: {missing:,} of {levels} are to be made, which takes about "
            f"{format_seconds(seconds)} with {pluralize(num_workers, 'worker')}"
        )

    def _measure_level(self) -> float:
        """Measure the seconds of a level."""
        core, start = live_core(self.config), self.request.start_level
        with preserve_process_state():
            # The first call is slower.
            tabulate_levels(core, range(start, start + 1))
            began = time.perf_counter()
            tabulate_levels(core, range(start, start + 1))
        return time.perf_counter() - began


def plan_tables(configs: Iterable[EnvConfig]) -> list[TableBuild]:
    """Return the tables that environments need, made or not, each once; without shipped ones.

    Raises:
        UserError: An environment cannot be made, or its chunks are not independent.
    """
    builds: list[TableBuild] = []
    tabulated = [
        each
        for each in configs
        if each.backend == "table" and open_shipped(each, EnvComponents()) is None
    ]
    for config in sorted(tabulated, key=lambda each: -each.num_levels):
        config = _without_observation(config)
        try:
            with preserve_process_state():
                request = find_request(config)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        if not any(
            each.request.identity == request.identity and request.covers(each.request.metadata)
            for each in builds
        ):
            builds.append(TableBuild(config, request))
    return builds


def tables_of(jobs: Iterable[Job]) -> list[TableBuild]:
    """Return the tables that jobs need, made or not, each once; see `plan_tables`."""
    users = {job.tables_key: job for job in jobs if isinstance(job, UsesTables)}
    return plan_tables(config for job in users.values() for config in job.table_configs())


def _without_observation(config: EnvConfig) -> EnvConfig:
    """Return an environment with the same table, so that agents share a look-up of its identity."""
    same = {
        each.name: each.default
        for each in dataclasses.fields(EnvConfig)
        if each.name in ("encoding", "pool_groups", "autocorrelation", "include_layer_index")
        or each.name in ("num_states", "chunks_per_episode")
    }
    return dataclasses.replace(config, **same)


def build_tables(
    builds: Sequence[TableBuild], executor: Executor, console: Console, resume_command: str
) -> list[Path]:
    """Make the tables that are missing, and return the folders of all.

    Finished blocks of an interrupted call are kept. A table that another process is making is
    awaited.

    Raises:
        RunError: A block failed.
        KeyboardInterrupt: Ctrl-C; the message says how to resume.
    """
    with contextlib.ExitStack() as stack:
        missing: list[TableBuild] = []
        # In a common order, so that two runners never wait for each other.
        for each in sorted(builds, key=lambda build: build.request.path):
            line = f"another process makes table {each.name}; waiting for it"
            say = functools.partial(_print, console, line)
            if stack.enter_context(prepare_parts(each.request, say)) is None:
                missing.append(each)
        if missing:
            _run(missing, executor, console, resume_command)
            for each in missing:
                merge_blocks(each.request)
    found = [each.request.find() for each in builds]
    return [path for path in found if path is not None]


def _run(
    builds: Sequence[TableBuild], executor: Executor, console: Console, resume_command: str
) -> None:
    placed = [pair for each in builds for pair in jobs_of(each.config, each.request)]
    left = [pair for pair in placed if not is_complete(pair[1])]
    jobs = [job for job, _ in placed]
    finished = [job for job, folder in placed if is_complete(folder)]
    for each in builds:
        _print(console, f"table {each.name}: {pluralize(each.request.num_levels, 'level')}")
    if finished:
        _print(console, f"{len(finished)} of {len(jobs)} blocks are finished already")
    try:
        with show_progress(console, jobs, finished) as show:
            failed = run_jobs(left, executor, show)
    except KeyboardInterrupt:
        done = sum(is_complete(folder) for _, folder in placed)
        raise KeyboardInterrupt(
            f"interrupted: {done} of {len(placed)} blocks of tables are finished; resume with: "
            f"{resume_command}"
        ) from None
    if failed:
        job_id, error = next(iter(failed.items()))
        raise RunError(f"a table cannot be made: {job_id}: {error}")


def _print(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
