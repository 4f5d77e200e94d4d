"""``spangym clean``: remove what neither the report of a run nor a resumption needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.terminal import echo
from spangym.utils.text import pluralize

if TYPE_CHECKING:
    from spangym.experiments.runner.clean_run import Leftover
    from spangym.experiments.runner.run_dir import RunDir

_MEGABYTE = 1e6


def command(
    folder: options.Run,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove superseded trials and temporary files from the folder of a run.

    A trial is superseded when the study was changed and run again in the same folder. Temporary
    files of killed processes are removed after an hour.

    Examples:
        spangym clean runs/mine --dry-run
        spangym clean runs/mine
    """
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


def _name(run: RunDir[Any, Any], leftover: Leftover) -> str:
    return leftover.path.relative_to(run.path).as_posix()
