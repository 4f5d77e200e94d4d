"""TabularAgent: a controller of state ids as an agent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import CheckpointCallback, noop, num_actions_in
from spangym.agents.baselines.env_aware import SupportsLookahead
from spangym.attention import SpanController
from spangym.attention.controllers.protocol import (
    StatefulController,
    num_actions_of,
    num_states_of,
)
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.rng import get_global_rng_state, set_global_rng_state
from spangym.utils.scalars import as_int
from spangym.utils.signatures import parameters_of
from spangym.utils.suggestions import did_you_mean

BootstrapFrom = Literal["next_obs", "layer_output"]

Transition = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Observations, actions, rewards and next observations, one row per environment."""


class TabularAgent:
    """Trains a `spangym.attention.SpanController` on every step of every environment.

    The controller's attributes ``actions`` and ``states``, 10 and 10,000 without, must be the
    numbers of actions and states of the environment.

    Optional methods of the controller:

    - ``greedy_action(state)``: used by `predict` instead of ``choose_action``;
    - ``save(path)`` and ``load(path)``: without them the agent cannot be stored;
    - ``state_dict()`` and ``load_state_dict(state_dict)``: without them training is not resumable;
    - ``update(..., env_index)``: the index of the environment as an additional argument.

    Args:
        controller: Controller to train.
        bootstrap_from: State that follows a decision: the next observation, or the final one of an
            episode (``next_obs``); or the state of the layer's output, as in the original
            (``layer_output``).
    """

    __repr__ = readable_repr

    def __init__(
        self, controller: SpanController, bootstrap_from: BootstrapFrom = "next_obs"
    ) -> None:
        if bootstrap_from not in get_args(BootstrapFrom):
            hint = did_you_mean(str(bootstrap_from), get_args(BootstrapFrom))
            raise ValueError(f"bootstrap_from {short_repr(bootstrap_from)} is unknown{hint}")
        self.controller = controller
        self.bootstrap_from = bootstrap_from
        self._takes_env_index = "env_index" in parameters_of(controller.update)
        self._observations: NDArray[Any] = np.empty(0)
        self._steps_done = 0
        self._resume = False

    @property
    def env_counts(self) -> dict[str, int]:
        """Numbers of actions and states that an environment must have, by argument."""
        return {
            "num_actions": num_actions_of(self.controller),
            "num_states": num_states_of(self.controller),
        }

    def check_env(self, env: VecEnv) -> None:
        """Raise a `ValueError` if the agent cannot learn in the environment.

        It has another number of actions or states, or no observations of the layers' outputs.
        """
        if self.bootstrap_from == "layer_output" and not hasattr(env, "output_observations"):
            raise ValueError(
                "bootstrap_from = 'layer_output' needs an environment with output_observations(): "
                "use 'next_obs'"
            )
        found = {"num_actions": num_actions_in(env)}
        # Environments of the user's own number their states as they like.
        with contextlib.suppress(AttributeError):
            found["num_states"] = env.get_attr("config")[0].num_states
        for name, count in self.env_counts.items():
            if found.get(name, count) != count:
                controller, own = type(self.controller).__name__, name.removeprefix("num_")
                raise ValueError(
                    f"{controller} has {own} = {count}, its environment {name} = {found[name]}: "
                    "they must be equal"
                )

    @property
    def resumable(self) -> bool:
        """Whether the controller has a state dict."""
        return isinstance(self.controller, StatefulController)

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Train; see `spangym.agents.base.ResumableAgent`."""
        steps = as_int("steps", steps, 0)
        self.check_env(env)
        if not self._resume:
            self._observations, self._steps_done = np.asarray(env.reset()), 0
        self._resume = False
        while self._steps_done + env.num_envs <= steps:
            checkpoint_callback(self._steps_done + 2 * env.num_envs > steps)
            actions = self._choose_actions(self._observations)
            observations, rewards, dones, infos = env.step(actions)
            next_observations = np.array(observations)
            for env_index in np.flatnonzero(dones):
                next_observations[env_index] = infos[env_index]["terminal_observation"]
            if self.bootstrap_from == "layer_output":
                next_observations = np.asarray(cast(SupportsLookahead, env).output_observations())
            self._update((self._observations, actions, rewards, next_observations))
            self._observations = np.asarray(observations)
            self._steps_done += env.num_envs

    def _choose_actions(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        return np.array([*map(self.controller.choose_action, self._states(observations))])

    def _update(self, transition: Transition) -> None:
        observations, actions, rewards, next_observations = transition
        states, next_states = self._states(observations), self._states(next_observations)
        transitions = zip(states, actions.tolist(), rewards.tolist(), next_states, strict=True)
        for env_index, arguments in enumerate(transitions):
            more = {"env_index": env_index} if self._takes_env_index else {}
            self.controller.update(*arguments, **more)

    def _states(self, observations: NDArray[Any]) -> list[int]:
        return np.asarray(observations).tolist()

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return the greedy actions, shape (num_envs,)."""
        choose = getattr(self.controller, "greedy_action", self.controller.choose_action)
        return np.array([choose(state) for state in self._states(observations)])

    def save(self, path: Path | str) -> None:
        """Have the controller save itself, if it can."""
        if callable(save := getattr(self.controller, "save", None)):
            save(path)

    def load(self, path: Path | str) -> None:
        """Have the controller load what `save` wrote."""
        if not callable(load := getattr(self.controller, "load", None)):
            raise TypeError(f"{type(self.controller).__name__} has no method load(path)")
        load(path)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, global generators included."""
        return {
            "controller": dict(self._stateful_controller().state_dict()),
            "observations": self._observations,
            "steps_done": self._steps_done,
            "generators": get_global_rng_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the next `learn` where `state_dict` was called."""
        self._stateful_controller().load_state_dict(state_dict["controller"])
        self._observations = state_dict["observations"]
        self._steps_done = state_dict["steps_done"]
        set_global_rng_state(state_dict["generators"])
        self._resume = True

    def _stateful_controller(self) -> StatefulController:
        if not isinstance(self.controller, StatefulController):
            name = type(self.controller).__name__
            raise TypeError(f"{name} has no methods state_dict() and load_state_dict(state_dict)")
        return self.controller
