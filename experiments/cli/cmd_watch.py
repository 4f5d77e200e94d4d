"""``spangym watch``: play one episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.catalog import agents, complete, envs
from spangym.experiments.cli.terminal import echo
from spangym.utils.errors import UserError


def command(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV_ID|RUN",
            autocompletion=complete(envs),
            help="A registered environment, or folder of a run.",
        ),
    ],
    agent: Annotated[
        str,
        typer.Option(
            metavar="AGENT",
            autocompletion=complete(agents),
            help="In a run: name of a trained agent. In an environment: random, fixed:0 to "
            "fixed:9, full, oracle, ..., or refiner or module:Class, both untrained.",
        ),
    ],
    env: options.TrainedEnv = None,
    settings: options.SetArgument = None,
    train_seed: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Training seed in a run; default: the first of the study."
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Video file, .mp4 or .gif; default: print the episode as text."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Seed of the episode.")
    ] = 0,
) -> None:
    """Play one evaluation episode as a video or as text.

    Examples:
        spangym watch SpanControl-v0 --agent fixed:3
        spangym watch SpanControl-v0 --agent oracle --set ctx=64 --set dataset=code
        spangym watch runs/quickstart --agent dqn --video dqn.gif
    """
    import torch

    from spangym.experiments.runner.run_dir import RunDir
    from spangym.experiments.studies.settings import parse_settings
    from spangym.experiments.trials.comparison_run import COMPARISON
    from spangym.experiments.trials.watch_episode import (
        check_video,
        load_policy,
        load_trained_policy,
        render_episode,
        save_video,
    )

    # A user's agent may change the working folder.
    path = None if video is None else video.absolute()
    if video is not None:
        check_video(video)
    torch.set_num_threads(1)
    changes = parse_settings(settings or ())
    if Path(environment).is_dir():
        run = RunDir.open(Path(environment), COMPARISON)
        policy_run = load_trained_policy(run, agent, env, train_seed, changes)
    elif env is None and train_seed is None:
        policy_run = load_policy(environment, agent, seed, changes)
    else:
        raise UserError(
            f"--env and --train-seed are for a trained agent: {environment!r} is no folder of a run"
        )
    if path is None:
        for text in render_episode(policy_run, seed, "ansi"):
            for line in (*text.split("\n"), ""):
                echo(line)
    else:
        frames = save_video(path, render_episode(policy_run, seed, "rgb_array"))
        echo(f"written: {video} ({frames} frames)")
