"""Policies that learn nothing: what every learner has to be compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.utils.atomic_io import with_ending, written_whole


class ReferenceAgent:
    """A policy without anything to learn; `learn` only plays it."""

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play for so many steps, over all lanes together."""
        observations = self._reset(env)
        for _ in range(steps // env.num_envs):
            assert isinstance(observations, np.ndarray)
            observations, *_ = env.step(self.predict(observations))

    def _reset(self, env: VecEnv) -> Any:
        """Begin episodes to be played."""
        return env.reset()

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Actions for the lanes, shape (lanes,)."""
        raise NotImplementedError

    def save(self, path: Path | str) -> None:
        """Write what the policy is to ``path`` with the ending ``.json``."""
        with written_whole(with_ending(path, ".json")) as aside:
            aside.write_text(json.dumps(self._state()) + "\n")

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote."""
        self._restore(json.loads(with_ending(path, ".json").read_text()))

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError


class RandomAgent(ReferenceAgent):
    """Every action at equal odds.

    Args:
        actions: Number of actions.
        seed: Seed of the draws.
    """

    def __init__(self, actions: int = 10, seed: int | None = None) -> None:
        self.actions = actions
        self._generator = np.random.default_rng(seed)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Random actions, shape (lanes,)."""
        return self._generator.integers(self.actions, size=len(observations))

    def _state(self) -> dict[str, Any]:
        return {"actions": self.actions, "generator": self._generator.bit_generator.state}

    def _restore(self, state: dict[str, Any]) -> None:
        self.actions = state["actions"]
        self._generator.bit_generator.state = state["generator"]


class FixedAgent(ReferenceAgent):
    """Always the same action.

    Args:
        action: The action.
    """

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The action, once a lane."""
        return np.full(len(observations), self.action)

    def _state(self) -> dict[str, Any]:
        return {"action": self.action}

    def _restore(self, state: dict[str, Any]) -> None:
        self.action = state["action"]
