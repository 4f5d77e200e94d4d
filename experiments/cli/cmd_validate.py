"""``spangym validate``: replay a run's evaluation episodes."""

from __future__ import annotations

from typing import Annotated

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.terminal import echo
from spangym.utils.errors import UserError


def command(
    folder: options.Run,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only episodes that differ.")
    ] = False,
) -> None:
    """Replay a run's evaluation episodes and compare the results with the stored ones.

    The exit code is 1 if an episode is not reproduced.

    Examples:
        spangym validate runs/quickstart
        spangym validate runs/quickstart --quiet
    """
    import torch

    from spangym.experiments.runner.run_dir import RunDir
    from spangym.experiments.trials.comparison_run import COMPARISON
    from spangym.experiments.trials.replay import validate

    run = RunDir.open(folder, COMPARISON)
    torch.set_num_threads(1)
    failed = rounded = total = 0
    for row in validate(run):
        if row.difference or not quiet:
            echo(row)
        total += 1
        failed += not row.reproduced
        rounded += row.reproduced and bool(row.difference)
    if not total:
        raise UserError(f"no trial is finished in {str(folder)!r}: there is nothing to replay")
    exact = total - failed - rounded
    echo(f"{total - failed} of {total} episodes are reproduced, {exact} of them bit-exact")
    if failed:
        stored, current = run.manifest(), run.study().content_hashes()
        for name, what in (("content_sha256", "content"), ("weights_sha256", "weights")):
            if stored.get(name) != current[name]:
                echo(f"the run was made with different {what}, see its manifest.json")
        raise typer.Exit(1)
