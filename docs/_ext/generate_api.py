"""Pages of the API reference, from the names that the packages export (`__init__.pyi`)."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[2]

SECTIONS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "spangym": {
        "experiments": (
            "Comparisons",
            [
                "spangym.experiments.studies.study.EvalConfig",
                "spangym.experiments.studies.load_study.load_study",
            ],
        ),
        "agents": ("Agents", []),
        "envs": ("Environments", []),
        "attention": (
            "Transformers models",
            ["spangym.attention.transformers.load_model.LoadedModel"],
        ),
        "utils": ("Errors", ["spangym.utils.errors.UserError"]),
    },
    "attention": {
        "layers": (
            "Layers",
            [
                f"spangym.attention.layers.decoding_cache.{name}"
                for name in (
                    "LocalDecodingCache",
                    "GlobalDecodingCache",
                    "WindowDecisions",
                    "RollingBuffer",
                )
            ],
        ),
        "original": (
            "The original layers",
            [
                "spangym.attention.layers.integrated.OriginalIntegratedAttention",
                "spangym.attention.layers.variants.OriginalFocusAttention",
                "spangym.attention.layers.variants.OriginalHybridAttention",
            ],
        ),
        "": ("Options, outputs and statistics", ["spangym.attention.geometry.SoftEdge"]),
        "controllers": ("Controllers", []),
    },
    "envs": {
        "": (
            "Environments and rewards",
            ["spangym.envs.state.Episode", "spangym.envs.state.State"],
        ),
        "data": ("Datasets", []),
        "model": ("Models", []),
        "tables": ("Tables", []),
        "testing": ("Testing", []),
    },
    "agents": {
        "": ("Agents by name", []),
        "tabular": ("Tabular agents", ["spangym.agents.tabular.q_table.QValues"]),
        "sb3": ("Stable-Baselines3", []),
        "baselines": ("Baselines", ["spangym.agents.baselines.content_oracle.ReturnStats"]),
    },
}
"""By package and subpackage, in the order of the page: heading, and documented names that the
package does not export."""


@functools.cache
def exported(package: str) -> dict[str, dict[str, str]]:
    """Exported names of a package, with their modules, by subpackage (empty for its modules)."""
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text("utf-8"))
    names: dict[str, dict[str, str]] = {}
    for node in ast.walk(stub):
        if isinstance(node, ast.ImportFrom) and node.module:
            subpackage = node.module.rpartition(".")[0].partition(".")[0]
            module = f"{_dotted(package)}.{node.module}"
            names.setdefault(subpackage, {}).update({each.name: module for each in node.names})
    return names


@functools.cache
def documented_objects() -> list[Any]:
    """All classes and functions that the pages document."""
    names = []
    for package, sections in SECTIONS.items():
        for exports in exported(package).values():
            names += [f"{module}.{name}" for name, module in exports.items()]
        names += [each for _, more in sections.values() for each in more]
    return [_find(each) for each in names]


def pages() -> dict[str, str]:
    """One page a package."""
    return {f"api/{package}.rst": _page(package) for package in SECTIONS}


def _page(package: str) -> str:
    names = exported(package)
    if missing := names.keys() - SECTIONS[package].keys():
        raise ValueError(f"generate_api.SECTIONS[{package!r}] lacks a heading for {missing}")
    lines = [
        _heading(_dotted(package), "="),
        f".. automodule:: {_dotted(package)}\n   :no-members:\n",
    ]
    for subpackage, (title, more) in SECTIONS[package].items():
        lines.append(_heading(title, "-"))
        for name, module in names.get(subpackage, {}).items():
            lines.append(_directive(f"{_dotted(package)}.{name}", f"{module}.{name}"))
        lines += [_directive(each, each) for each in more]
    return "\n".join(lines)


def _dotted(package: str) -> str:
    return package if package == "spangym" else f"spangym.{package}"


def _heading(text: str, mark: str) -> str:
    return f"{text}\n{mark * len(text)}\n"


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _directive(name: str, path: str) -> str:
    value = _find(path)
    if isinstance(value, type):
        return f".. autoclass:: {name}\n"
    if callable(value):
        return f".. autofunction:: {name}\n"
    # The text below a constant is found in the module that defines it only.
    module, _, constant = path.rpartition(".")
    text = ModuleAnalyzer.for_module(module).find_attr_docs()["", constant]
    return f".. py:data:: {name}\n\n" + "".join(f"   {line}\n" for line in text)
