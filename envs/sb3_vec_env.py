"""The Stable-Baselines3 face: many lanes as a `stable_baselines3.common.vec_env.VecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from spangym.envs.batched_mixin import Lanes
from spangym.envs.core import Simulator
from spangym.envs.env_config import Parts, Settings


class SpanControlVecEnv(Lanes, VecEnv):
    """Many lanes of `SpanControlEnv` through one simulator, for Stable-Baselines3.

    Lane ``i`` behaves as the scalar environment seeded ``seed + i``: to the bit on the CPU for
    chunks of 16 tokens or more (matrix products of fewer rows may round otherwise). All lanes'
    episodes end at once; the lanes are then reset within the step, and their last observations
    stand in ``info["terminal_observation"]``, with ``info["TimeLimit.truncated"]`` true.
    Observations and rewards are fresh arrays at every step.

    Args:
        settings: What to run.
        lanes: How many streams.
        parts: Objects of the user's own in place of named ones; `split_arguments` makes both
            settings and parts from the arguments that ``gym.make`` takes.

    Example:
        >>> env = SpanControlVecEnv(Settings(encoding="box", chunks=2), lanes=3)
        >>> _ = env.seed(0)
        >>> env.reset().shape
        (3, 128)
        >>> observations, rewards, dones, infos = env.step(np.array([0, 5, 9]))
        >>> rewards.dtype, dones.tolist(), infos[0]["span"]
        (dtype('float32'), [False, False, False], 0)
    """

    def __init__(self, settings: Settings, lanes: int = 1, parts: Parts = Parts()) -> None:  # noqa: B008
        self.render_mode = None
        self.simulator = self._make_simulator(settings, lanes, parts)
        self._generators = [seeding.np_random(None)[0] for _ in range(lanes)]
        space = self.simulator.encoding.space
        super().__init__(lanes, space, self.simulator.action_space)

    def _make_simulator(self, settings: Settings, lanes: int, parts: Parts) -> Simulator:
        """What runs the lanes."""
        return Simulator(settings, lanes, parts)

    @property
    def settings(self) -> Settings:
        """What is run."""
        return self.simulator.settings

    def reset(self) -> NDArray[Any]:
        """Begin an episode in every lane; seeds set by `seed` take effect here.

        Returns:
            First observations, one row a lane.
        """
        for lane, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[lane] = seeding.np_random(_plain(seed))[0]
        self._reset_seeds()
        self._reset_options()
        return self._begin()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Set the spans of the coming layer and run it.

        Returns:
            Observations, rewards (float32), dones and infos, one a lane.
        """
        step = self.simulator.step(self._actions)
        observations = step.observations
        if step.truncated:
            for info, last in zip(step.infos, step.observations, strict=True):
                info["terminal_observation"] = last
            observations = self._begin()
        for info in step.infos:
            info["TimeLimit.truncated"] = step.truncated
            info["milliseconds"] = self.simulator.milliseconds
        dones = np.full(self.num_envs, step.truncated)
        return observations, step.rewards, dones, step.infos

    def _begin(self) -> NDArray[Any]:
        observations, self.reset_infos = self.simulator.reset(self._generators)
        return observations

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold."""
        return {**super().state_dict(), "seeds": [_plain(seed) for seed in self._seeds]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments or lanes.
        """
        super().load_state_dict(state_dict)
        self._seeds = [*state_dict.get("seeds", [None] * self.num_envs)]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute, once for each lane: lanes are not separate objects."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not supported.

        Raises:
            AttributeError: Always; lanes are not separate objects.
        """
        raise AttributeError(
            f"cannot set {attr_name!r}: the lanes share one simulator; make a new environment"
        )

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Not supported.

        Raises:
            AttributeError: Always; lanes are not separate objects.
        """
        raise AttributeError(f"cannot call {method_name!r}: the lanes share one simulator")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for every lane."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """None for every lane: a single one is drawn by `SpanControlEnv`."""
        return [None] * self.num_envs


def _plain(seed: int | None) -> int | None:
    """A seed that Gymnasium takes: it knows no integers of NumPy."""
    return None if seed is None else int(seed)
