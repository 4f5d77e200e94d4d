"""``spangym pretrain``: train the layers of an environment."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spangym.experiments.cli.catalog import complete, envs
from spangym.experiments.cli.terminal import echo, make_progress
from spangym.experiments.studies.field_types import MAX_STEPS
from spangym.utils.atomic_io import atomic_write, check_writable_file
from spangym.utils.errors import UserError

if TYPE_CHECKING:
    from spangym.envs.model.pretrain import AnyPretrainConfig


def command(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV_ID",
            autocompletion=complete(envs),
            help="An environment with trained layers, e.g. spangym/SpanBudget-v0.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the weights; default: NAME.safetensors."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=3,
            max=MAX_STEPS,
            metavar="N",
            help="Optimizer steps; default: the environment's.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the training (repeatable), e.g. batch=32 or model.dims=64.",
        ),
    ] = None,
) -> None:
    """Train the layers of an environment at random spans, on one CPU core.

    Keys of --set are the attributes of the training, such as batch, learning_rate, dataset and
    seed, and model.KEY for the sizes of the layers.

    Examples:
        spangym pretrain LongRange-v0
        spangym pretrain LongRange-v0 --set model.dims=64 --out wide.safetensors
    """
    import torch

    from spangym.envs.model.model_checkpoint import serialize
    from spangym.envs.model.pretrain import find_trainer, get_config, metadata
    from spangym.experiments.studies.settings import (
        parse_settings,
        with_arguments,
    )
    from spangym.utils.serialization import SUFFIX

    name, config = get_config(environment)
    config = _override(config, with_arguments(parse_settings(settings or ()), steps=steps))
    path = out or Path(f"{name}{SUFFIX}")
    check_writable_file("--out", path)
    torch.set_num_threads(1)
    pretrain, evaluate = find_trainer(config)
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


def _override(config: AnyPretrainConfig, settings: Mapping[str, Any]) -> AnyPretrainConfig:
    from spangym.envs.data.dataset_registry import validate_dataset_name
    from spangym.experiments.studies.settings import Scope, apply_settings, field_names

    data, cls, model_cls = asdict(config), type(config), type(config.model)
    names = [name for name in field_names(cls) if name != "model"]
    scopes = [
        Scope("", [data], names, "KEY"),
        Scope("model", [data["model"]], field_names(model_cls), "model.KEY"),
    ]
    # Sizes depend on each other: they are checked when all are set.
    apply_settings(settings, scopes, lambda: None)
    try:
        validate_dataset_name(data["dataset"])
        return cls(**{**data, "model": model_cls(**data["model"])})
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
