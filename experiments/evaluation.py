"""Judging a trained agent on streams that are the same for all and in no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..agents import Agent
from ..agents.protocol import begin
from ..envs import Settings, SpanControlVectorEnv
from .recorder import EpisodeTotals


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
        the norms of the layers' outputs, by which outputs can be checked) and ``actions``.
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
    for number in range(settings.chunks * settings.layers):
        actions = np.asarray(decide(observations, number))
        step = simulator.step(actions)
        observations = step.observations
        for lane, info in enumerate(step.infos):
            totals[lane].add(float(step.rewards[lane]), info)
            norms[lane] += info["output_norm"]
            played[lane].append(write_action(actions[lane]))
    return [
        {
            "evaluation_seed": seed,
            **totals[lane].row(),
            "output_norm": norms[lane],
            "actions": " ".join(played[lane]),
        }
        for lane, seed in enumerate(seeds)
    ]


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
