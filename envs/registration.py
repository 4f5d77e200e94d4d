"""The table of environment ids. A released id never changes its behavior."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from spangym.utils.suggestions import did_you_mean

NAMESPACE = "spangym"


def _trained(checkpoint: str, dataset: str, cost_coef: float) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "dataset": dataset, "reward": "task", "cost_coef": cost_coef}


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "spangym/SpanControl-v0": {},
    "spangym/SpanBudget-v0": _trained("span-budget", "mixed", cost_coef=0.6),
    "spangym/LongRange-v0": _trained("long-range", "long-range", cost_coef=1.0),
    "spangym/Collapse-v0": _trained("collapse", "collapse", cost_coef=0.5),
    "spangym/Precision-v0": _trained("precision", "precision", cost_coef=0.5),
    "spangym/Hierarchy-v0": _trained("hierarchy", "hierarchy", cost_coef=0.5),
    "spangym/Sparsity-v0": _trained("sparsity", "sparsity", cost_coef=1.0),
}
"""Ids, with the arguments that differ from the defaults of `EnvConfig`."""


def register_environments() -> None:
    """Register every id with Gymnasium; a second call has no effect."""
    for name, arguments in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(
                name,
                "spangym.envs.span_control:SpanControlEnv",
                vector_entry_point="spangym.envs.vector_env:SpanControlVectorEnv",
                kwargs=arguments,
            )


def full_id(name: str) -> str:
    """Add the namespace to an id, if it has none.

    Example:
        >>> full_id("SpanControl-v0")
        'spangym/SpanControl-v0'
    """
    return name if "/" in name else f"{NAMESPACE}/{name}"


def default_kwargs(name: str) -> dict[str, Any]:
    """Arguments of an id that differ from the defaults.

    Raises:
        ValueError: The id is unknown.
    """
    name = full_id(name)
    if name not in ENVIRONMENTS:
        raise ValueError(f"environment {name!r} is unknown{did_you_mean(name, ENVIRONMENTS)}")
    return dict(ENVIRONMENTS[name])
