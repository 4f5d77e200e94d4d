"""``spangym watch``: play one episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from spangym.experiments.cli.terminal import echo
from spangym.experiments.trials.watch_episode import (
    check_video,
    load_policy,
    render_episode,
    save_video,
)


def command(
    environment: Annotated[str, typer.Argument(metavar="ENV_ID", help="A registered environment.")],
    agent: Annotated[
        str,
        typer.Option(
            help="random, fixed:0 to fixed:9, refiner or module:Class (untrained), or the folder "
            "of a finished trial, RUN/jobs/ENVIRONMENT/AGENT/seed-N-KEY."
        ),
    ],
    video: Annotated[
        Path | None,
        typer.Option(help="Video file, .mp4 or .gif; default: print the episode as text."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the episode.")] = 0,
) -> None:
    """Play one evaluation episode as a video or as text."""
    # A user's agent may change the working folder.
    path = None if video is None else video.absolute()
    if video is not None:
        check_video(video)
    torch.set_num_threads(1)
    policy_run = load_policy(environment, agent, seed)
    if path is None:
        for text in render_episode(policy_run, seed, "ansi"):
            for line in (*text.split("\n"), ""):
                echo(line)
    else:
        frames = save_video(path, render_episode(policy_run, seed, "rgb_array"))
        echo(f"written: {video} ({frames} frames)")
