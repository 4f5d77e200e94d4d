"""The environment in which a model learns while an agent decides its spans.

It is `spangym.envs.SpanControlVecEnv` on the model's layers, which are updated at the end of each
chunk: whatever learns there learns here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import Outcome
from spangym.envs import SpanControlVecEnv
from spangym.envs.core import Simulator, Step
from spangym.envs.env_config import Parts, Settings
from spangym.envs.model.stack import Stack
from spangym.envs.observations import Encoding
from spangym.envs.rewards import QualityReward, Reward, TaskReward
from spangym.envs.state import Episode, State
from spangym.envs.transition import Dynamics, Passed
from spangym.experiments.pilot.model_optimizer import Stopped


class QualityOfTraining(QualityReward):
    """The original's reward, minus the price, where there is a task to be learnt."""

    needs_task = True


class LearningReward(TaskReward):
    """By how many bits a target the loss is below that of the last updates, minus the price.

    It arrives with the chunk's last layer, the price at each layer.
    """

    parts = ("learning", "price")


TRAINING_REWARDS: dict[str, type[Reward]] = {
    "quality": QualityOfTraining,
    "learning": LearningReward,
}
"""Rewards of agents that learn online, by name; each is made with its price."""


class Trained(Protocol):
    """Whose layers an environment runs."""

    def learn_from(self, losses: Tensor, outcomes: Sequence[Outcome]) -> None:
        """Update the model at the end of a chunk.

        Args:
            losses: In bits a target, shape (lanes,), with their gradient.
            outcomes: What each layer did.
        """
        ...

    @property
    def recent_loss(self) -> float | None:
        """Mean loss of the last updates; None before the first."""
        ...

    def next_batch(self) -> list[np.random.Generator]:
        """Do what is to be done between two episodes, then say what the next one is drawn from."""
        ...


class TrainingDynamics(Dynamics):
    """Runs chunks with their gradient, and has the model learn at the end of each.

    Args:
        settings: What to run.
        stack: The live layers.
        reward: What judges decisions.
        encoding: How they are observed.
        trained: Whose layers they are.
    """

    def __init__(
        self,
        settings: Settings,
        stack: Stack,
        reward: Reward,
        encoding: Encoding,
        trained: Trained,
    ) -> None:
        super().__init__(settings, stack, reward, encoding)
        self._trained = trained
        self._outcomes: list[Outcome] = []

    def enter(self, episode: Episode, state: State, chunk: int) -> State:
        """The state as a chunk begins: its loss is compared with that of the last updates."""
        assert episode.targets is not None
        self._outcomes = []
        recent = self._trained.recent_loss
        with torch.enable_grad():
            hidden = self.stack.embed(episode.content[:, chunk])
        return replace(
            state,
            hidden=hidden,
            targets=episode.targets[:, chunk],
            full_bits=None if recent is None else hidden.new_full((len(hidden),), recent),
        )

    def run(
        self, state: State, index: int, actions: Tensor, *, return_stats: bool = False
    ) -> Outcome:
        """Run a layer under a decision, and keep what it did until the chunk ends."""
        outcome = super().run(state, index, actions, return_stats=return_stats)
        if not outcome.output.isfinite().all():
            raise Stopped(f"layer {index} put out numbers that were not finite")
        self._outcomes.append(outcome)
        return outcome

    def decide(self, state: State, index: int, actions: Tensor) -> Passed:
        """Run a layer under a decision; behind the last one the model learns."""
        with torch.enable_grad():
            passed = super().decide(state, index, actions)
        seen = tuple(None if each is None else each.detach() for each in passed.state.seen)
        return passed._replace(
            state=replace(passed.state, seen=seen), local_output=passed.local_output.detach()
        )

    def _excess(self, state: State, index: int, hidden: Tensor) -> Tensor | None:
        if index + 1 < self.settings.layers:
            return None
        assert state.targets is not None
        losses = self.stack.bits(hidden, state.targets)
        self._trained.learn_from(losses, self._outcomes)
        losses = losses.detach()
        return losses - (losses.mean() if state.full_bits is None else state.full_bits)


class TrainingSimulator(Simulator):
    """A simulator whose layers learn at the end of each chunk.

    Args:
        settings: What to run.
        lanes: Sequences of an update.
        parts: The stack, the source and the reward.
        trained: Whose layers they are.
    """

    def __init__(self, settings: Settings, lanes: int, parts: Parts, trained: Trained) -> None:
        super().__init__(settings, lanes, parts)
        self.dynamics = TrainingDynamics(settings, self.stack, self.reward, self.encoding, trained)
        # What the current chunk began with, and has been decided since.
        self._entered: State | None = None
        self._decided: list[NDArray[Any]] = []

    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Begin an episode: a new stream in every lane."""
        observations, infos = super().reset(generators)
        self._entered, self._decided = self._state, []
        return observations, infos

    def step(self, actions: NDArray[np.integer[Any]]) -> Step:
        """Decide the span of the coming layer in every lane, and run it."""
        step = super().step(actions)
        self._decided.append(actions)
        if self.layer == 0:
            self._entered, self._decided = self._state, []
        return step

    def fork(self) -> Simulator:
        """Not supported: what is tried out here would be learnt.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a model that trains cannot be tried out: whatever it reads it learns")

    def state_dict(self) -> dict[str, Any]:
        """All that running has changed: what the chunk began with, and what was decided since."""
        now = self.position, self._state, self._local_output
        self.position -= len(self._decided)
        self._state = None if self._entered is None else _detached(self._entered)
        self._local_output = None
        try:
            return {**super().state_dict(), "decided": [each.copy() for each in self._decided]}
        finally:
            self.position, self._state, self._local_output = now

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was called; the chunk is run again up to there.

        Raises:
            ValueError: It is of other settings or lanes.
        """
        super().load_state_dict(state_dict)
        if self._episode is None or self._state is None:
            return
        full_bits = self._state.full_bits
        entered = self.dynamics.enter(
            self._episode, self._state, self.position // self.settings.layers
        )
        self._state = self._entered = replace(entered, full_bits=full_bits)
        self._decided = []
        for actions in state_dict["decided"]:
            self.step(actions)


class TrainingVecEnv(SpanControlVecEnv):
    """The Stable-Baselines3 face of a model that trains; seeds are the training's own.

    Args:
        settings: What to run.
        lanes: Sequences of an update.
        parts: The stack, the source and the reward.
        trained: Whose layers they are.
    """

    def __init__(self, settings: Settings, lanes: int, parts: Parts, trained: Trained) -> None:
        self._trained = trained
        super().__init__(settings, lanes, parts)

    def _make_simulator(self, settings: Settings, lanes: int, parts: Parts) -> Simulator:
        return TrainingSimulator(settings, lanes, parts, self._trained)

    def _begin(self) -> NDArray[Any]:
        self._generators = self._trained.next_batch()
        return super()._begin()


def _detached(state: State) -> State:
    return replace(state, hidden=state.hidden.detach())
