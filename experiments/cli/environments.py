"""Commands about environments: ``spangym watch``, ``pretrain`` and ``references``."""

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

from spangym.envs.model.model_checkpoint import ENDING, to_bytes
from spangym.envs.registration import ENVIRONMENTS, full_id
from spangym.experiments.benchmarks.measure import check_writable_file, describe_bench, write_bench
from spangym.experiments.cli.bench import Json
from spangym.utils.atomic_io import written_whole


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
        find_player,
        pictures,
        write_video,
    )

    if video is not None:
        check_video(video)
    torch.set_num_threads(1)
    player = find_player(environment, agent, seed)
    if video is None:
        for text in pictures(player, seed, "ansi"):
            print(text, end="\n\n")
    else:
        frames = write_video(video, pictures(player, seed, "rgb_array"))
        print(f"written: {video} ({frames} frames)")


def pretrain(
    environment: Annotated[
        str, typer.Argument(metavar="ID", help="An id with trained layers: spangym/SpanBudget-v0.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the weights; else NAME.safetensors here.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=3, help="Steps of the optimiser; else the recipe's.")
    ] = None,
) -> None:
    """Train the layers of an id at random spans, on one core of the CPU."""
    from spangym.envs.model.pretrain import describe, judge, pretrain, recipe_of

    name, recipe = recipe_of(environment)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    path = out or Path(f"{name}{ENDING}")
    check_writable_file("--out", path)
    torch.set_num_threads(1)
    began = time.perf_counter()
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        bar = bars.add_task(name, total=recipe.steps)

        def progress(done: int, loss: float) -> None:
            said = f"{name}, step {done:,}: {loss:.3f} bits a target"
            bars.update(bar, completed=done, description=said)

        stack = pretrain(recipe, progress)
    losses = judge(stack, recipe)
    content = to_bytes(stack, describe(recipe, losses, time.perf_counter() - began))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        aside.write_bytes(content)
    reached = ", ".join(f"{action}: {loss:.3f}" for action, loss in losses.items())
    print(f"bits a target on evaluation streams, by span: {reached}")
    print(f"written: {path} ({len(content):,} bytes)")


def references(
    environments: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Registered ids; else all.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each policy.")] = 16,
    json: Json = None,
) -> None:
    """Measure what policies that learn nothing earn, and what the best would."""
    from spangym.experiments.benchmarks.baselines import make_references_table, measure_references

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

            measured.append(measure_references(name, episodes, progress))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(make_references_table(measured))
    if json is not None:
        write_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        print(f"written: {json}")
