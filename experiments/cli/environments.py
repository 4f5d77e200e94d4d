"""Commands about environments: ``spangym watch``, ``pretrain`` and ``baselines``."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TimeElapsedColumn

from spangym.envs.model.model_checkpoint import serialize
from spangym.envs.registration import ENVIRONMENTS, full_id
from spangym.experiments.benchmarks.measure import check_writable_file, describe_bench, save_bench
from spangym.experiments.cli.bench import Json
from spangym.utils.atomic_io import atomic_write
from spangym.utils.serialization import SUFFIX


def watch(
    environment: Annotated[str, typer.Argument(metavar="ID", help="A registered environment.")],
    agent: Annotated[
        str,
        typer.Option(
            help="Who plays: random, fixed:0 to fixed:9, refiner or module:Class as yet untrained, "
            "or the folder of a finished trial, RUN/trials/ENVIRONMENT/AGENT/seed-N-KEY."
        ),
    ],
    video: Annotated[
        Path | None,
        typer.Option(help="File for a video, .mp4 or .gif; else the pictures are printed as text."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
) -> None:
    """Play one episode of evaluation, as a video or as text."""
    from spangym.experiments.trials.watch_episode import (
        check_video,
        load_policy,
        render_episode,
        save_video,
    )

    if video is not None:
        check_video(video)
    torch.set_num_threads(1)
    policy_run = load_policy(environment, agent, seed)
    if video is None:
        for text in render_episode(policy_run, seed, "ansi"):
            print(text, end="\n\n")
    else:
        frames = save_video(video, render_episode(policy_run, seed, "rgb_array"))
        print(f"written: {video} ({frames} frames)")


def pretrain(
    environment: Annotated[
        str, typer.Argument(metavar="ID", help="An id with trained layers: spangym/SpanBudget-v0.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the weights; else NAME.safetensors here.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=3, help="Steps of the optimizer; else the default.")
    ] = None,
) -> None:
    """Train the layers of an id at random spans, on one core of the CPU."""
    from spangym.envs.model.pretrain import evaluate, get_config, metadata, pretrain

    name, config = get_config(environment)
    if steps is not None:
        config = replace(config, steps=steps)
    path = out or Path(f"{name}{SUFFIX}")
    check_writable_file("--out", path)
    torch.set_num_threads(1)
    began = time.perf_counter()
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        bar = bars.add_task(name, total=config.steps)

        def progress(done: int, loss: float) -> None:
            said = f"{name}, step {done:,}: {loss:.3f} bits a target"
            bars.update(bar, completed=done, description=said)

        stack = pretrain(config, progress)
    losses = evaluate(stack, config)
    content = serialize(stack, metadata(config, losses, time.perf_counter() - began))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)
    reached = ", ".join(f"{action}: {loss:.3f}" for action, loss in losses.items())
    print(f"bits a target on evaluation streams, by span: {reached}")
    print(f"written: {path} ({len(content):,} bytes)")


def baselines(
    environments: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Registered ids; else all.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each policy.")] = 16,
    json: Json = None,
) -> None:
    """Measure the returns of non-learning baselines, and the best that can be had."""
    from spangym.experiments.benchmarks.baselines import baselines_table, measure_baselines

    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(1)
    names = [full_id(name) for name in environments or ENVIRONMENTS]
    measured = []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        for name in names:
            bar = bars.add_task(name, total=None)

            def progress(done: int, total: int, bar: TaskID = bar) -> None:
                bars.update(bar, completed=done, total=total)

            measured.append(measure_baselines(name, episodes, progress))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(baselines_table(measured))
    if json is not None:
        save_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        print(f"written: {json}")
