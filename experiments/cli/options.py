"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spangym.experiments.cli.catalog import agents, complete
from spangym.experiments.studies.field_types import expand_seeds
from spangym.utils.atomic_io import check_writable_file
from spangym.utils.errors import UserError

ExecutorName = Literal["local", "ray"]
TaskName = Literal["speech", "text"]


def _check_json(path: Path | None) -> Path | None:
    if path is not None:
        check_writable_file("--json", path)
    return path


def _parse_seeds(text: str) -> tuple[int, ...]:
    """Read a number of seeds, counted from 0, or a list of seeds separated by commas."""
    words = [word.strip() for word in text.split(",")]
    if words[-1] == "" and len(words) > 1:
        del words[-1]
    try:
        seeds = [int(word) for word in words]
    except ValueError as error:
        raise UserError(
            f"--seeds must be a number of seeds, such as 10, or a list, such as 1,2,3, got {text!r}"
        ) from error
    try:
        return expand_seeds(seeds if "," in text else seeds[0])
    except ValueError as error:
        raise UserError(f"--seeds: {error}") from error


def _set_option(text: str) -> Any:
    values = "Values are TOML; a bare word is a string."
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{text} {values}")


Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Ray cluster; default: one that is started on this machine."
    ),
]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        max=1e9,
        help="Minimum time between two checkpoints of a training.",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="PyTorch device, e.g. cpu or cuda:0.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check the study and print its trials and an estimate of their time; run nothing.",
    ),
]
Executor = Annotated[
    ExecutorName, typer.Option(help="Run jobs in local processes or on a Ray cluster.")
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=_check_json, help="Write the results as JSON, too."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for the results; default: runs/STUDY. Finished jobs in it are kept, "
        "interrupted ones are resumed.",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller sizes and fewer repetitions.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only failures.")]
Resume = Annotated[Path | None, typer.Option(metavar="RUN", help="Resume the run in this folder.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")]
Seeds = Annotated[
    Any,
    typer.Option(
        parser=_parse_seeds,
        metavar="SEEDS",
        help="Training seeds: their number, counted from 0, or a list such as 1,2,3 (or 7, alone "
        "as 7,).",
    ),
]
SetArgument = Annotated[
    list[str] | None,
    _set_option("Change one argument of the environment (repeatable), e.g. cost_coef=0.1."),
]
PilotSet = Annotated[
    list[str] | None,
    _set_option(
        "Change one value of the study (repeatable), e.g. batch=8, model.dims=64, "
        "dqn.agent.gamma=0.5."
    ),
]
Set = Annotated[
    list[str] | None,
    _set_option(
        "Change one value (repeatable): AGENT.option, ENV.argument, or argument of every "
        "environment, e.g. dqn.gamma=0.9, ctx=128, evaluation.episodes=4."
    ),
]
TrainedAgentName = Annotated[
    str,
    typer.Option(
        "--agent",
        metavar="AGENT",
        autocompletion=complete(agents),
        help="Name of the agent in the study.",
    ),
]
TrainedEnv = Annotated[
    str | None,
    typer.Option(
        "--env", metavar="ENV_ID", help="Environment; needed if the agent has several in the run."
    ),
]
Threads = Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="CPU threads.")]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1024,
        help="Parallel jobs on this machine; default: one per CPU core.",
    ),
]
