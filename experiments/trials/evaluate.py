"""Judging a trained agent on streams that are the same for all and in no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spangym.agents import Agent
from spangym.agents.base import begin
from spangym.envs import Settings, SpanControlVectorEnv
from spangym.experiments.trials.episode_stats import EpisodeTotals


def evaluate(
    agent: Agent,
    settings: Settings,
    first_seed: int,
    episodes: int,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Play one episode a seed, without learning.

    Args:
        agent: What decides.
        settings: Environment to play in.
        first_seed: Seed of the first episode; the others follow.
        episodes: How many, side by side as lanes.
        progress: Called with the steps done after each step.

    Returns:
        A row an episode: ``evaluation_seed``, the episode's totals, ``output_norm`` (the sum of
        the norms of the layers' outputs, by which outputs can be checked), ``actions`` as text, and
        lists of the decisions' ``spans`` (tokens) and ``contents`` (kinds of the chunks).
    """

    def decide(observations: NDArray[Any], step: int) -> NDArray[Any]:
        progress(step * episodes)
        return agent.predict(observations)

    seeds = range(first_seed, first_seed + episodes)
    rows = play(settings, seeds, decide, lambda env: begin(agent, env))
    progress(settings.chunks * settings.layers * episodes)
    return rows


def play(
    settings: Settings,
    seeds: Sequence[int],
    decide: Callable[[NDArray[Any], int], NDArray[Any]],
    begins: Callable[[SpanControlVectorEnv], object] | None = None,
) -> list[dict[str, Any]]:
    """Play one episode a seed, side by side as lanes.

    Args:
        settings: Environment to play in.
        seeds: Of the episodes.
        decide: From observations and the number of the step to actions, one row a lane.
        begins: Called with the environment once the episodes have begun.

    Returns:
        Rows as `evaluate` gives them.
    """
    env = SpanControlVectorEnv(len(seeds), **dataclasses.asdict(settings))
    observations, _ = env.reset(seed=seeds)
    if begins is not None:
        begins(env)
    simulator = env.simulator
    totals = [EpisodeTotals(simulator.reward.parts) for _ in seeds]
    norms = [0.0 for _ in seeds]
    played: list[list[str]] = [[] for _ in seeds]
    spans: list[list[int]] = [[] for _ in seeds]
    contents: list[list[str]] = [[] for _ in seeds]
    for number in range(settings.chunks * settings.layers):
        actions = np.asarray(decide(observations, number))
        step = simulator.step(actions)
        observations = step.observations
        for lane, info in enumerate(step.infos):
            totals[lane].add(float(step.rewards[lane]), info)
            norms[lane] += info["output_norm"]
            played[lane].append(write_action(actions[lane]))
            spans[lane].append(info["span"])
            contents[lane].append(info["source"])
    return [
        {
            "evaluation_seed": seed,
            **totals[lane].row(),
            "output_norm": norms[lane],
            "actions": " ".join(played[lane]),
            "spans": spans[lane],
            "contents": contents[lane],
        }
        for lane, seed in enumerate(seeds)
    ]


def count_choices(rows: Sequence[Mapping[str, Any]], layers: int) -> pd.DataFrame:
    """What was chosen, by layer and by kind of content.

    Args:
        rows: Of episodes, as `evaluate` gives them.
        layers: Of the environment; decisions go through them in turn.

    Returns:
        Columns ``layer``, ``content``, ``action``, ``decisions`` (how many) and ``span`` (their
        mean, in tokens), in the order of the first three.
    """
    decisions = pd.DataFrame(
        [
            (number % layers, content, action, span)
            for row in rows
            for number, (content, action, span) in enumerate(
                zip(row["contents"], row["actions"].split(" "), row["spans"], strict=True)
            )
        ],
        columns=["layer", "content", "action", "span"],
    )
    by = decisions.groupby(["layer", "content", "action"])["span"]
    return by.agg(decisions="count", span="mean").reset_index()


def measure_regret(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Play episodes again, and look ahead at every decision for what could have been had.

    The regret of a decision is the best return to the end of its chunk over that of the action that
    was chosen, followed by the best: what was lost by this decision alone.

    Args:
        settings: Environment that they were played in.
        rows: Of episodes, as `evaluate` gives them.

    Returns:
        A row a decision: ``evaluation_seed``, ``decision`` (from 0), ``layer``, ``content``,
        ``action`` and ``regret``.
    """
    columns = ["evaluation_seed", "decision", "layer", "content", "action", "regret"]
    if not rows:
        return pd.DataFrame(columns=columns)
    env = SpanControlVectorEnv(len(rows), **dataclasses.asdict(settings))
    env.reset(seed=[row["evaluation_seed"] for row in rows])
    actions = np.array([[int(each) for each in row["actions"].split(" ")] for row in rows])
    found = []
    for number in range(actions.shape[1]):
        ahead, chosen = env.lookahead(), actions[:, number]
        regrets = ahead.max(1) - ahead[np.arange(len(rows)), chosen]
        for row, action, regret in zip(rows, chosen, regrets, strict=True):
            layer, content = number % settings.layers, row["contents"][number]
            found.append(
                (row["evaluation_seed"], number, layer, content, int(action), float(regret))
            )
        env.simulator.step(chosen)
    return pd.DataFrame(found, columns=columns)


def write_action(action: Any) -> str:
    """An action as text, its numbers joined by ``-``.

    Example:
        >>> write_action(np.int64(9)), write_action(np.array([9, 0, 1]))
        ('9', '9-0-1')
    """
    return "-".join(str(number) for number in np.atleast_1d(action))


def read_action(text: str) -> NDArray[np.int64]:
    """An action that `write_action` wrote.

    Raises:
        ValueError: It is no action.

    Example:
        >>> read_action("9-0-1").tolist(), read_action("9").tolist()
        ([9, 0, 1], 9)
    """
    numbers = np.array([int(number) for number in text.split("-")])
    return numbers if len(numbers) > 1 else numbers[0]
