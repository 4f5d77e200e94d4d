"""A refiner over clusters of observations: a table where state ids would hardly ever recur."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from spangym.agents.base import CheckpointCallback, noop
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.q_learning import Refiner
from spangym.utils.atomic_io import ensure_suffix
from spangym.utils.rng import rng_from_tensor, rng_to_tensor
from spangym.utils.serialization import SUFFIX, load_state, save_state


class _Transition(NamedTuple):
    """One step of all environments.

    Attributes:
        observations: Where they were, shape (num_envs, numbers).
        actions: What was done, int64 of shape (num_envs,).
        rewards: What it earned, shape (num_envs,).
        next_obs: Where it led; at the end of an episode, its last observations.
    """

    observations: NDArray[Any]
    actions: NDArray[np.int64]
    rewards: NDArray[Any]
    next_obs: NDArray[Any]


class KMeansQAgent:
    """A `Refiner` over `KMeansDiscretizer` of observations.

    Until the clusters are fitted it plays at random; then the refiner learns all of that in order,
    and goes on as in a `TabularAgent`. A training that ends sooner fits what there is.

    Args:
        refiner: What learns, over as many states as there are clusters (of each layer).
        discretizer: What makes states of observations.
        seed: Seed of the random actions, or a generator for them; entropy of the system if None.
    """

    encoding = "box"
    resumable = True

    def __init__(
        self,
        refiner: Refiner,
        discretizer: KMeansDiscretizer,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.refiner = refiner
        self.discretizer = discretizer
        self._generator = np.random.default_rng(seed)
        self._observations: NDArray[Any] | None = None
        self._buffer: list[_Transition] = []
        self._done = 0
        self._resume = False

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Learn, for so many steps altogether; see `spangym.agents.base.ResumableAgent`.

        Raises:
            ValueError: The environment has another number of environments than what was loaded, or what
                it gives cannot be clustered.
        """
        num_envs = env.num_envs
        if not self._resume or self._observations is None:
            self._observations, self._buffer, self._done = np.asarray(env.reset()), [], 0
        if len(self._observations) != num_envs:
            raise ValueError(
                f"{len(self._observations)} environments are stored, here are {num_envs}"
            )
        self._resume = False
        while self._done + num_envs <= steps:
            checkpoint_callback(self._done + 2 * num_envs > steps)
            actions = self._choose(self._observations)
            observations, rewards, dones, infos = env.step(actions)
            next_obs = np.array(observations)
            for env_index in np.flatnonzero(dones):
                next_obs[env_index] = infos[env_index]["terminal_observation"]
            self._take(_Transition(self._observations, actions, rewards, next_obs))
            self._observations = np.asarray(observations)
            self._done += num_envs
        if self._buffer:
            self.discretizer.fit()
            self._replay_buffered()

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The refiner's greedy actions, shape (num_envs,).

        Raises:
            RuntimeError: Nothing was learned or loaded.
        """
        if not self.discretizer.is_fitted:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        return self.refiner.greedy_actions(self.discretizer.predict(observations))

    def save(self, path: Path | str) -> None:
        """Write what was learned to ``path`` with the ending ``.safetensors``."""
        save_state(ensure_suffix(path, SUFFIX), self._learned())

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learned here; needs no pickle.

        Raises:
            ValueError: It does not fit this agent; the message names the file.
        """
        path = ensure_suffix(path, SUFFIX)
        tensors = load_state(path)
        try:
            self._put_learned(tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is not of such an agent: {error}") from error
        self._resume = False

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed, as tensors."""
        tensors = self._learned() | {"done": torch.tensor(self._done)}
        if self._observations is not None:
            tensors["observations"] = torch.from_numpy(self._observations.copy())
        for name in _Transition._fields if self._buffer else ():
            rounds = [getattr(each, name) for each in self._buffer]
            tensors[f"waiting.{name}"] = torch.from_numpy(np.stack(rounds))
        return tensors

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit this agent.
        """
        waiting = _named(state_dict, "waiting.")
        rounds = zip(
            *(waiting[name].numpy() for name in _Transition._fields if waiting), strict=True
        )
        done, observations = int(state_dict["done"]), state_dict.get("observations")
        self._put_learned(state_dict)
        self._buffer = [_Transition(*each) for each in rounds]
        self._observations = None if observations is None else observations.numpy().copy()
        self._done, self._resume = done, True

    def _choose(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        if not self.discretizer.is_fitted:
            return self._generator.integers(self.refiner.n_actions, size=len(observations))
        states = self.discretizer.predict(observations).tolist()
        return np.array([self.refiner.choose_action(state) for state in states])

    def _take(self, played: _Transition) -> None:
        """Learn from a round, as soon as there are states."""
        if not self.discretizer.is_fitted:
            self.discretizer.partial_fit(played.observations)
        self._buffer.append(played)
        if self.discretizer.is_fitted:
            self._replay_buffered()

    def _replay_buffered(self) -> None:
        """Learn from the rounds that wait, in order."""
        for played in self._buffer:
            states = self.discretizer.predict(played.observations).tolist()
            next_obs = self.discretizer.predict(played.next_obs).tolist()
            decisions = (states, played.actions.tolist(), played.rewards.tolist(), next_obs)
            for env_index, decision in enumerate(zip(*decisions, strict=True)):
                self.refiner.update(*decision, env_index=env_index)
        self._buffer = []

    def _learned(self) -> dict[str, Tensor]:
        parts = {"refiner.": self.refiner, "discretizer.": self.discretizer}
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }
        return tensors | {"generator": rng_to_tensor(self._generator)}

    def _put_learned(self, tensors: Mapping[str, Tensor]) -> None:
        generator, before = tensors["generator"], self.discretizer.state_dict()
        self.discretizer.load_state_dict(_named(tensors, "discretizer."))
        try:
            self.refiner.load_state_dict(_named(tensors, "refiner."))
        except (KeyError, ValueError):
            self.discretizer.load_state_dict(before)
            raise
        rng_from_tensor(self._generator, generator)


def _named(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }
