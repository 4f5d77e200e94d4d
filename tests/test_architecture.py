"""Imports run experiments -> agents, envs -> attention -> utils; there is no cycle."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("utils", "attention", "envs", "agents", "experiments")
MAY_IMPORT = {
    "utils": {"utils"},
    "attention": {"utils", "attention"},
    "envs": {"utils", "attention", "envs"},
    "agents": {"utils", "attention", "agents"},
    "experiments": set(PACKAGES),
}


def read_sources() -> dict[str, str]:
    """Sources by dotted name, stubs of lazy packages included."""
    sources = {}
    for package in PACKAGES:
        folder = ROOT / "spangym" / package if package == "utils" else ROOT / package
        for path in [*folder.rglob("*.py"), *folder.rglob("*.pyi")]:
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join(("spangym", package, *parts)).removesuffix(".__init__")
            sources[name] = sources.get(name, "") + path.read_text()
    return sources


def find_imports(sources: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of modules (importing, imported), wherever in a module the import stands."""
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level:
                # Relative imports are those of the stubs: the names of a lazy package.
                continue
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = [f"{node.module}.{each.name}" for each in node.names]
            else:
                continue
            for each in imported:
                if each.startswith("spangym"):
                    yield name, each if each in sources else each.rpartition(".")[0]


def back_imports(sources: Mapping[str, str]) -> list[tuple[str, str]]:
    """Imports against the direction."""
    return [
        (one, other)
        for one, other in find_imports(sources)
        if other.split(".")[1] not in MAY_IMPORT[one.split(".")[1]]
    ]


def find_cycle(sources: Mapping[str, str]) -> list[str]:
    """Modules of an import cycle; empty if there is none."""
    graph: dict[str, set[str]] = {}
    for one, other in find_imports(sources):
        graph.setdefault(one, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


DATASETS = read_sources()


def test_no_package_imports_back():
    assert back_imports(DATASETS) == []


def test_no_module_is_part_of_a_cycle():
    assert find_cycle(DATASETS) == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("spangym.attention.geometry", "from spangym.envs.core import SpanControlCore"),
        ("spangym.envs.core", "def late():\n    from spangym.agents import base"),
        ("spangym.utils.errors", "import spangym.attention.geometry"),
    ],
)
def test_planted_back_imports_are_found(module: str, planted: str):
    sources = DATASETS | {module: f"{DATASETS[module]}\n{planted}\n"}
    assert [one for one, _ in back_imports(sources)] == [module]


def test_planted_cycle_is_found():
    lazy = "def late():\n    from spangym.experiments.runner.run_job import run_jobs\n"
    module = "spangym.experiments.runner.job"
    assert module in find_cycle(DATASETS | {module: DATASETS[module] + lazy})


def test_no_two_modules_share_a_name():
    names = Counter(name.rpartition(".")[2] for name in DATASETS if name not in _packages())
    assert [name for name, count in names.items() if count > 1] == []


def _packages() -> set[str]:
    return {name.rpartition(".")[0] for name in DATASETS} | {f"spangym.{each}" for each in PACKAGES}


def test_every_package_is_installed():
    """A package that is missing in the list works in a checkout only."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {*listed} == _packages()
