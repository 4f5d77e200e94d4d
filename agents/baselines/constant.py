"""Non-learning baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.utils.atomic_io import atomic_write, ensure_suffix


class BaselinePolicy:
    """A policy without anything to learn; `learn` only plays it."""

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play for so many steps, over all environments together."""
        observations = self._reset(env)
        for _ in range(steps // env.num_envs):
            assert isinstance(observations, np.ndarray)
            observations, *_ = env.step(self.predict(observations))

    def _reset(self, env: VecEnv) -> Any:
        """Begin episodes to be played."""
        return env.reset()

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Actions for the environments, shape (num_envs,)."""
        raise NotImplementedError

    def save(self, path: Path | str) -> None:
        """Write what the policy is to ``path`` with the ending ``.json``."""
        with atomic_write(ensure_suffix(path, ".json")) as tmp:
            tmp.write_text(json.dumps(self.state_dict()) + "\n")

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote."""
        self.load_state_dict(json.loads(ensure_suffix(path, ".json").read_text()))

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        raise NotImplementedError


class RandomPolicy(BaselinePolicy):
    """Every action at equal odds.

    Args:
        actions: Number of actions.
        seed: Seed of the draws.
    """

    def __init__(self, actions: int = 10, seed: int | None = None) -> None:
        self.actions = actions
        self._generator = np.random.default_rng(seed)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Random actions, shape (num_envs,)."""
        return self._generator.integers(self.actions, size=len(observations))

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {"actions": self.actions, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.actions = state["actions"]
        self._generator.bit_generator.state = state["generator"]


class FixedSpanPolicy(BaselinePolicy):
    """Always the same action.

    Args:
        action: The action.
    """

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The action, once per environment."""
        return np.full(len(observations), self.action)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {"action": self.action}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.action = state["action"]
