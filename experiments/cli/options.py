"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spangym.experiments.studies.field_types import MAX_SEEDS
from spangym.utils.atomic_io import check_writable_file

ExecutorName = Literal["local", "ray"]
TaskName = Literal["speech", "text"]


def _check_json(path: Path | None) -> Path | None:
    if path is not None:
        check_writable_file("--json", path)
    return path


Address = Annotated[
    str | None, typer.Option(help="Ray cluster, HOST:PORT; default: start one on this machine.")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0, max=1e9, help="Minimum time between two checkpoints of a training.")
]
Device = Annotated[str | None, typer.Option(help="PyTorch device, e.g. cpu or cuda:0.")]
Executor = Annotated[
    ExecutorName, typer.Option(help="Run jobs in local processes or on a Ray cluster.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", callback=_check_json, help="Write the results to this file too."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the results; default: runs/STUDY. Finished jobs in it are kept, "
        "interrupted ones are resumed."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller sizes and fewer repetitions.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only failures.")]
Resume = Annotated[
    Path | None, typer.Option(help="Resume the run in this folder, with its own study.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_SEEDS, help="Number of training seeds, counted from 0."),
]
TrainedAgentName = Annotated[
    str, typer.Option("--agent", metavar="AGENT", help="Name of the agent in the study.")
]
TrainedEnv = Annotated[
    str | None,
    typer.Option(
        "--env", metavar="ENV_ID", help="Environment; needed if the agent has several in the run."
    ),
]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Parallel jobs on this machine; default: one a CPU core."),
]
