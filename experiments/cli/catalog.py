"""Names that the command line lists and completes, with descriptions; nothing heavy is imported."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable

from spangym.agents.agent_names import BUILTIN_AGENTS, registered_agents
from spangym.envs.registration import descriptions
from spangym.experiments.cli.terminal import completion_help
from spangym.experiments.plots.plot_names import TITLES
from spangym.utils.cache import cache_dir
from spangym.utils.toml import builtin_texts


def agents() -> dict[str, str]:
    """Return built-in agents and those that other packages register."""
    return BUILTIN_AGENTS | registered_agents()


def envs() -> dict[str, str]:
    """Return the ids of the environments, also of other packages."""
    return descriptions()


def studies() -> dict[str, str]:
    """Return the built-in studies of `spangym compare`, the first one to try before the others."""
    texts = builtin_texts("spangym.experiments.studies", "builtin")
    names = sorted(texts, key=lambda name: (name != "quickstart", name))
    return {name: _first_sentence(texts[name]) for name in names}


def pilots() -> dict[str, str]:
    """Return the built-in studies of `spangym pilot`, as ``TASK STUDY``."""
    texts = builtin_texts("spangym.experiments.pilot", "builtin")
    return {name.replace("-", " ", 1): _first_sentence(texts[name]) for name in sorted(texts)}


def spaces() -> dict[str, str]:
    """Return the search spaces of `spangym tune`, with their hyperparameters."""
    texts = builtin_texts("spangym.experiments.tuning", "spaces")
    # The start and end of a schedule are two keys.
    keys = {name: [key.partition(".")[0] for key in tomllib.loads(texts[name])] for name in texts}
    return {name: ", ".join(dict.fromkeys(keys[name])) for name in sorted(keys)}


def tables() -> dict[str, str]:
    """Return the stored tables of `spangym tabulate`, with environment, levels, size and state."""
    if not (cache_dir() / "tables").is_dir():
        return {}
    # Most calls have no table to read.
    from spangym.experiments.tables.stored_tables import stored_tables

    return {each.path.name: each.description for each in stored_tables()}


def figures() -> dict[str, str]:
    """Return the figures of `spangym curves`, with their titles."""
    titles = {name: title.format(Metric="Error or loss") for name, title in TITLES.items()}
    return titles | {"all": "Every figure"}


CATALOG: dict[str, Callable[[], dict[str, str]]] = {
    "envs": envs,
    "agents": agents,
    "studies": studies,
    "pilots": pilots,
    "spaces": spaces,
    "tables": tables,
}
"""What `spangym list` lists, as functions that return descriptions by name."""


def complete(names: Callable[[], dict[str, str]]) -> Callable[[str], Iterable[tuple[str, str]]]:
    """Return the completion of an option or argument whose values are such names."""
    return lambda incomplete: [
        (name, completion_help(description))
        for name, description in names().items()
        if name.startswith(incomplete)
    ]


def _first_sentence(toml: str) -> str:
    """Return the first sentence of the comment that begins a TOML file."""
    lines = []
    for line in toml.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).partition(". ")[0].removesuffix(".")
