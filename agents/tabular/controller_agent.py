"""Controllers of layers as agents: whatever chooses actions from state ids and updates on them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import CheckpointCallback, noop
from spangym.agents.baselines.env_aware import SupportsLookahead
from spangym.attention import SpanController
from spangym.attention.controllers.protocol import StatefulController
from spangym.utils.rng import get_global_rng_state, set_global_rng_state
from spangym.utils.suggestions import did_you_mean

BootstrapFrom = Literal["next_obs", "layer_output"]


class TabularAgent:
    """Runs a `spangym.attention.SpanController` in an environment of state ids.

    The controller learns from every step of every environment. Methods it may have besides the
    protocol's:

    - ``greedy_action(state)``: what it thinks best; without it, `predict` asks ``choose_action``;
    - ``save(path)`` and ``load(path)``: without them nothing of it can be stored;
    - ``state_dict()`` and ``load_state_dict(state_dict)``: without them a training that was
      interrupted begins anew.

    An ``update`` that takes ``env_index``, too, is told which environment it learns from.

    Args:
        controller: What chooses and learns.
        bootstrap_from: What follows a decision: ``next_obs`` (at the end of an episode, its
            last), or, as in the original, the state of the layer's output (``layer_output``).

    Raises:
        ValueError: There is no such bootstrap.
    """

    def __init__(
        self, controller: SpanController, bootstrap_from: BootstrapFrom = "next_obs"
    ) -> None:
        if bootstrap_from not in get_args(BootstrapFrom):
            hint = did_you_mean(str(bootstrap_from), get_args(BootstrapFrom))
            raise ValueError(f"bootstrap_from {bootstrap_from!r} is unknown{hint}")
        self.controller = controller
        self.bootstrap_from = bootstrap_from
        self._update_takes_lane = "env_index" in inspect.signature(controller.update).parameters
        self._states: list[int] = []
        self._done = 0
        self._resume = False

    @property
    def resumable(self) -> bool:
        """Whether the controller can store all that it has learned."""
        return isinstance(self.controller, StatefulController)

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Choose and learn for so many steps, over all environments together."""
        if not self._resume:
            self._states, self._done = _states(env.reset()), 0
        self._resume = False
        while self._done + env.num_envs <= steps:
            checkpoint_callback(self._done + 2 * env.num_envs > steps)
            states = self._states
            actions = [self.controller.choose_action(state) for state in states]
            observations, rewards, dones, infos = env.step(np.array(actions))
            self._states = _states(observations)
            next_states = [
                int(infos[env_index]["terminal_observation"]) if dones[env_index] else state
                for env_index, state in enumerate(self._states)
            ]
            if self.bootstrap_from == "layer_output":
                next_states = _states(cast(SupportsLookahead, env).output_observations())
            for env_index, decision in enumerate(
                zip(states, actions, rewards.tolist(), next_states, strict=True)
            ):
                more = {"env_index": env_index} if self._update_takes_lane else {}
                self.controller.update(*decision, **more)
            self._done += env.num_envs

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Actions for the states of the environments, shape (num_envs,)."""
        choose = getattr(self.controller, "greedy_action", self.controller.choose_action)
        return np.array([choose(state) for state in _states(observations)])

    def save(self, path: Path | str) -> None:
        """Have the controller write itself, if it can."""
        if callable(save := getattr(self.controller, "save", None)):
            save(path)

    def load(self, path: Path | str) -> None:
        """Have the controller read itself.

        Raises:
            TypeError: The controller has no ``load``.
        """
        if not callable(load := getattr(self.controller, "load", None)):
            raise TypeError(f"{type(self.controller).__name__} has no method load(path)")
        load(path)

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed, the global generators among it.

        Raises:
            TypeError: The controller has no ``state_dict``.
        """
        if not isinstance(self.controller, StatefulController):
            raise TypeError(f"{type(self.controller).__name__} has no method state_dict()")
        return {
            "controller": dict(self.controller.state_dict()),
            "states": self._states,
            "done": self._done,
            "generators": get_global_rng_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            TypeError: The controller has no ``load_state_dict``.
            ValueError: It does not fit the controller.
        """
        if not isinstance(self.controller, StatefulController):
            raise TypeError(f"{type(self.controller).__name__} has no method load_state_dict()")
        self.controller.load_state_dict(state_dict["controller"])
        self._states, self._done = [*state_dict["states"]], state_dict["done"]
        set_global_rng_state(state_dict["generators"])
        self._resume = True


def _states(observations: Any) -> list[int]:
    """State ids of the environments as Python integers."""
    return np.asarray(observations).tolist()
