"""Controllers of layers as agents: whatever chooses actions from state ids and updates on them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import AtRest, nothing
from spangym.agents.baselines.env_aware import Foreseen
from spangym.attention import SpanController
from spangym.attention.controllers.protocol import StoredController
from spangym.utils.rng import global_generators, set_global_generators
from spangym.utils.suggestions import did_you_mean

Bootstrap = Literal["observation", "output"]


class ControllerAgent:
    """Runs a `spangym.attention.SpanController` in an environment of state ids.

    The controller learns from every step of every lane. Methods it may have besides the
    protocol's:

    - ``greedy_action(state)``: what it thinks best; without it, `predict` asks ``choose_action``;
    - ``save(path)`` and ``load(path)``: without them nothing of it can be stored;
    - ``state_dict()`` and ``load_state_dict(state_dict)``: without them a training that was
      interrupted begins anew.

    An ``update`` that takes ``lane``, too, is told which lane it learns from.

    Args:
        controller: What chooses and learns.
        bootstrap: What follows a decision: the next ``observation`` (at the end of an episode, its
            last), or, as in the original, the state of the layer's ``output``.

    Raises:
        ValueError: There is no such bootstrap.
    """

    def __init__(self, controller: SpanController, bootstrap: Bootstrap = "observation") -> None:
        if bootstrap not in get_args(Bootstrap):
            hint = did_you_mean(str(bootstrap), get_args(Bootstrap))
            raise ValueError(f"bootstrap {bootstrap!r} is unknown{hint}")
        self.controller = controller
        self.bootstrap = bootstrap
        self._by_lane = "lane" in inspect.signature(controller.update).parameters
        self._states: list[int] = []
        self._done = 0
        self._goes_on = False

    @property
    def resumable(self) -> bool:
        """Whether the controller can store all that it has learnt."""
        return isinstance(self.controller, StoredController)

    def learn(self, env: VecEnv, steps: int, at_rest: AtRest = nothing) -> None:
        """Choose and learn for so many steps, over all lanes together."""
        if not self._goes_on:
            self._states, self._done = _states(env.reset()), 0
        self._goes_on = False
        while self._done + env.num_envs <= steps:
            at_rest(self._done + 2 * env.num_envs > steps)
            states = self._states
            actions = [self.controller.choose_action(state) for state in states]
            observations, rewards, dones, infos = env.step(np.array(actions))
            self._states = _states(observations)
            following = [
                int(infos[lane]["terminal_observation"]) if dones[lane] else state
                for lane, state in enumerate(self._states)
            ]
            if self.bootstrap == "output":
                following = _states(cast(Foreseen, env).output_observations())
            for lane, decision in enumerate(
                zip(states, actions, rewards.tolist(), following, strict=True)
            ):
                more = {"lane": lane} if self._by_lane else {}
                self.controller.update(*decision, **more)
            self._done += env.num_envs

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Actions for the states of the lanes, shape (lanes,)."""
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
        if not isinstance(self.controller, StoredController):
            raise TypeError(f"{type(self.controller).__name__} has no method state_dict()")
        return {
            "controller": dict(self.controller.state_dict()),
            "states": self._states,
            "done": self._done,
            "generators": global_generators(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            TypeError: The controller has no ``load_state_dict``.
            ValueError: It does not fit the controller.
        """
        if not isinstance(self.controller, StoredController):
            raise TypeError(f"{type(self.controller).__name__} has no method load_state_dict()")
        self.controller.load_state_dict(state_dict["controller"])
        self._states, self._done = [*state_dict["states"]], state_dict["done"]
        set_global_generators(state_dict["generators"])
        self._goes_on = True


def _states(observations: Any) -> list[int]:
    """State ids of the lanes as Python integers."""
    return np.asarray(observations).tolist()
