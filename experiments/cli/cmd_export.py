"""``spangym export``: export a trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.terminal import echo
from spangym.utils.atomic_io import check_writable_file
from spangym.utils.errors import UserError
from spangym.utils.text import slug


def command(
    folder: options.Run,
    agent: options.TrainedAgentName,
    env: options.TrainedEnv = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Training seed; default: the first of the study."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write, .safetensors; default: AGENT.safetensors."
        ),
    ] = None,
) -> None:
    """Export a trained agent to a file for spangym.attention.load_controller.

    Examples:
        spangym export runs/quickstart --agent dqn
        spangym export runs/suite --agent dqn --env SpanBudget-v0 --seed 1
    """
    import torch

    from spangym.experiments.runner.run_dir import RunDir
    from spangym.experiments.trials.comparison_run import COMPARISON
    from spangym.experiments.trials.export_agent import export_agent
    from spangym.utils.serialization import SUFFIX

    run = RunDir.open(folder, COMPARISON)
    out = out or Path(slug(agent) + SUFFIX)
    check_writable_file("--out", out)
    if out.suffix != SUFFIX:
        raise UserError(f"--out: {str(out)!r} must end in {SUFFIX}")
    torch.set_num_threads(1)
    # A user's agent may change the working folder.
    controller = export_agent(run, agent, out.absolute(), env, seed)
    trained = controller.metadata
    echo(f"written: {out} (trained in {trained['environment']} with seed {trained['seed']})")
    layer = ", layer=INDEX" if controller.observation.include_layer_index else ""
    layer += ", cost_coef=COST" if controller.observation.include_cost_coef else ""
    if "spans" in trained:
        echo(f"use: with spangym.control(model, {str(out)!r}): ...")
    else:
        echo(f"use: layer.refiner = spangym.attention.load_controller({str(out)!r}{layer})")
