"""The command line; `spangym.experiments.cli.entry` starts it."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from spangym.experiments.cli import (
    agents_cmd as cli_agents,
)
from spangym.experiments.cli import (
    bench as cli_measure,
)
from spangym.experiments.cli import (
    compare as cli_compare,
)
from spangym.experiments.cli import (
    environments as cli_environments,
)
from spangym.experiments.cli import (
    pilot_cmd as cli_pilot,
)
from spangym.experiments.cli import (
    runs as cli_runs,
)
from spangym.experiments.cli import (
    tune_cmd as cli_tune,
)

app = typer.Typer(
    name="spangym",
    help="Compare agents that control the attention span of live layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(f"spangym {importlib.metadata.version('spangym')}")
        raise typer.Exit


for command in (
    cli_compare.compare,
    cli_runs.curves,
    cli_runs.validate,
    cli_runs.leaderboard,
    cli_tune.tune,
    cli_agents.export,
    cli_environments.watch,
    cli_environments.baselines,
    cli_environments.pretrain,
    cli_pilot.pilot,
    cli_measure.defects,
):
    app.command()(command)

bench = typer.Typer(help="Measure speed and memory, as ratios.", no_args_is_help=True)
bench.command("attention")(cli_measure.bench_attention)
bench.command("envs")(cli_measure.bench_envs)
bench.command("agents")(cli_agents.bench_agents)
bench.command("experiments")(cli_measure.bench_experiments)
bench.command("pilot")(cli_measure.bench_pilot)
app.add_typer(bench, name="bench")
