"""``spangym bench envs``: the overhead of the environment over its layers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from spangym.attention import NUM_ACTIONS
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.layers.modules import split_heads
from spangym.envs import (
    RewardContext,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.envs.registration import default_kwargs
from spangym.experiments.benchmarks.measure import (
    BenchRow,
    d2h_copies_and_utilization,
    interleaved_timing,
)
from spangym.experiments.benchmarks.products_alone import products_alone

IDS = ("spangym/SpanControl-v0", "spangym/SpanBudget-v0")

OVERHEAD_GOALS = {1: 1.10, 16: 1.05}
"""Time of a step over the time of the bare layer and reward, by number of environments."""
BOUND_GOAL = 1.5
"""Time of the local path over that of its matrix products and exponentials alone."""
SIZES = tuple(itertools.product((2, 4), (64, 128, 256)))
"""Numbers of layers and widths at which SpanBudget-v0 is measured."""
DUMMY_GOAL = 1.5
BUSY_GOAL = 0.9
BUSY_FROM = 256
"""Number of environments from which on a CUDA device is to be busy."""


@dataclass(frozen=True)
class EnvsBench:
    """Sizes of the measurement.

    Attributes:
        rounds: Turns of each function.
        seed: Seed of data and actions.
        ctx: Tokens of a chunk.
        dims: Width of the layers.
        steps: Steps that are timed; the default is an episode without its last step, at which a
            vector environment starts the next episode.
        min_seconds: Duration of a turn.
    """

    rounds: int = 9
    seed: int = 0
    ctx: int = 256
    dims: int = 64
    steps: int = 15
    min_seconds: float = 0.2

    def overhead(self, num_envs: int, **kwargs: Any) -> float:
        """Time of an episode's steps over the time of its layers and rewards on the same input.

        Arguments of the environment may be given.
        """
        sizes: dict[str, Any] = kwargs or {"ctx": self.ctx, "dims": self.dims}
        scalar = num_envs == 1
        envs: Any = SpanControlEnv(**sizes) if scalar else SpanControlVectorEnv(num_envs, **sizes)
        envs.reset(seed=self.seed)
        actions = self._actions(num_envs)
        core = envs.core
        passes = []
        player = core.fork()
        for step in range(self.steps):
            state, layer = player.state, player.layer
            action = torch.from_numpy(actions[step])
            passes.append((core.stack.layer(layer), state.hidden, action, state.caches[layer]))
            player.step(actions[step])
        layers, pairs = core.config.num_layers, self.ctx**2

        def with_env() -> None:
            playing = envs.fork()
            for step in range(self.steps):
                playing.step(actions[step, 0] if scalar else actions[step])

        @torch.no_grad()
        def bare() -> None:
            for layer, hidden, action, cache in passes:
                output = layer.forward_with_action(hidden, action, cache=cache)
                core.reward(RewardContext(output, 0, layers, pairs))

        whole, alone = self._time(with_env, bare)
        return whole / alone

    @torch.no_grad()
    def local_path_over_bound(self) -> float:
        """Time of the local path of a step with each of the actions over that of its products."""
        envs = SpanControlVectorEnv(NUM_ACTIONS, ctx=self.ctx, dims=self.dims)
        envs.reset(seed=self.seed)
        state, layer = envs.core.state, envs.core.stack.layer(envs.core.layer)
        path, calls = layer.attn_local, []
        hook = path.register_forward_pre_hook(lambda _, args: calls.append(args))
        layer.forward_with_action(state.hidden, torch.arange(NUM_ACTIONS))
        hook.remove()
        ((x, scale, *_),) = calls
        q, k, v = (split_heads(each, path.head) for each in path.project(x))
        steps, inverse = path.config.num_refinement_steps, path.temperature(scale).reciprocal()
        inputs = KernelInputs(q, k, v, path.spans(scale), None, steps, inverse)
        local, bound = self._time(lambda: path(x, scale), products_alone(inputs))
        return local / bound

    def rate(self, envs: SpanControlVectorEnv) -> float:
        """Median steps per second, all environments together."""
        envs.reset(seed=self.seed)
        actions = self._actions(envs.num_envs)
        seconds = []
        for _ in range(self.rounds + 1):
            start = time.perf_counter()
            for action in actions:
                envs.step(action)
            seconds.append(time.perf_counter() - start)
        return len(actions) * envs.num_envs / float(np.median(seconds[1:]))

    def at_size(self, num_layers: int, dims: int, num_envs: int) -> tuple[float, float]:
        """Speed of SpanBudget-v0 with layers of another number and width.

        Weights are random, on which the time does not depend.

        Returns:
            Steps per second, all environments together, and `overhead`.
        """
        sizes = TransformerConfig(num_layers=num_layers, dims=dims, hidden=2 * dims)
        stack = TransformerStack(sizes, torch.Generator().manual_seed(self.seed))
        own = default_kwargs("SpanBudget-v0")
        del own["checkpoint"]
        kwargs = {**own, "layers": stack.eval().requires_grad_(False)}
        rate = self.rate(SpanControlVectorEnv(num_envs, **kwargs))
        return rate, self.overhead(num_envs, **kwargs)

    def speed_over_dummy(self, name: str, num_envs: int) -> float:
        """Speed of the SB3 interface over that of a DummyVecEnv of scalar environments."""
        vectorized = SB3SpanControlVecEnv(make_config(name, {}), num_envs)
        dummy = DummyVecEnv([lambda: gym.make(name) for _ in range(num_envs)])
        actions = self._actions(num_envs)

        def play(envs: SB3SpanControlVecEnv | DummyVecEnv) -> Callable[[], None]:
            envs.seed(self.seed)
            envs.reset()

            def steps() -> None:
                for action in actions:
                    envs.step(action)

            return steps

        one, other = self._time(play(vectorized), play(dummy))
        return other / one

    def on_cuda(self, num_envs: int, device: str) -> tuple[float, float, float]:
        """Steps per second, copies to the host in a step, and utilization of the device."""
        envs = SpanControlVectorEnv(num_envs, ctx=self.ctx, dims=self.dims, device=device)
        rate, core, action = self.rate(envs), envs.core, self._actions(num_envs)[0]
        envs.reset(seed=self.seed)
        copies, busy = d2h_copies_and_utilization(lambda: core.step(action))
        return rate, copies, busy

    def _time(self, *functions: Callable[[], object]) -> list[float]:
        return interleaved_timing(*functions, rounds=self.rounds, min_seconds=self.min_seconds)

    def _actions(self, num_envs: int) -> NDArray[np.int64]:
        """Random actions, shape (steps, num_envs)."""
        rng = np.random.default_rng(self.seed)
        return rng.integers(NUM_ACTIONS, size=(self.steps, num_envs))


def run(quick: bool, bench: EnvsBench | None = None, device: str = "cpu") -> Iterator[BenchRow]:
    """Measure on a device.

    Args:
        quick: Whether to use fewer rounds and environments.
        bench: Sizes; the defaults if None.
        device: The CPU, or a CUDA device, where copies to the host are counted.

    Yields:
        Figures in the order of measurement.
    """
    bench = bench or EnvsBench(rounds=3 if quick else 9)
    if torch.device(device).type == "cuda":
        for num_envs in (16, 1024) if quick else (16, 64, 256, 1024):
            rate, copies, busy = bench.on_cuda(num_envs, device)
            where = f"CUDA, environments {num_envs}"
            yield BenchRow(f"steps per second, {where}", rate, None, "higher")
            yield BenchRow(f"copies to the host per step, {where}", copies, 1, "lower")
            goal = BUSY_GOAL if num_envs >= BUSY_FROM else None
            yield BenchRow(f"device utilization in a step, {where}", busy, goal, "higher")
        return
    sizes = f"ctx {bench.ctx}, dims {bench.dims}"
    for num_envs, goal in OVERHEAD_GOALS.items():
        name = f"step over bare layer and reward, {sizes}, environments {num_envs}"
        yield BenchRow(name, bench.overhead(num_envs), goal, "lower")
    name = f"local path of SpanControl-v0 over its bound, {sizes}, one step of each action"
    yield BenchRow(name, bench.local_path_over_bound(), BOUND_GOAL, "lower")
    for num_envs in (1, 16) if quick else (1, 2, 4, 8, 16, 32, 64):
        envs = SpanControlVectorEnv(num_envs, ctx=bench.ctx, dims=bench.dims)
        rate = bench.rate(envs)
        yield BenchRow(f"steps per second, environments {num_envs}", rate, None, "higher")
    for num_layers, dims in SIZES[:1] if quick else SIZES:
        rate, overhead = bench.at_size(num_layers, dims, 16)
        where = f"SpanBudget-v0 with {num_layers} layers of dims {dims}, environments 16"
        yield BenchRow(f"steps per second, {where}", rate, None, "higher")
        yield BenchRow(f"step over bare layer and reward, {where}", overhead, None, "lower")
    for name in IDS:
        speed = bench.speed_over_dummy(name, 16)
        row = f"SB3 interface over DummyVecEnv, {name}, environments 16"
        yield BenchRow(row, speed, DUMMY_GOAL, "higher")
