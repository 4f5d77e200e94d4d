"""``spangym export``: export a trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from spangym.experiments.cli.terminal import echo
from spangym.experiments.trials.export_agent import export
from spangym.experiments.trials.load_agent import TRIAL_DIR_PATTERN
from spangym.utils.atomic_io import check_writable_file
from spangym.utils.errors import UserError
from spangym.utils.serialization import SUFFIX


def command(
    trial: Annotated[
        Path,
        typer.Argument(metavar="TRIAL", help=f"Folder of a finished trial, {TRIAL_DIR_PATTERN}."),
    ],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
) -> None:
    """Export a trained agent to a file for spangym.attention.load_controller."""
    check_writable_file("--out", out)
    if out.suffix != SUFFIX:
        raise UserError(f"--out: {str(out)!r} must end in {SUFFIX}")
    torch.set_num_threads(1)
    # A user's agent may change the working folder.
    controller = export(trial, out.absolute())
    layer = ", layer=INDEX" if controller.observation.include_layer_index else ""
    echo(f"written: {out}")
    echo(f"use: layer.refiner = spangym.attention.load_controller({str(out)!r}{layer})")
