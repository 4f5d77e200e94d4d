"""The command line `spangym`: a table of commands, each in a module that is imported on demand.

`spangym.experiments.cli.entry` is the entry point. The module ``cmd_NAME`` holds ``command``: the
function of a command, or a Typer app with subcommands.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "compare": "Train and evaluate the agents of a study and compare them.",
    "curves": "Redraw figures from the stored results of runs, without training.",
    "validate": "Replay a run's evaluation episodes and compare the results with the stored ones.",
    "leaderboard": "Replay the evaluation episodes of runs and rank the agents by score.",
    "tune": "Search for hyperparameters of a study's agent with Optuna.",
    "export": "Export a trained agent to a file for spangym.attention.load_controller.",
    "watch": "Play one evaluation episode as a video or as text.",
    "baselines": "Measure the returns of non-learning baselines and of the best possible policy.",
    "pretrain": "Train the layers of an environment at random spans, on one CPU core.",
    "pilot": "Train models with controlled attention spans and compare them with plain attention.",
    "defects": "Measure the effect of each defect of the original layer.",
    "bench": "Measure speed and memory, as ratios.",
}
"""Help texts by name: `spangym --help` imports none of the commands."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class LazyGroup(TyperGroup):
    """Imports the module of a command when the command is run."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command instead of the one that only carries the help text."""
        name, _, rest = super().resolve_command(ctx, args)
        command = importlib.import_module(f"spangym.experiments.cli.cmd_{name}").command
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name)(command)
            command = single
        return name, typer.main.get_command(command), rest

    def invoke(self, ctx: Any) -> Any:
        """Report Ctrl-C where the command does not."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("spangym: interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="spangym",
    cls=LazyGroup,
    help="Compare agents that control the attention span of live layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"spangym {importlib.metadata.version('spangym')}")
        raise typer.Exit
