"""Commands about trained agents: ``spangym export`` and ``spangym bench agents``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from spangym.experiments.benchmarks.measure import check_writable_file
from spangym.experiments.cli.bench import Json, Threads, run_benchmark
from spangym.utils.errors import UserError


def export(
    trial: Annotated[
        Path,
        typer.Argument(
            metavar="TRIAL",
            help="The folder of a finished trial, RUN/trials/ENVIRONMENT/AGENT/seed-N-KEY.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
) -> None:
    """Write a trained agent to a file, to control layers: load_controller(FILE)."""
    from spangym.experiments.trials.export_agent import export as write
    from spangym.utils.serialization import SUFFIX

    check_writable_file("--out", out)
    if out.suffix != SUFFIX:
        raise UserError(f"--out: {str(out)!r} must end in {SUFFIX}")
    torch.set_num_threads(1)
    controller = write(trial, out)
    layer = ", layer=INDEX" if controller.observation.include_layer_index else ""
    print(f"written: {out}")
    print(f"use: layer.refiner = spangym.attention.load_controller({str(out)!r}{layer})")


def bench_agents(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds.")] = False,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure what a decision costs beside the layer it is for, and how fast a table learns."""
    from spangym.experiments.benchmarks.bench_agents import run

    run_benchmark(lambda: run(quick), threads, json)
