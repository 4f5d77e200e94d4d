"""Names of the agents with one-line descriptions; nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata

ENTRY_POINTS = "spangym.agents"
"""Group of entry points by which packages register agents, as ``name = module:Class``."""

ALGORITHMS: dict[str, str] = {
    "dqn": "stable_baselines3:DQN",
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "qrdqn": "sb3_contrib:QRDQN",
    "trpo": "sb3_contrib:TRPO",
    "recurrent_ppo": "sb3_contrib:RecurrentPPO",
    "maskable_ppo": "sb3_contrib:MaskablePPO",
    "ars": "sb3_contrib:ARS",
}
"""Algorithms with discrete actions by name, as ``module:Class``."""

_PACKAGES = {
    "stable_baselines3": "Stable-Baselines3",
    "sb3_contrib": "sb3-contrib (pip install 'spangym[contrib]')",
}

BUILTIN_AGENTS: dict[str, str] = {
    "refiner": "the original's tabular Q-learning on state ids, one table per layer",
    "refiner-kmeans": "the same Q-learning on k-means clusters of observations",
    **{
        name: f"{path.partition(':')[2]} of {_PACKAGES[path.partition(':')[0]]}"
        for name, path in ALGORITHMS.items()
    },
    "learned-span": "one span per layer, learned by gradient, with a cost on its length",
    "content-oracle": "the best spans for each content type, given the content type",
    "oracle": "the best return to the end of the chunk, by lookahead; upper reference of scores",
    "myopic": "the best immediate reward, by trying every action",
    "threshold": "the smallest span that keeps a share of full attention's weight",
    "predictor": "each layer's own span predictor",
    "full": "always the longest span",
    "random": "a random span; lower reference of scores",
    **{f"fixed:{action}": "always the same action" for action in range(10)},
}
"""Built-in agents by name, with a description of one line."""


def registered_agents() -> dict[str, str]:
    """Return the agents of other packages (entry points `ENTRY_POINTS`), as ``module:Class``."""
    return {each.name: each.value for each in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def list_agents() -> list[str]:
    """Return the names of the built-in agents, then of those that other packages register.

    A refiner, agent or algorithm of your own is named ``module:Class``.

    Example:
        >>> list_agents()[:4]
        ['refiner', 'refiner-kmeans', 'dqn', 'ppo']
    """
    return [*dict.fromkeys([*BUILTIN_AGENTS, *registered_agents()])]
