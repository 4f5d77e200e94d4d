"""``spangym tabulate``: make the table of an environment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.catalog import complete, envs
from spangym.experiments.cli.terminal import echo, make_console
from spangym.utils.errors import UserError
from spangym.utils.text import pluralize

if TYPE_CHECKING:
    from spangym.experiments.tables.build_tables import TableBuild

_MAX_LEVELS = 10**6
_OPTIONS = {"num_levels": "--num-levels", "start_level": "--start-level", "device": "--device"}


def command(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV_ID",
            autocompletion=complete(envs),
            help="An environment, e.g. spangym/SpanBudget-v0.",
        ),
    ],
    num_levels: Annotated[
        int, typer.Option(metavar="N", min=1, max=_MAX_LEVELS, help="Number of levels.")
    ],
    start_level: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**31 - 1, help="First level.")
    ] = 0,
    settings: options.SetArgument = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what is missing and an estimate of the time; make nothing."
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate every action sequence of an environment's levels into a table.

    Environments with backend = "table" look everything up in it. It is stored in the folder that
    SPANGYM_CACHE names, or the platform's cache folder. An interrupted command is resumed by the
    same one. Arguments of the observation, the cost coefficient and the length of episodes make no
    difference.

    Examples:
        spangym tabulate SpanBudget-v0 --num-levels 4096
        spangym tabulate LongRange-v0 --num-levels 256 --start-level 4096 --workers 8
        spangym tabulate Collapse-v0 --num-levels 64 --set num_actions=5 --dry-run
    """
    import torch

    from spangym.envs import make_config
    from spangym.envs.registration import default_kwargs
    from spangym.experiments.cli.running import make_executor, make_tables
    from spangym.experiments.runner.job import CHECKPOINT_SECONDS
    from spangym.experiments.runner.manifest import available_cpus
    from spangym.experiments.studies.load_study import set_arguments
    from spangym.experiments.studies.settings import parse_settings
    from spangym.experiments.tables.build_tables import plan_tables

    job_executor = make_executor(executor, address, workers, CHECKPOINT_SECONDS)
    changes = parse_settings(settings or ())
    try:
        default_kwargs(environment)
    except ValueError as error:
        raise UserError(str(error)) from error
    (arguments,) = set_arguments([environment], changes)
    for name, option in _OPTIONS.items():
        if name in arguments:
            raise UserError(f"setting {name!r} is an option of its own: use {option}")
    if "backend" in arguments:
        raise UserError("setting 'backend': the layers that fill a table are live: omit it")
    levels: dict[str, Any] = {"num_levels": num_levels, "start_level": start_level}
    arguments |= {**levels, "backend": "table"} | ({"device": device} if device else {})
    try:
        config = make_config(environment, arguments)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    (build,) = builds = plan_tables([config])
    if build.request.find() is not None:
        _describe(build, "exists already", quiet)
        return
    if dry_run:
        torch.set_num_threads(1)
        echo(build.describe_plan(workers or available_cpus()))
        echo("dry run: nothing is written")
        return
    began = time.perf_counter()
    make_tables(builds, job_executor, make_console(quiet=quiet))
    _describe(build, f"made in {time.perf_counter() - began:.1f} s", quiet)


def _describe(build: TableBuild, what: str, quiet: bool) -> None:
    from spangym.experiments.runner.workload import format_bytes
    from spangym.utils.folders import folder_size

    path = build.request.find()
    if path is not None and not quiet:
        levels = pluralize(build.request.num_levels, "level")
        echo(f"{what}: {path} ({levels}, {format_bytes(folder_size(path))})")
