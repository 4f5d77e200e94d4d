"""``spangym bench agents``: what a decision costs beside its layer, and how fast a table learns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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
    Row,
    d2h_copies_and_utilization,
    interleaved_timing,
)

CTX, DIMS, HEAD_TYPES = 1024, 384, 6
HIDDEN = 64
"""Width of the two hidden layers that Stable-Baselines3 gives its networks."""

_DECISION_GOAL = 0.05
"""Time of a decision over that of the layer's forward, whose features it may use again."""
_TABLE_GOAL = 5.0
"""Speed of choosing and updating over the original's."""
_SECONDS = 0.2
"""Of a turn of a comparison."""
_DECISIONS = 2_000
"""Of a turn of choosing and updating."""


class OriginalRefiner:
    """The original's Q-learning, as it was written: a dict of tuples, and a max over the actions.

    Args:
        seed: Seed of the exploration; the original drew from NumPy's global generator, which is of
            this kind.
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
        """Move the value of one decision towards its reward and the best that can follow."""
        best = max(self.get_value(next_state, each) for each in range(self.actions))
        value = self.get_value(state, action)
        self.R[state, action] = value + self.alpha * (reward + self.gamma * best - value)


def run(quick: bool, seed: int = 0) -> Iterator[Row]:
    """Measure on the CPU, and on a CUDA device if there is one.

    Networks have the shapes that Stable-Baselines3 gives them, and random weights; one batch element.

    Args:
        quick: Fewer rounds.
        seed: Of weights, input and decisions.

    Yields:
        Figures as they are measured.
    """
    rounds = 3 if quick else 9
    cpu, sizes = torch.device("cpu"), f"ctx {CTX}, dims {DIMS}"
    for agent in ("dqn", "ppo", "refiner"):
        layer, x = _controlled(agent, {}, seed, cpu)
        whole = _share(lambda layer=layer, x=x: layer.select_actions(x), layer, x, rounds)
        yield Row(f"decision over forward, {agent}, {sizes}", whole, _DECISION_GOAL, "lower")
        added = _share(_added(layer, x), layer, x, rounds)
        name = f"what a decision adds to a forward, over it, {agent}, {sizes}"
        yield Row(name, added, _DECISION_GOAL, "lower")
    layer, x = _controlled("ppo", {"autocorrelation": True}, seed, cpu)
    whole = _share(lambda: layer.select_actions(x), layer, x, rounds)
    yield Row(f"decision over forward, ppo with lag correlations, {sizes}", whole, None, "lower")
    yield from _cuda(sizes, rounds, seed)
    for storage in ("dict", "array"):
        yield Row(
            f"choose and update, speed against the original, {storage}",
            _against_original(storage, rounds, seed),
            _TABLE_GOAL,
            "higher",
        )


def _cuda(sizes: str, rounds: int, seed: int) -> Iterator[Row]:
    """The same on the device, where a hash takes one digit after the other: a table of few."""
    there = torch.cuda.is_available()
    for agent, observation, name in (
        ("dqn", {}, "dqn"),
        ("ppo", {}, "ppo"),
        ("refiner", {"pool_groups": 4}, "refiner of 4 groups"),
    ):
        whole = copies = None
        if there:
            layer, x = _controlled(agent, observation, seed, torch.device("cuda"))

            def decide(layer: IntegratedAttention = layer, x: Tensor = x) -> object:
                return layer.select_actions(x)

            whole = _share(decide, layer, x, rounds, torch.cuda.synchronize)
            copies = d2h_copies_and_utilization(decide)[0]
        yield Row(f"decision over forward, CUDA, {name}, {sizes}", whole, _DECISION_GOAL, "lower")
        yield Row(f"copies to the host in a decision, CUDA, {name}", copies, 0, "lower")


@torch.no_grad()
def _share(
    decide: Callable[[], object],
    layer: IntegratedAttention,
    x: Tensor,
    rounds: int,
    synchronize: Callable[[], object] = lambda: None,
) -> float:
    """Time of a decision over that of a forward whose span is the predictor's."""
    decision, forward = interleaved_timing(
        decide,
        lambda: layer.forward_with_action(x),
        rounds=rounds,
        least=_SECONDS,
        synchronize=synchronize,
    )
    return decision / forward


def _added(layer: IntegratedAttention, x: Tensor) -> Callable[[], object]:
    """What a decision takes where the layer has normalized its input and has its features."""
    controller = cast(ExportedPolicy, layer.refiner)
    local_input = layer.ln_a(x).detach()
    found = token_moments(local_input)
    return lambda: controller.actions(controller.observe(found, local_input))


def _controlled(
    agent: str, observation: dict[str, Any], seed: int, device: torch.device
) -> tuple[IntegratedAttention, Tensor]:
    """A layer that an agent controls, and an input."""
    generator = torch.Generator().manual_seed(seed)
    layer = IntegratedAttention(CTX, DIMS, HEAD_TYPES, generator=generator).eval()
    encoding = "state" if agent == "refiner" else "box"
    observed = ObservationSpec(DIMS, encoding=encoding, **observation)
    layer.refiner = ExportedPolicy(observed, _head(agent, observed, generator))
    return layer.to(device), torch.randn(1, CTX, DIMS, generator=generator).to(device)


def _head(agent: str, observation: ObservationSpec, generator: torch.Generator) -> PolicyHead:
    if agent == "refiner":
        return LookupPolicy(
            observation, torch.randint(NUM_ACTIONS, (NUM_STATES,), generator=generator)
        )
    widths = (len(observation.nvec), HIDDEN, HIDDEN, NUM_ACTIONS)
    weights = [
        nn.init.orthogonal_(torch.empty(outputs, inputs), generator=generator)
        for inputs, outputs in itertools.pairwise(widths)
    ]
    biases = [torch.zeros(len(each)) for each in weights]
    return MLPPolicy(observation, weights, biases, "ReLU" if agent == "dqn" else "Tanh")


def _against_original(storage: str, rounds: int, seed: int) -> float:
    """Speed of choosing and updating over the original's, on the same stream of states."""
    generator = np.random.default_rng(seed)
    # As many states as a run meets where two groups of dimensions are observed.
    states = generator.integers(NUM_STATES, size=25)[
        generator.integers(25, size=_DECISIONS)
    ].tolist()
    rewards = generator.standard_normal(_DECISIONS).tolist()

    def play(refiner: Refiner | OriginalRefiner) -> Callable[[], None]:
        def decisions() -> None:
            state = states[-1]
            for next_state, reward in zip(states, rewards, strict=True):
                action = refiner.choose_action(state)
                refiner.update(state, action, reward, next_state)
                state = next_state

        return decisions

    ours, original = interleaved_timing(
        play(Refiner(storage=storage, seed=seed)),
        play(OriginalRefiner(seed)),
        rounds=rounds,
        least=_SECONDS,
    )
    return original / ours
