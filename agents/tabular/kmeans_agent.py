"""KMeansQAgent: Q-learning over clusters of observations."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import CheckpointCallback, noop
from spangym.agents.tabular.controller_agent import TabularAgent, Transition
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.q_learning import Refiner
from spangym.utils.atomic_io import ensure_suffix
from spangym.utils.rng import Seed, make_generator
from spangym.utils.serialization import SUFFIX, load_state, report_damage, save_state


class KMeansQAgent(TabularAgent):
    """Trains a `Refiner` on the states of a `KMeansDiscretizer`.

    Actions are random, and transitions are buffered, until the clusters are fitted; the refiner
    then learns from the buffer in order. A training that ends earlier fits the observations it has.

    Args:
        refiner: Refiner of the cluster ids.
        discretizer: Clusters of observations.
        seed: Seed of the random actions, or a generator; system entropy if None.
    """

    encoding = "box"

    def __init__(
        self,
        refiner: Refiner,
        discretizer: KMeansDiscretizer,
        seed: Seed = None,
    ) -> None:
        super().__init__(refiner)
        self.refiner, self.discretizer = refiner, discretizer
        self._generator = make_generator(seed)
        self._buffer: list[Transition] = []

    @property
    def env_counts(self) -> dict[str, int]:
        """Number of actions that an environment must have; states are clusters."""
        return {"num_actions": self.refiner.actions}

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Train; see `spangym.agents.base.ResumableAgent`."""
        if not self._resume:
            self._buffer = []
        elif (stored := len(self._observations)) != env.num_envs:
            raise ValueError(f"{stored} environments are stored, here are {env.num_envs}")
        super().learn(env, steps, checkpoint_callback)
        if self._buffer:
            self.discretizer.fit()
            self._learn_from_buffer()

    def _choose_actions(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        if self.discretizer.is_fitted:
            return super()._choose_actions(observations)
        return self._generator.integers(self.refiner.actions, size=len(observations))

    def _update(self, transition: Transition) -> None:
        self.discretizer.partial_fit(transition[0])
        self._buffer.append(transition)
        if self.discretizer.is_fitted:
            self._learn_from_buffer()

    def _learn_from_buffer(self) -> None:
        for transition in self._buffer:
            super()._update(transition)
        self._buffer = []

    def _states(self, observations: NDArray[Any]) -> list[int]:
        return self.discretizer.predict(observations).tolist()

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """Return the greedy actions, shape (num_envs,).

        Raises:
            RuntimeError: The agent is untrained.
        """
        if not self.discretizer.is_fitted:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        return super().predict(observations)

    def save(self, path: Path | str) -> None:
        """Write the trained agent to ``path`` with the suffix ``.safetensors``."""
        save_state(ensure_suffix(path, SUFFIX), self._learned())

    def load(self, path: Path | str) -> None:
        """Restore the agent that `save` wrote.

        Raises:
            ValueError: The file does not fit this agent; the message names it.
        """
        path = ensure_suffix(path, SUFFIX)
        learned = load_state(path)
        with report_damage(f"{path} does not fit this agent", path):
            self._load_learned(learned)
        self._resume = False

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes."""
        return self._learned() | {
            "observations": self._observations,
            "steps_done": self._steps_done,
            "buffer": self._buffer,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue with the next `learn` where `state_dict` was called."""
        self._load_learned(state_dict)
        self._observations = state_dict["observations"]
        self._steps_done = state_dict["steps_done"]
        self._buffer = [*state_dict["buffer"]]
        self._resume = True

    def _learned(self) -> dict[str, Any]:
        return {
            "refiner": self.refiner.state_dict(),
            "discretizer": self.discretizer.state_dict(),
            "generator": self._generator.bit_generator.state,
        }

    def _load_learned(self, learned: Mapping[str, Any]) -> None:
        discretizer = copy.deepcopy(self.discretizer)
        discretizer.load_state_dict(learned["discretizer"])
        self.refiner.load_state_dict(learned["refiner"])
        self.discretizer = discretizer
        self._generator.bit_generator.state = learned["generator"]
