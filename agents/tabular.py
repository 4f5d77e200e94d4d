"""Controllers of layers as agents: whatever chooses actions from state ids and updates on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ..attention import SpanController


class ControllerAgent:
    """Runs a `spangym.attention.SpanController` in an environment of state ids.

    The controller learns from every step of every lane, bootstrapping on the observation that
    follows (at the end of an episode, on its last). Methods it may have besides the protocol's:

    - ``greedy_action(state)``: what it thinks best; without it, `predict` asks ``choose_action``;
    - ``save(path)`` and ``load(path)``: without them nothing of it can be stored.

    Args:
        controller: What chooses and learns.
    """

    def __init__(self, controller: SpanController) -> None:
        self.controller = controller

    def learn(self, env: VecEnv, steps: int) -> None:
        """Choose and learn for so many steps, over all lanes together."""
        states = _states(env.reset())
        for _ in range(steps // env.num_envs):
            actions = [self.controller.choose_action(state) for state in states]
            observations, rewards, dones, infos = env.step(np.array(actions))
            following = _states(observations)
            for lane, (state, action) in enumerate(zip(states, actions, strict=True)):
                last = infos[lane]["terminal_observation"] if dones[lane] else following[lane]
                self.controller.update(state, action, float(rewards[lane]), int(last))
            states = following

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


def _states(observations: Any) -> list[int]:
    """State ids of the lanes as Python integers."""
    return np.asarray(observations).tolist()
