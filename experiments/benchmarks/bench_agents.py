"""``spangym bench agents``: the cost of a decision in a layer, and the speed of the Refiner."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from spangym.agents import Refiner
from spangym.attention import NUM_ACTIONS, IntegratedAttention
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.lookup import LookupPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.controllers.policy_heads import PolicyHead
from spangym.attention.features import NUM_STATES, token_moments
from spangym.attention.observation_spec import ObservationSpec
from spangym.experiments.benchmarks.measure import (
    BenchRow,
    d2h_copies_and_utilization,
    interleaved_timing,
)

HIDDEN = 64
"""Width of the two hidden layers of Stable-Baselines3's default networks."""

DECISION_GOAL = 0.05
"""Time of a decision over the time of the layer's forward pass, whose features it can reuse."""
TABLE_GOAL = 5.0
"""Speed of choosing and updating over the original's."""


class OriginalRefiner:
    """The original's Q-learning as written: a dict of tuples and a max over the actions.

    Args:
        seed: Seed of the exploration, in a generator of the kind that the original used.
    """

    def __init__(self, seed: int) -> None:
        self.R: dict[tuple[int, int], float] = {}
        self.actions = NUM_ACTIONS
        self.alpha, self.gamma, self.epsilon = 0.1, 0.9, 0.1
        self._random = np.random.RandomState(seed)

    def get_value(self, state: int, action: int) -> float:
        """Value of an action in a state; 0 if never updated."""
        return self.R.get((state, action), 0.0)

    def choose_action(self, state: int) -> int:
        """A random action with probability epsilon, else the greedy one."""
        if self._random.random_sample() < self.epsilon:
            return int(self._random.randint(self.actions))
        return max(range(self.actions), key=lambda action: self.get_value(state, action))

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Move the value of one action toward its reward plus the discounted best next value."""
        best = max(self.get_value(next_state, each) for each in range(self.actions))
        value = self.get_value(state, action)
        self.R[state, action] = value + self.alpha * (reward + self.gamma * best - value)


@dataclass(frozen=True)
class AgentsBench:
    """Sizes of the measurement. Networks have Stable-Baselines3's shapes and random weights.

    Attributes:
        rounds: Turns of each function.
        seed: Seed of weights, input and states.
        ctx: Tokens of the one sequence.
        dims: Width of the layer, which has six heads.
        decisions: Decisions of the tabular agents in a turn.
        min_seconds: Duration of a turn.
    """

    rounds: int = 9
    seed: int = 0
    ctx: int = 1024
    dims: int = 384
    decisions: int = 2_000
    min_seconds: float = 0.2

    def controlled_layer(
        self, agent: str, observation: dict[str, Any], device: str = "cpu"
    ) -> tuple[IntegratedAttention, Tensor]:
        """A layer with an exported agent, and an input."""
        generator = torch.Generator().manual_seed(self.seed)
        layer = IntegratedAttention(self.ctx, self.dims, 6, generator=generator).eval()
        encoding = "state" if agent == "refiner" else "box"
        spec = ObservationSpec(self.dims, encoding=encoding, **observation)
        layer.refiner = ExportedPolicy(spec, _head(agent, spec, generator))
        x = torch.randn(1, self.ctx, self.dims, generator=generator)
        return layer.to(device), x.to(device)

    @torch.no_grad()
    def over_forward(
        self,
        decide: Callable[[], object],
        layer: IntegratedAttention,
        x: Tensor,
        synchronize: Callable[[], object] = lambda: None,
    ) -> float:
        """Time of a decision over the time of a forward pass with the predictor's span."""
        decision, forward = interleaved_timing(
            decide,
            lambda: layer.forward_with_action(x),
            rounds=self.rounds,
            min_seconds=self.min_seconds,
            synchronize=synchronize,
        )
        return decision / forward

    def speed_over_original(self) -> float:
        """Speed of the Refiner over the original's, on the same sequence of states."""
        rng = np.random.default_rng(self.seed)
        # A run that observes two groups of dimensions meets about 25 states.
        visited = rng.integers(NUM_STATES - 1, size=25)
        states = visited[rng.integers(25, size=self.decisions)].tolist()
        rewards = rng.standard_normal(self.decisions).tolist()

        def play(refiner: Refiner | OriginalRefiner) -> Callable[[], None]:
            def decisions() -> None:
                state = states[-1]
                for next_state, reward in zip(states, rewards, strict=True):
                    action = refiner.choose_action(state)
                    refiner.update(state, action, reward, next_state)
                    state = next_state

            return decisions

        ours, original = interleaved_timing(
            play(Refiner(seed=self.seed)),
            play(OriginalRefiner(self.seed)),
            rounds=self.rounds,
            min_seconds=self.min_seconds,
        )
        return original / ours


def run(quick: bool, bench: AgentsBench | None = None, device: str = "cpu") -> Iterator[BenchRow]:
    """Measure on a device.

    Args:
        quick: Whether to use fewer rounds.
        bench: Sizes; the defaults if None.
        device: The CPU, or a CUDA device, where copies to the host are counted.

    Yields:
        Figures in the order of measurement.
    """
    bench = bench or AgentsBench(rounds=3 if quick else 9)
    sizes = f"ctx {bench.ctx}, dims {bench.dims}"
    if torch.device(device).type == "cuda":
        yield from _cuda(bench, sizes, device)
        return
    for agent in ("dqn", "ppo", "refiner"):
        layer, x = bench.controlled_layer(agent, {})
        alone = bench.over_forward(lambda layer=layer, x=x: layer.select_actions(x), layer, x)
        yield BenchRow(f"decision over forward, {agent}, {sizes}", alone, DECISION_GOAL, "lower")
        added = bench.over_forward(_decision_within_forward(layer, x), layer, x)
        name = f"decision within a forward, over it, {agent}, {sizes}"
        yield BenchRow(name, added, DECISION_GOAL, "lower")
    layer, x = bench.controlled_layer("ppo", {"autocorrelation": True})
    alone = bench.over_forward(lambda: layer.select_actions(x), layer, x)
    name = f"decision over forward, ppo with autocorrelation, {sizes}"
    yield BenchRow(name, alone, DECISION_GOAL, "lower")
    speed = bench.speed_over_original()
    yield BenchRow("choose and update, speed against the original", speed, TABLE_GOAL, "higher")


def _cuda(bench: AgentsBench, sizes: str, device: str) -> Iterator[BenchRow]:
    """The decisions on CUDA; the Refiner observes four groups, since its hash is sequential."""
    for agent, observation, name in (
        ("dqn", {}, "dqn"),
        ("ppo", {}, "ppo"),
        ("ppo", {"autocorrelation": True}, "ppo with autocorrelation"),
        ("refiner", {"pool_groups": 4}, "refiner of 4 groups"),
    ):
        layer, x = bench.controlled_layer(agent, observation, device)

        def decide(layer: IntegratedAttention = layer, x: Tensor = x) -> object:
            return layer.select_actions(x)

        alone = bench.over_forward(decide, layer, x, torch.cuda.synchronize)
        copies = d2h_copies_and_utilization(decide)[0]
        row = f"decision over forward, CUDA, {name}, {sizes}"
        yield BenchRow(row, alone, DECISION_GOAL, "lower")
        yield BenchRow(f"copies to the host in a decision, CUDA, {name}", copies, 0, "lower")


def _decision_within_forward(layer: IntegratedAttention, x: Tensor) -> Callable[[], object]:
    """A decision that reuses the layer's normalized input and its features."""
    controller = cast(ExportedPolicy, layer.refiner)
    local_input = layer.ln_a(x).detach()
    moments = token_moments(local_input)
    return lambda: controller.actions(controller.observe(moments, local_input))


def _head(agent: str, spec: ObservationSpec, generator: torch.Generator) -> PolicyHead:
    if agent == "refiner":
        return LookupPolicy(
            spec, torch.randint(NUM_ACTIONS, (spec.num_state_ids,), generator=generator)
        )
    widths = (len(spec.nvec), HIDDEN, HIDDEN, NUM_ACTIONS)
    weights = [
        nn.init.orthogonal_(torch.empty(outputs, inputs), generator=generator)
        for inputs, outputs in itertools.pairwise(widths)
    ]
    biases = [torch.zeros(len(each)) for each in weights]
    return MLPPolicy(spec, weights, biases, "ReLU" if agent == "dqn" else "Tanh")
