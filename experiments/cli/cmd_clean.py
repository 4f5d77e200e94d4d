"""``spangym clean``: remove what is of no use from a run, or from the stored tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spangym.envs.tables.table_folder import tables_dir
from spangym.experiments.cli.terminal import echo
from spangym.utils.errors import UserError
from spangym.utils.text import pluralize

if TYPE_CHECKING:
    from spangym.experiments.runner.clean_run import Leftover
    from spangym.experiments.runner.run_dir import RunDir

_MEGABYTE = 1e6


def command(
    folder: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run.")] = None,
    tables: Annotated[
        bool,
        typer.Option(
            "--tables",
            help="Remove the tables that the installed code cannot use, and incomplete ones.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove what is of no use from the folder of a run, or from the stored tables.

    In the folder of a run these are superseded trials and temporary files. A trial is superseded
    when the study was changed and run again in the same folder. Temporary files of killed processes
    are removed after an hour.

    Examples:
        spangym clean runs/mine --dry-run
        spangym clean runs/mine
        spangym clean --tables
    """
    if tables == (folder is not None):
        raise UserError("clean needs either the folder of a run or --tables")
    if folder is not None:
        _clean_run(folder, dry_run)
    else:
        _clean_tables(dry_run)


def _clean_run(folder: Path, dry_run: bool) -> None:
    from spangym.experiments.analysis.load_results import open_run
    from spangym.experiments.runner.clean_run import find_leftovers, remove_leftovers

    run = open_run(folder)
    found = find_leftovers(run)
    done, verb = found, "would remove"
    if not dry_run:
        run.check_writable()
        done, verb = remove_leftovers(run, found), "removed"
    jobs = files = size = 0
    for each in done:
        what = "superseded trial" if each.is_job else "temporary file"
        echo(f"{verb}: {_name(run, each)} ({what}, {each.size / _MEGABYTE:.1f} MB)")
        jobs, files, size = jobs + each.is_job, files + (not each.is_job), size + each.size
    for each in [] if dry_run else found:
        if each.path.exists():
            echo(f"kept: {_name(run, each)}: another process uses it")
    trials, others = pluralize(jobs, "superseded trial"), pluralize(files, "temporary file")
    echo(f"{verb}: {trials}, {others}, {size / _MEGABYTE:.1f} MB")


def _clean_tables(dry_run: bool) -> None:
    from spangym.experiments.tables.stored_tables import remove_tables, stored_tables

    stored = stored_tables()
    found = [each for each in stored if each.state != "usable"]
    done, verb = (found, "would remove") if dry_run else (remove_tables(found), "removed")
    number = size = 0
    for each in done:
        echo(f"{verb}: {each.path.name} ({each.state} table, {each.size / _MEGABYTE:.1f} MB)")
        number, size = number + 1, size + each.size
    for each in [] if dry_run else found:
        if each.path.exists():
            echo(f"kept: {each.path.name}: another process makes it")
    usable = [each.size for each in stored if each.state == "usable"]
    if usable:
        kept = f"{pluralize(len(usable), 'usable table')}, {sum(usable) / _MEGABYTE:.1f} MB"
        echo(f"kept: {kept}, in {tables_dir()}")
    echo(f"{verb}: {pluralize(number, 'table')}, {size / _MEGABYTE:.1f} MB")


def _name(run: RunDir[Any, Any], leftover: Leftover) -> str:
    return leftover.path.relative_to(run.path).as_posix()
