"""Judging a trained agent on streams that are the same for all and in no training."""

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


def evaluate(
    agent: Agent,
    config: EnvConfig,
    seed: int,
    episodes: int,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Play one episode a seed, without learning.

    Args:
        agent: What decides.
        config: Environment to play in.
        seed: Seed of the first episode; the others follow.
        episodes: How many, side by side as environments.
        progress: Called with the steps done after each step.

    Returns:
        A row an episode: ``evaluation_seed``, the episode's stats, ``output_norm`` (the sum of
        the norms of the layers' outputs, by which outputs can be checked), ``actions`` as text, and
        lists of the decisions' ``spans`` (tokens) and ``content_types`` (of the chunks).
    """

    def decide(observations: NDArray[Any], step: int) -> NDArray[Any]:
        progress(step * episodes)
        return agent.predict(observations)

    seeds = range(seed, seed + episodes)
    rows = rollout(config, seeds, decide, lambda env: notify_episode_start(agent, env))
    progress(config.chunks_per_episode * config.num_layers * episodes)
    return rows


def rollout(
    config: EnvConfig,
    seeds: Sequence[int],
    decide: Callable[[NDArray[Any], int], NDArray[Any]],
    on_reset: Callable[[SpanControlVectorEnv], object] | None = None,
) -> list[dict[str, Any]]:
    """Play one episode a seed, side by side as environments.

    Args:
        config: Environment to play in.
        seeds: Of the episodes.
        decide: From observations and the number of the step to actions, one row a env_index.
        on_reset: Called with the environment once the episodes have begun.

    Returns:
        Rows as `evaluate` gives them.
    """
    env = SpanControlVectorEnv(len(seeds), **dataclasses.asdict(config))
    observations, _ = env.reset(seed=seeds)
    if on_reset is not None:
        on_reset(env)
    core = env.core
    stats = [EpisodeStats(core.reward.components) for _ in seeds]
    norms = [0.0 for _ in seeds]
    taken: list[list[str]] = [[] for _ in seeds]
    spans: list[list[int]] = [[] for _ in seeds]
    content_types: list[list[str]] = [[] for _ in seeds]
    for number in range(config.chunks_per_episode * config.num_layers):
        actions = np.asarray(decide(observations, number))
        step = core.step(actions)
        observations = step.observations
        for env_index, info in enumerate(step.infos):
            stats[env_index].add(float(step.rewards[env_index]), info)
            norms[env_index] += info["output_norm"]
            taken[env_index].append(format_action(actions[env_index]))
            spans[env_index].append(info["span"])
            content_types[env_index].append(info["content_type"])
    return [
        {
            "evaluation_seed": seed,
            **stats[env_index].row(),
            "output_norm": norms[env_index],
            "actions": " ".join(taken[env_index]),
            "spans": spans[env_index],
            "content_types": content_types[env_index],
        }
        for env_index, seed in enumerate(seeds)
    ]


def count_actions(rows: Sequence[Mapping[str, Any]], layers: int) -> pd.DataFrame:
    """What was chosen, by layer and by kind of content.

    Args:
        rows: Of episodes, as `evaluate` gives them.
        layers: Of the environment; decisions go through them in turn.

    Returns:
        Columns ``layer``, ``content_type``, ``action``, ``count`` and ``mean_span`` (their
        mean, in tokens), in the order of the first three.
    """
    decisions = pd.DataFrame(
        [
            (number % layers, content_type, action, span)
            for row in rows
            for number, (content_type, action, span) in enumerate(
                zip(row["content_types"], row["actions"].split(" "), row["spans"], strict=True)
            )
        ],
        columns=["layer", "content_type", "action", "span"],
    )
    by = decisions.groupby(["layer", "content_type", "action"])["span"]
    return by.agg(count="count", mean_span="mean").reset_index()


def measure_regret(config: EnvConfig, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Play episodes again, and look ahead at every decision for what could have been had.

    The regret of a decision is the best return to the end of its chunk over that of the action that
    was chosen, followed by the best: what was lost by this decision alone.

    Args:
        config: Environment that they were taken in.
        rows: Of episodes, as `evaluate` gives them.

    Returns:
        A row a decision: ``evaluation_seed``, ``decision`` (from 0), ``layer``, ``content_type``,
        ``action`` and ``regret``.
    """
    columns = ["evaluation_seed", "decision", "layer", "content_type", "action", "regret"]
    if not rows:
        return pd.DataFrame(columns=columns)
    env = SpanControlVectorEnv(len(rows), **dataclasses.asdict(config))
    env.reset(seed=[row["evaluation_seed"] for row in rows])
    actions = np.array([[int(each) for each in row["actions"].split(" ")] for row in rows])
    found = []
    for number in range(actions.shape[1]):
        ahead, chosen = env.lookahead(), actions[:, number]
        regrets = ahead.max(1) - ahead[np.arange(len(rows)), chosen]
        for row, action, regret in zip(rows, chosen, regrets, strict=True):
            layer, content_type = number % config.num_layers, row["content_types"][number]
            found.append(
                (row["evaluation_seed"], number, layer, content_type, int(action), float(regret))
            )
        env.core.step(chosen)
    return pd.DataFrame(found, columns=columns)


def format_action(action: Any) -> str:
    """An action as text, its numbers joined by ``-``.

    Example:
        >>> format_action(np.int64(9)), format_action(np.array([9, 0, 1]))
        ('9', '9-0-1')
    """
    return "-".join(str(number) for number in np.atleast_1d(action))


def parse_action(text: str) -> NDArray[np.int64]:
    """An action that `format_action` wrote.

    Raises:
        ValueError: It is no action.

    Example:
        >>> parse_action("9-0-1").tolist(), parse_action("9").tolist()
        ([9, 0, 1], 9)
    """
    numbers = np.array([int(number) for number in text.split("-")])
    return numbers if len(numbers) > 1 else numbers[0]
