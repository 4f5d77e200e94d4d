"""The command line `spangym`: a table of commands, each in a module that is imported on demand.

`spangym.experiments.cli.entry` is the entry point. The module ``cmd_NAME`` holds ``command``: the
function of a command, or a Typer app with subcommands.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from typing import Annotated, Any

import typer

from spangym.experiments.cli.help_page import HelpCommand, HelpGroup
from spangym.utils.suggestions import closest

COMMANDS = {
    "list": "List the environments, agents, studies, search spaces and tables by name.",
    "compare": "Train and evaluate the agents of a study and compare them.",
    "tune": "Search for hyperparameters of a study's agent with Optuna.",
    "pilot": "Train models with controlled attention spans and compare them with plain attention.",
    "show": "Print the results of runs: tables, conclusions, and what is not finished.",
    "curves": "Redraw figures from the stored results of runs, without training.",
    "leaderboard": "Replay the evaluation episodes of runs and rank the agents by score.",
    "validate": "Replay a run's evaluation episodes and compare the results with the stored ones.",
    "watch": "Play one evaluation episode as a video or as text.",
    "clean": "Remove what is of no use from the folder of a run, or from the stored tables.",
    "export": "Export a trained agent to a file for spangym.attention.load_controller.",
    "pretrain": "Train the layers of an environment at random spans, on one CPU core.",
    "tabulate": "Evaluate every action sequence of an environment's levels into a table.",
    "baselines": "Measure the returns of non-learning baselines and of the best possible policy.",
    "defects": "Measure the effect of each defect of the original layer.",
    "bench": "Measure speed, memory, and what an observation is worth.",
}
"""Help texts by name: `spangym --help` imports none of the commands."""

PANELS = {
    "Compare": ("list", "compare", "tune", "pilot"),
    "Results": ("show", "curves", "leaderboard", "validate", "watch", "clean"),
    "Models": ("export", "pretrain", "tabulate"),
    "Measure": ("baselines", "defects", "bench"),
}
"""Commands by their heading on the help page."""

OTHER_WORDS = {
    "list": "ls envs environments agents studies",
    "compare": "train run learn fit experiment",
    "tune": "optimize sweep hpo search optuna",
    "curves": "plot plots draw figure figures graph",
    "leaderboard": "rank ranking scores",
    "validate": "eval evaluate test check replay verify reproduce",
    "watch": "enjoy play render video record visualize",
    "export": "save convert",
    "tabulate": "precompute cache memoize enumerate",
    "baselines": "baseline random",
    "bench": "benchmark perf speed profile",
    "show": "results table tables print summary report cat view",
    "clean": "rm gc prune remove delete purge",
    "--help": "help usage man",
    "--version": "version",
}
"""Words of other programs by the name of the command that does the same."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@functools.cache
def load_command(name: str) -> Any:
    """Import the module of a command and return the command."""
    command = importlib.import_module(f"spangym.experiments.cli.cmd_{name}").command
    if not isinstance(command, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, cls=HelpCommand)(command)
        command = single
    return typer.main.get_command(command)


class LazyGroup(HelpGroup):
    """Imports the module of a command when the command is run, or its options are completed."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        panels = {name: panel for panel, names in PANELS.items() for name in names}
        self.commands = {
            name: HelpCommand(name, help=text, short_help=text, rich_help_panel=panels.get(name))
            for name, text in sorted(COMMANDS.items(), key=lambda each: [*panels].index(each[0]))
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command instead of the one that only carries the help text."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(name), rest

    def describe_unknown(self, ctx: Any, name: str) -> str:
        """Suggest the command of a similar name, or the one that other programs call so."""
        del ctx
        others = {
            word: command
            for command, words in OTHER_WORDS.items()
            if command in COMMANDS or command.startswith("-")
            for word in words.split()
        }
        near = closest(name, [*COMMANDS, *others])
        same = dict.fromkeys(others.get(each, each) for each in near)
        hint = "see: spangym --help"
        if same:
            hint = f"did you mean {' or '.join(f'`spangym {each}`' for each in same)}?"
        return f"there is no command {name!r}; {hint}"

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
    help="""Compare agents that control the attention span of live PyTorch layers.

    Examples:
        spangym list                                 # environments, agents, studies
        spangym compare                              # the quickstart
        spangym compare suite --seeds 5 --workers 8
        spangym curves runs/quickstart --figure all
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"spangym {importlib.metadata.version('spangym')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    del version
