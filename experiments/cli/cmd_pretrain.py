"""``spangym pretrain``: train the layers of an environment."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from spangym.envs.model.model_checkpoint import serialize
from spangym.envs.model.pretrain import evaluate, get_config, metadata, pretrain
from spangym.experiments.cli.terminal import echo, make_progress
from spangym.experiments.studies.field_types import MAX_STEPS
from spangym.utils.atomic_io import atomic_write, check_writable_file
from spangym.utils.serialization import SUFFIX


def command(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV_ID", help="An environment with trained layers, e.g. spangym/SpanBudget-v0."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the weights; default: ./NAME.safetensors.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=3, max=MAX_STEPS, help="Optimizer steps; default: the environment's."),
    ] = None,
) -> None:
    """Train the layers of an environment at random spans, on one CPU core."""
    name, config = get_config(environment)
    if steps is not None:
        config = replace(config, steps=steps)
    path = out or Path(f"{name}{SUFFIX}")
    check_writable_file("--out", path)
    torch.set_num_threads(1)
    began = time.perf_counter()
    with make_progress() as bars:
        bar = bars.add_task(name, total=config.steps)

        def progress(done: int, loss: float) -> None:
            description = f"{name}, step {done:,}: {loss:.3f} bits a target"
            bars.update(bar, completed=done, description=description)

        stack = pretrain(config, progress)
    losses = evaluate(stack, config)
    content = serialize(stack, metadata(config, losses, time.perf_counter() - began))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)
    by_action = ", ".join(f"{action}: {loss:.3f}" for action, loss in losses.items())
    echo(f"evaluation loss by action, bits a target: {by_action}")
    echo(f"written: {path} ({len(content):,} bytes)")
