"""``spangym compare``: run a study."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.catalog import agents, complete, studies
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.studies.field_types import MAX_STEPS
from spangym.utils.errors import UserError
from spangym.utils.text import shell_join


def command(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            autocompletion=complete(studies),
            help="A TOML file or a built-in study; default: quickstart.",
        ),
    ] = None,
    seeds: options.Seeds = None,
    settings: options.Set = None,
    total_timesteps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_STEPS,
            help="Steps of each training. With --resume it may be raised, to train longer.",
        ),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AGENT",
            autocompletion=complete(agents),
            help="Compare only this agent with the baselines (repeatable): an agent of the study, "
            "another built-in one, or your own module:Class.",
        ),
    ] = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = None,
    out: options.Out = None,
    resume: options.Resume = None,
    checkpoint_seconds: options.CheckpointSeconds = CHECKPOINT_SECONDS,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
) -> None:
    """Train and evaluate the agents of a study and compare them.

    The baselines (random, every fixed span, the oracle) are part of every comparison.

    Examples:
        spangym compare
        spangym compare long-range --seeds 5 --dry-run
        spangym compare --agent dqn --agent my_agents:Mine --seeds 1,2,3
        spangym compare --set dqn.gamma=0.5 --set ctx=128 --set evaluation.episodes=4
    """
    import torch

    from spangym.experiments.cli.running import (
        make_executor,
        memory_limit,
        print_plan,
        run_and_report,
    )
    from spangym.experiments.runner.manifest import available_cpus
    from spangym.experiments.studies.load_study import load_study, override_study
    from spangym.experiments.studies.settings import parse_settings
    from spangym.experiments.trials.start_comparison import (
        check_comparison,
        resume_comparison,
        start_comparison,
    )
    from spangym.experiments.trials.time_steps import least_seconds

    job_executor = make_executor(executor, address, workers, checkpoint_seconds)
    manifest = {"command": sys.argv, "num_workers": workers or available_cpus()}
    memory = memory_limit(executor)
    if resume is None:
        chosen = override_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            total_timesteps=total_timesteps,
            agents=agent or (),
            device=device,
            settings=parse_settings(settings or ()),
        )
        if dry_run:
            folder, work = check_comparison(chosen, out, memory)
            torch.set_num_threads(1)
            print_plan(folder, chosen, work, workers or available_cpus(), least_seconds)
            return
        folder, work = start_comparison(chosen, out, memory_bytes=memory, **manifest)
    else:
        if dry_run:
            words = ["spangym", "compare", resume / "study.toml", "--out", resume, "--dry-run"]
            raise UserError(f"--dry-run is for a study: use `{shell_join(words)}`")
        if any(each is not None for each in (study, seeds, settings, agent, device, out)):
            raise UserError(
                "--resume runs the folder's own study: combine it only with --workers, "
                "--executor, --address, --checkpoint-seconds, --quiet, and --total-timesteps to "
                "train longer"
            )
        folder, work = resume_comparison(
            resume, total_timesteps=total_timesteps, memory_bytes=memory, **manifest
        )
    run_and_report(folder, work, job_executor, quiet)
