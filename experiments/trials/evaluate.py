"""Evaluation of agents on episodes that are the same for all and in no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spangym.agents import Agent
from spangym.agents.base import notify_episode_start
from spangym.envs import EnvConfig, SpanControlVectorEnv
from spangym.experiments.trials.episode_stats import EpisodeStats
from spangym.experiments.trials.players import AnyConfig, Player, reward_components


def evaluate(
    agent: Agent,
    configs: Sequence[AnyConfig],
    seed: int,
    episodes: int,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Play episodes in parallel without learning; episode ``i`` has ``seed + i``.

    Each is played in every configuration (`eval_configs`). ``progress`` is called with the steps so
    far after each. Returns rows as of `rollout`, with ``cost_coef`` if there are several.
    """
    rows: list[dict[str, Any]] = []
    seeds = range(seed, seed + episodes)
    for config in configs:
        done = len(rows) * config.episode_steps

        def decide(observations: NDArray[Any], step: int, done: int = done) -> NDArray[Any]:
            progress(done + step * episodes)
            return agent.predict(observations)

        played = rollout(config, seeds, decide, lambda env: notify_episode_start(agent, env))
        if len(configs) > 1 and isinstance(config, EnvConfig):
            played = [{**row, "cost_coef": config.cost_coef} for row in played]
        rows += played
        progress(done + config.episode_steps * episodes)
    return rows


def eval_configs(config: AnyConfig, cost_coefs: Sequence[float]) -> list[AnyConfig]:
    """Return the environments of an evaluation: one, or one for each cost coefficient."""
    if not isinstance(config, EnvConfig) or not cost_coefs:
        return [config]
    return [dataclasses.replace(config, cost_coef=each) for each in cost_coefs]


def rollout(
    config: AnyConfig,
    seeds: Sequence[int],
    decide: Callable[[NDArray[Any], int], NDArray[Any]],
    on_reset: Callable[[Any], object] | None = None,
) -> list[dict[str, Any]]:
    """Play one episode per seed, in parallel.

    Args:
        config: Configuration of the environment.
        seeds: Seeds of the episodes.
        decide: Function from observations and the index of the step to actions, one per episode.
        on_reset: Function of the environment (`Player.env`), called after the reset.

    Returns:
        One row per episode: ``evaluation_seed``, statistics of the episode, ``output_norm`` (sum of
        the norms of the layers' outputs, a checksum), ``actions`` as text, and lists of ``spans``
        (tokens), ``layers`` and ``content_types`` of the decisions.
    """
    player = Player(config, len(seeds))
    observations = player.reset(seeds)
    if on_reset is not None:
        on_reset(player.env)
    stats = [EpisodeStats(reward_components(config)) for _ in seeds]
    rows: list[dict[str, Any]] = [
        {"output_norm": 0.0, "actions": [], "spans": [], "layers": [], "content_types": []}
        for _ in seeds
    ]
    for number in range(config.episode_steps):
        actions = np.asarray(decide(observations, number))
        observations, rewards, infos = player.step(actions)
        for index, (row, info) in enumerate(zip(rows, infos, strict=True)):
            stats[index].add(rewards[index], info)
            row["output_norm"] += info["output_norm"]
            row["actions"].append(format_action(actions[index]))
            row["spans"].append(info["span"])
            row["layers"].append(info["layer"])
            row["content_types"].append(info["content_type"])
    return [
        {
            "evaluation_seed": seed,
            **stats[index].row(),
            **rows[index],
            "actions": " ".join(rows[index]["actions"]),
        }
        for index, seed in enumerate(seeds)
    ]


def count_actions(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Count the actions in rows of `evaluate` by layer and content type.

    Returns:
        Sorted columns ``layer``, ``content_type`` and ``action``, with ``count`` and ``mean_span``
        (tokens).
    """
    decisions = pd.DataFrame(
        [
            decision
            for row in rows
            for decision in zip(
                *(row["layers"], row["content_types"]),
                *(row["actions"].split(" "), row["spans"]),
                strict=True,
            )
        ],
        columns=["layer", "content_type", "action", "span"],
    )
    by = decisions.groupby(["layer", "content_type", "action"])["span"]
    return by.agg(count="count", mean_span="mean").reset_index()


def measure_regret(config: AnyConfig, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Replay episodes, rows of `evaluate`, and measure the regret of each decision by lookahead.

    The regret is the best return to the end of the chunk minus the return of the chosen action
    followed by the best actions: the loss by this decision alone.

    Returns:
        One row per decision: ``evaluation_seed``, ``decision`` (from 0), ``layer``,
        ``content_type``, ``action`` and ``regret``; none of a foreign environment, which cannot
        look ahead.
    """
    columns = ["evaluation_seed", "decision", "layer", "content_type", "action", "regret"]
    if not rows or not isinstance(config, EnvConfig):
        return pd.DataFrame(columns=columns)
    env = SpanControlVectorEnv(len(rows), **dataclasses.asdict(config))
    env.reset(seed=[row["evaluation_seed"] for row in rows])
    actions = np.array([[int(each) for each in row["actions"].split(" ")] for row in rows])
    decisions = []
    for number in range(actions.shape[1]):
        returns, chosen = env.lookahead(), actions[:, number]
        regrets = returns.max(1) - returns[np.arange(len(rows)), chosen]
        for row, action, regret in zip(rows, chosen, regrets, strict=True):
            layer, content_type = number % config.num_layers, row["content_types"][number]
            decisions.append(
                (row["evaluation_seed"], number, layer, content_type, int(action), float(regret))
            )
        env.core.step(chosen)
    return pd.DataFrame(decisions, columns=columns)


def format_action(action: Any) -> str:
    """Return an action as text, its numbers joined by ``-``.

    Example:
        >>> format_action(np.int64(9)), format_action(np.array([9, 0, 1]))
        ('9', '9-0-1')
    """
    return "-".join(str(number) for number in np.atleast_1d(action))


def parse_action(text: str) -> NDArray[np.int64]:
    """Return the action that `format_action` formatted; ValueError if there is none.

    Example:
        >>> parse_action("9-0-1").tolist(), parse_action("9").tolist()
        ([9, 0, 1], 9)
    """
    numbers = np.array([int(number) for number in text.split("-")])
    return numbers if len(numbers) > 1 else numbers[0]
