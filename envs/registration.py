"""The table of environment ids. A released id never changes its behavior."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from spangym.envs.other_environments import other_environments
from spangym.utils.importing import import_module
from spangym.utils.suggestions import did_you_mean

NAMESPACE = "spangym"

ENTRY_POINT = "spangym.envs.span_control:SpanControlEnv"
"""Entry point of every id of spangym, and of ids of a user's that only set other arguments."""


def _trained(
    checkpoint: str, dataset: str, cost_coef: float | tuple[float, float]
) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "dataset": dataset, "reward": "task", "cost_coef": cost_coef}


_PRETRAINED: dict[str, Any] = {
    "model": "smollm2-135m",
    "dataset": "pretrained-mixture",
    "chunks_per_episode": 4,
    "reward": "task",
    "cost_coef": 0.3,
    "pool_groups": 16,
    "autocorrelation": True,
}
"""Arguments of the ids of pretrained models."""

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "spangym/SpanControl-v0": {},
    "spangym/SpanBudget-v0": _trained("span-budget", "mixed", cost_coef=0.6),
    "spangym/Pareto-v0": {
        **_trained("span-budget", "mixed", cost_coef=(0.02, 2.0)),
        "include_cost_coef": True,
    },
    "spangym/LongRange-v0": _trained("long-range", "long-range", cost_coef=1.0),
    "spangym/Collapse-v0": _trained("collapse", "collapse", cost_coef=0.5),
    "spangym/Precision-v0": _trained("precision", "precision", cost_coef=0.5),
    "spangym/Hierarchy-v0": _trained("hierarchy", "hierarchy", cost_coef=1.0),
    "spangym/Sparsity-v0": _trained("sparsity", "sparsity", cost_coef=1.0),
    "spangym/Depth-v0": _trained("depth", "depth", cost_coef=1.5),
    "spangym/KVCache-v0": {
        **_trained("kv-cache", "kv-cache", cost_coef=1.0),
        "spans": [32, "full"],
        "chunks_per_episode": 1,
    },
    "spangym/Pretrained-v0": _PRETRAINED,
    "spangym/PretrainedCache-v0": {
        **_PRETRAINED,
        "blocks": 4,
        "spans": [32, 96, 256, "full"],
    },
}
"""Ids, with the arguments that differ from the defaults of `EnvConfig`."""

DESCRIPTIONS: dict[str, str] = {
    "spangym/SpanControl-v0": "the original's state and reward, on text and layers with random "
    "weights",
    "spangym/SpanBudget-v0": "a byte-level language model: match the loss of full span with fewer "
    "query-key pairs",
    "spangym/Pareto-v0": "the same language model at every cost of query-key pairs: one policy for "
    "the whole trade-off",
    "spangym/LongRange-v0": "recall facts that were stated recently or long before",
    "spangym/Collapse-v0": "recall the nearest of many similar items, which a long span mixes up",
    "spangym/Precision-v0": "classify entities by one cue in a note, a paragraph or an article",
    "spangym/Hierarchy-v0": "look up in two hops, of which either can be long",
    "spangym/Sparsity-v0": "continue a repeated melody: a local task whose distance changes",
    "spangym/Depth-v0": "answer at the end of chains of up to six look-ups, each of which takes a "
    "layer of its own",
    "spangym/KVCache-v0": "keep facts in a model's key-value cache until their deadline, which is "
    "announced only once",
    "spangym/Pretrained-v0": "match a pretrained language model at full span with fewer query-key "
    "pairs",
    "spangym/PretrainedCache-v0": "say before each block of a document how much of the past stays "
    "in a model's key-value cache",
}
"""Ids, with what an agent is to do there, in one line."""


def descriptions() -> dict[str, str]:
    """Return `DESCRIPTIONS`, then those of the environments of other packages, by id."""
    others = {name: each.description for name, each in other_environments().items()}
    return DESCRIPTIONS | others


def list_envs() -> list[str]:
    """Return the ids of spangym's environments, then of those that other packages register.

    They are for `gymnasium.make` and in studies.

    Example:
        >>> list_envs()[:2]
        ['spangym/SpanControl-v0', 'spangym/SpanBudget-v0']
    """
    return [*descriptions()]


def register_environments() -> None:
    """Register every id with Gymnasium, also of other packages; a second call has no effect."""
    others = {name: dict(each.kwargs) for name, each in other_environments().items()}
    for name, arguments in (ENVIRONMENTS | others).items():
        if name not in gym.registry:
            gym.register(
                name,
                ENTRY_POINT,
                vector_entry_point="spangym.envs.vector_env:SpanControlVectorEnv",
                kwargs=arguments,
            )


def full_id(name: str) -> str:
    """Add the namespace to an id, if it has none and is not another's.

    Example:
        >>> full_id("SpanControl-v0"), full_id("my_envs:Mine-v0")
        ('spangym/SpanControl-v0', 'my_envs:Mine-v0')
    """
    is_full = "/" in name or ":" in name or name in gym.registry
    return name if is_full else f"{NAMESPACE}/{name}"


def find_spec(name: str) -> EnvSpec:
    """Find a registered id; of ``module:ID`` the module, which registers the id, is imported first.

    Raises:
        ValueError: The module cannot be imported, or the id is unknown.
    """
    module, _, env_id = full_id(name).rpartition(":")
    if module:
        import_module(module, f"environment {name!r}")
    if env_id not in gym.registry:
        hint = did_you_mean(env_id, list_envs())
        where = f"; module {module!r} registers no such id" if module else hint
        raise ValueError(f"environment {env_id!r} is unknown{where}")
    return gym.registry[env_id]


def is_span_control(spec: EnvSpec) -> bool:
    """Return whether an id makes `spangym.envs.SpanControlEnv` itself, with any arguments."""
    entry = spec.entry_point
    if callable(entry):
        entry = f"{entry.__module__}:{getattr(entry, '__qualname__', '')}"
    return entry == ENTRY_POINT and not spec.additional_wrappers


def default_kwargs(name: str) -> dict[str, Any]:
    """Arguments of an id that differ from the defaults.

    Raises:
        ValueError: The id is unknown, or does not make `spangym.envs.SpanControlEnv`.
    """
    spec = find_spec(name)
    if not is_span_control(spec):
        raise ValueError(f"environment {name!r} is not made by {ENTRY_POINT}")
    return dict(spec.kwargs)
