"""``spangym watch``: play one episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
) -> None:
    """Play one evaluation episode as a video or as text."""
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
