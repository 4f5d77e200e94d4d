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

from spangym.agents.base import AtRest, nothing
from spangym.agents.tabular.kmeans import Clusters
from spangym.agents.tabular.q_learning import Refiner
from spangym.utils.atomic_io import with_ending
from spangym.utils.tensor_files import (
    generator_to_tensor,
    read_tensors,
    set_generator,
    write_tensors,
)


class _Round(NamedTuple):
    """One step of all lanes.

    Attributes:
        observations: Where they were, shape (lanes, numbers).
        actions: What was done, int64 of shape (lanes,).
        rewards: What it earned, shape (lanes,).
        following: Where it led; at the end of an episode, its last observations.
    """

    observations: NDArray[Any]
    actions: NDArray[np.int64]
    rewards: NDArray[Any]
    following: NDArray[Any]


class ClusterAgent:
    """A `Refiner` over `Clusters` of observations.

    Until the clusters are fitted it plays at random; then the refiner learns all of that in order,
    and goes on as in a `ControllerAgent`. A training that ends sooner fits what there is.

    Args:
        refiner: What learns, over as many states as there are clusters (of each layer).
        clusters: What makes states of observations.
        seed: Seed of the random actions, or a generator for them; entropy of the system if None.
    """

    encoding = "box"
    resumable = True

    def __init__(
        self,
        refiner: Refiner,
        clusters: Clusters,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.refiner = refiner
        self.clusters = clusters
        self._generator = np.random.default_rng(seed)
        self._observations: NDArray[Any] | None = None
        self._waiting: list[_Round] = []
        self._done = 0
        self._goes_on = False

    def learn(self, env: VecEnv, steps: int, at_rest: AtRest = nothing) -> None:
        """Learn, for so many steps altogether; see `spangym.agents.base.ResumableAgent`.

        Raises:
            ValueError: The environment has another number of lanes than what was loaded, or what
                it gives cannot be clustered.
        """
        lanes = env.num_envs
        if not self._goes_on or self._observations is None:
            self._observations, self._waiting, self._done = np.asarray(env.reset()), [], 0
        if len(self._observations) != lanes:
            raise ValueError(f"{len(self._observations)} lanes are stored, here are {lanes}")
        self._goes_on = False
        while self._done + lanes <= steps:
            at_rest(self._done + 2 * lanes > steps)
            actions = self._choose(self._observations)
            observations, rewards, dones, infos = env.step(actions)
            following = np.array(observations)
            for lane in np.flatnonzero(dones):
                following[lane] = infos[lane]["terminal_observation"]
            self._take(_Round(self._observations, actions, rewards, following))
            self._observations = np.asarray(observations)
            self._done += lanes
        if self._waiting:
            self.clusters.fit()
            self._catch_up()

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The refiner's greedy actions, shape (lanes,).

        Raises:
            RuntimeError: Nothing was learnt or loaded.
        """
        if not self.clusters.fitted:
            raise RuntimeError("the agent has not learnt yet: call learn() or load() first")
        return self.refiner.greedy_actions(self.clusters.states(observations))

    def save(self, path: Path | str) -> None:
        """Write what was learnt to ``path`` with the ending ``.npz``."""
        write_tensors(path, self._learnt())

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learnt here; needs no pickle.

        Raises:
            ValueError: It does not fit this agent; the message names the file.
        """
        tensors = read_tensors(path)
        try:
            self._put_learnt(tensors)
        except (KeyError, ValueError) as error:
            path = with_ending(path, ".npz")
            raise ValueError(f"{path} is not of such an agent: {error}") from error
        self._goes_on = False

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed, as tensors."""
        tensors = self._learnt() | {"done": torch.tensor(self._done)}
        if self._observations is not None:
            tensors["observations"] = torch.from_numpy(self._observations.copy())
        for name in _Round._fields if self._waiting else ():
            rounds = [getattr(each, name) for each in self._waiting]
            tensors[f"waiting.{name}"] = torch.from_numpy(np.stack(rounds))
        return tensors

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit this agent.
        """
        waiting = _named(state_dict, "waiting.")
        rounds = zip(*(waiting[name].numpy() for name in _Round._fields if waiting), strict=True)
        done, observations = int(state_dict["done"]), state_dict.get("observations")
        self._put_learnt(state_dict)
        self._waiting = [_Round(*each) for each in rounds]
        self._observations = None if observations is None else observations.numpy().copy()
        self._done, self._goes_on = done, True

    def _choose(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        if not self.clusters.fitted:
            return self._generator.integers(self.refiner.actions, size=len(observations))
        states = self.clusters.states(observations).tolist()
        return np.array([self.refiner.choose_action(state) for state in states])

    def _take(self, played: _Round) -> None:
        """Learn from a round, as soon as there are states."""
        if not self.clusters.fitted:
            self.clusters.add(played.observations)
        self._waiting.append(played)
        if self.clusters.fitted:
            self._catch_up()

    def _catch_up(self) -> None:
        """Learn from the rounds that wait, in order."""
        for played in self._waiting:
            states = self.clusters.states(played.observations).tolist()
            following = self.clusters.states(played.following).tolist()
            decisions = (states, played.actions.tolist(), played.rewards.tolist(), following)
            for lane, decision in enumerate(zip(*decisions, strict=True)):
                self.refiner.update(*decision, lane=lane)
        self._waiting = []

    def _learnt(self) -> dict[str, Tensor]:
        parts = {"refiner.": self.refiner, "clusters.": self.clusters}
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }
        return tensors | {"generator": generator_to_tensor(self._generator)}

    def _put_learnt(self, tensors: Mapping[str, Tensor]) -> None:
        generator, before = tensors["generator"], self.clusters.state_dict()
        self.clusters.load_state_dict(_named(tensors, "clusters."))
        try:
            self.refiner.load_state_dict(_named(tensors, "refiner."))
        except (KeyError, ValueError):
            self.clusters.load_state_dict(before)
            raise
        set_generator(self._generator, generator)


def _named(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }
