"""``spangym list``: names of environments, agents, studies, search spaces and tables."""

from __future__ import annotations

import itertools
import json as json_module
from collections.abc import Iterator
from typing import Annotated, Literal

import typer
from rich.text import Text

from spangym.experiments.cli.catalog import CATALOG
from spangym.experiments.cli.terminal import echo, make_console, print_lists
from spangym.utils.text import printable

_HEADINGS = {
    "envs": "Environments",
    "agents": "Agents, to which your own are added as module:Class",
    "studies": "Studies of spangym compare, to which your own TOML files are added",
    "pilots": "Studies of spangym pilot",
    "spaces": "Search spaces of spangym tune, with their hyperparameters",
    "tables": "Tables of spangym tabulate",
}


def command(
    kind: Annotated[
        Literal["envs", "agents", "studies", "pilots", "spaces", "tables"] | None,
        typer.Argument(help="What to list; default: everything."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: descriptions by name.")] = False,
) -> None:
    """List the environments, agents, studies, search spaces and tables by name.

    A table is stale if the installed code cannot use it: `spangym clean --tables` removes it.

    Examples:
        spangym list
        spangym list agents
        spangym list envs --json
    """
    names = {each: CATALOG[each]() for each in ([kind] if kind else CATALOG)}
    if json:
        print(json_module.dumps(names[kind] if kind else names, indent=2))
        return
    if kind and not names[kind]:
        echo(f"there are no {kind}", error=True)
        return
    console = make_console()
    if kind and not console.is_terminal:
        width = max(map(len, names[kind]))
        for name, description in names[kind].items():
            echo(f"{name:{width}}  {description}")
    else:
        rows = {
            heading: [
                (Text(name, "bold cyan"), Text(printable(description)))
                for name, description in _merge_numbers(names[each])
            ]
            for each, heading in _HEADINGS.items()
            if names.get(each)
        }
        print_lists(console, rows)


def _merge_numbers(rows: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Join names that follow each other with the same description, such as ``fixed:0``."""
    for description, group in itertools.groupby(rows, rows.__getitem__):
        first, *more = group
        yield f"{first} to {more[-1]}" if more else first, description
