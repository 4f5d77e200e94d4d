"""``spangym bench envs``: what the environment adds to the layers that it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from spangym.attention import NUM_ACTIONS
from spangym.envs import (
    RewardContext,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)
from spangym.envs.core import SpanControlCore
from spangym.experiments.benchmarks.measure import (
    Row,
    d2h_copies_and_utilization,
    interleaved_timing,
)

IDS = ("spangym/SpanControl-v0", "spangym/SpanBudget-v0")
CTX, DIMS = 256, 64

_OVERHEAD_GOALS = {1: 1.10, 16: 1.05}
"""Time of a step over that of the bare layer and reward, by environments."""
_DUMMY_GOAL = 1.5
_BUSY_GOAL = 0.9
_STEPS = 15
"""An episode of the defaults but its last step, at which the vector face begins a new one."""
_SECONDS = 0.2
"""Of a turn of a comparison."""


def run(quick: bool, seed: int = 0) -> Iterator[Row]:
    """Measure on the CPU, and on a CUDA device if there is one.

    Args:
        quick: Fewer rounds and environments.
        seed: Of streams and actions.

    Yields:
        Figures as they are measured.
    """
    rounds = 3 if quick else 9
    for num_envs, goal in _OVERHEAD_GOALS.items():
        yield Row(
            f"step over bare layer and reward, ctx {CTX}, dims {DIMS}, environments {num_envs}",
            _overhead(num_envs, rounds, seed),
            goal,
            "lower",
        )
    for num_envs in (1, 16) if quick else (1, 2, 4, 8, 16, 32, 64):
        envs = SpanControlVectorEnv(num_envs, ctx=CTX, dims=DIMS)
        yield Row(
            f"steps a second, environments {num_envs}", _rate(envs, rounds, seed), None, "higher"
        )
    for name in IDS:
        yield Row(
            f"SB3 face over DummyVecEnv, {name}, environments 16",
            _against_dummy(name, 16, rounds, seed),
            _DUMMY_GOAL,
            "higher",
        )
    yield from _cuda((16, 1024) if quick else (16, 64, 256, 1024), rounds, seed)


def _overhead(num_envs: int, rounds: int, seed: int) -> float:
    """Time of an episode's steps over that of its layers and rewards alone, on the same input."""
    envs: Any = SpanControlEnv(ctx=CTX, dims=DIMS)
    if num_envs > 1:
        envs = SpanControlVectorEnv(num_envs, ctx=CTX, dims=DIMS)
    envs.reset(seed=seed)
    actions = _actions(num_envs, seed)
    core = envs.core
    passes = []
    player = core.fork()
    for step in range(_STEPS):
        state, layer = player.state, player.layer
        decided = torch.from_numpy(actions[step])
        passes.append((core.stack.layer(layer), state.hidden, decided, state.caches[layer]))
        player.step(actions[step])
    layers, pairs = core.config.num_layers, CTX**2

    def through() -> None:
        playing = envs.fork()
        for step in range(_STEPS):
            playing.step(actions[step] if num_envs > 1 else actions[step, 0])

    @torch.no_grad()
    def bare() -> None:
        for layer, hidden, decided, cache in passes:
            outcome = layer.forward_with_action(hidden, decided, cache=cache)
            core.reward(RewardContext(outcome, 0, layers, pairs))

    whole, alone = interleaved_timing(through, bare, rounds=rounds, least=_SECONDS)
    return whole / alone


def _rate(envs: SpanControlVectorEnv, rounds: int, seed: int) -> float:
    """Steps a second, all environments together; the median of several turns."""
    envs.reset(seed=seed)
    actions = _actions(envs.num_envs, seed)
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for action in actions:
            envs.step(action)
        seconds.append(time.perf_counter() - began)
    return len(actions) * envs.num_envs / float(np.median(seconds[1:]))


def _against_dummy(name: str, num_envs: int, rounds: int, seed: int) -> float:
    """Speed of the Stable-Baselines3 face over that of as many scalar environments."""
    together = SB3SpanControlVecEnv(make_config(name, {}), num_envs)
    apart = DummyVecEnv([lambda: gym.make(name) for _ in range(num_envs)])
    actions = _actions(num_envs, seed)

    def play(envs: SB3SpanControlVecEnv | DummyVecEnv) -> Callable[[], None]:
        envs.seed(seed)
        envs.reset()

        def steps() -> None:
            for action in actions:
                envs.step(action)

        return steps

    one, other = interleaved_timing(play(together), play(apart), rounds=rounds, least=_SECONDS)
    return other / one


def _cuda(num_envs: tuple[int, ...], rounds: int, seed: int) -> Iterator[Row]:
    """Steps a second, copies to the host in a step, and how busy the device is."""
    there = torch.cuda.is_available()
    for count in num_envs:
        figures: tuple[float | None, ...] = (None, None, None)
        if there:
            figures = _cuda_figures(count, rounds, seed)
        rate, copies, busy = figures
        yield Row(f"steps a second on CUDA, environments {count}", rate, None, "higher")
        yield Row(f"copies to the host a step on CUDA, environments {count}", copies, 1, "lower")
        yield Row(
            f"share of a step that CUDA is busy, environments {count}", busy, _BUSY_GOAL, "higher"
        )


def _cuda_figures(num_envs: int, rounds: int, seed: int) -> tuple[float, float, float]:
    envs = SpanControlVectorEnv(num_envs, ctx=CTX, dims=DIMS, device="cuda")
    rate = _rate(envs, rounds, seed)
    core: SpanControlCore = envs.core
    action = _actions(num_envs, seed)[0]
    envs.reset(seed=seed)
    copies, busy = d2h_copies_and_utilization(lambda: core.step(action))
    return rate, copies, busy


def _actions(num_envs: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Actions of so many steps, shape (steps, num_envs)."""
    return np.random.default_rng(seed).integers(NUM_ACTIONS, size=(_STEPS, num_envs))
