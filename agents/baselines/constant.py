"""Baselines without learning: random actions and fixed spans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import num_actions_in
from spangym.attention.geometry import MAX_ACTIONS, NUM_ACTIONS
from spangym.utils.atomic_io import atomic_write, ensure_suffix
from spangym.utils.readable_repr import readable_repr
from spangym.utils.rng import Seed, make_generator
from spangym.utils.scalars import as_int
from spangym.utils.serialization import parse_json, report_damage


class BaselinePolicy:
    """A policy that does not learn; `learn` only plays it.

    A subclass defines `predict`, and names the attributes that are saved in ``saved``.
    """

    __repr__ = readable_repr

    saved: ClassVar[tuple[str, ...]] = ()
    _num_actions = NUM_ACTIONS

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play ``steps`` steps over all environments."""
        observations = self._reset(env)
        for _ in range(steps // env.num_envs):
            observations, *_ = env.step(self.predict(observations))

    def on_episode_start(self, env: Any) -> None:
        """Take the number of actions from the environment."""
        self._num_actions = num_actions_in(env)

    def _reset(self, env: VecEnv) -> Any:
        observations = env.reset()
        self.on_episode_start(env)
        return observations

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions, shape (num_envs,)."""
        raise NotImplementedError

    def save(self, path: Path | str) -> None:
        """Write `state_dict` to ``path`` with the suffix ``.json``."""
        with atomic_write(ensure_suffix(path, ".json")) as tmp:
            tmp.write_text(json.dumps(self.state_dict()) + "\n")

    def load(self, path: Path | str) -> None:
        """Restore the state that `save` wrote.

        Raises:
            ValueError: The file is not of this agent; the message names it.
        """
        path = ensure_suffix(path, ".json")
        with report_damage(f"{path} is not of this agent", path):
            state = parse_json(path.read_text("utf-8"))
            if not isinstance(state, dict) or {*state} != {*self.state_dict()}:
                raise ValueError(f"it must hold {', '.join(self.state_dict()) or 'no values'}")
            self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        vars(self).update(state)


class RandomPolicy(BaselinePolicy):
    """Uniformly random actions.

    Args:
        seed: Seed; system entropy if None.
    """

    def __init__(self, seed: Seed = None) -> None:
        self._generator = make_generator(seed)

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions, shape (num_envs,)."""
        return self._generator.integers(self._num_actions, size=len(observations))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self._generator.bit_generator.state = state["generator"]


class FixedSpanPolicy(BaselinePolicy):
    """Always the same action.

    Args:
        action: Action, 0 for no span.
    """

    saved = ("action",)

    def __init__(self, action: int) -> None:
        self.action = as_int("action", action, 0, MAX_ACTIONS - 1)

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions, shape (num_envs,)."""
        return np.full(len(observations), self.action)


class FullSpanPolicy(BaselinePolicy):
    """Always the last action: the longest span."""

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions, shape (num_envs,)."""
        return np.full(len(observations), self._num_actions - 1)
