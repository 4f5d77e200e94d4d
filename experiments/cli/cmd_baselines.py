"""``spangym baselines``: returns of non-learning policies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import TaskID

from spangym.envs.registration import full_id, list_envs
from spangym.experiments.cli.catalog import complete, envs
from spangym.experiments.cli.options import Json, SetArgument
from spangym.experiments.cli.terminal import echo, make_console, make_progress
from spangym.experiments.studies.field_types import MAX_EPISODES


def command(
    environments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENV_ID",
            autocompletion=complete(envs),
            help="Registered environments; default: all.",
        ),
    ] = None,
    episodes: Annotated[
        int, typer.Option(metavar="N", min=1, max=MAX_EPISODES, help="Episodes of each policy.")
    ] = 16,
    settings: SetArgument = None,
    json: Json = None,
) -> None:
    """Measure the returns of non-learning baselines and of the best possible policy.

    Examples:
        spangym baselines LongRange-v0
        spangym baselines LongRange-v0 --episodes 4 --set cost_coef=0.5
    """
    import torch

    from spangym.experiments.benchmarks.baselines import baselines_table, measure_baselines
    from spangym.experiments.benchmarks.measure import describe_bench, save_bench
    from spangym.experiments.studies.load_study import set_arguments
    from spangym.experiments.studies.settings import parse_settings

    torch.set_num_threads(1)
    names = [full_id(name) for name in environments or list_envs()]
    arguments = set_arguments(names, parse_settings(settings or ()))
    measured = []
    with make_progress() as bars:
        for name, kwargs in zip(names, arguments, strict=True):
            bar = bars.add_task(name, total=None)

            def progress(done: int, total: int, bar: TaskID = bar) -> None:
                bars.update(bar, completed=done, total=total)

            measured.append(measure_baselines(name, episodes, progress, kwargs))
    make_console(160).print(baselines_table(measured))
    if json is not None:
        save_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        echo(f"written: {json}")
