"""The Stable-Baselines3 face: many environments as a `stable_baselines3.common.vec_env.VecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from spangym.envs.batched_mixin import BatchedEnvMixin
from spangym.envs.core import SpanControlCore
from spangym.envs.env_config import EnvComponents, EnvConfig


class SB3SpanControlVecEnv(BatchedEnvMixin, VecEnv):
    """Many environments of `SpanControlEnv` through one simulator, for Stable-Baselines3.

    Environment ``i`` behaves as the scalar environment seeded ``seed + i``: to the bit on the CPU for
    chunks of 16 tokens or more (matrix products of fewer rows may round otherwise). All environments'
    episodes end at once; the environments are then reset within the step, and their last observations
    stand in ``info["terminal_observation"]``, with ``info["TimeLimit.truncated"]`` true.
    Observations and rewards are fresh arrays at every step.

    Args:
        config: What to run.
        n_envs: How many streams.
        components: Objects of the user's own in place of named ones; `parse_env_kwargs` makes both
            config and components from the arguments that ``gym.make`` takes.

    Example:
        >>> env = SB3SpanControlVecEnv(EnvConfig(encoding="box", chunks_per_episode=2), n_envs=3)
        >>> _ = env.seed(0)
        >>> env.reset().shape
        (3, 128)
        >>> observations, rewards, dones, infos = env.step(np.array([0, 5, 9]))
        >>> rewards.dtype, dones.tolist(), infos[0]["span"]
        (dtype('float32'), [False, False, False], 0)
    """

    def __init__(
        self, config: EnvConfig, n_envs: int = 1, components: EnvComponents = EnvComponents()
    ) -> None:  # noqa: B008
        self.render_mode = None
        self.core = self._make_core(config, n_envs, components)
        self._generators = [seeding.np_random(None)[0] for _ in range(n_envs)]
        space = self.core.encoding.space
        super().__init__(n_envs, space, self.core.action_space)

    def _make_core(
        self, config: EnvConfig, n_envs: int, components: EnvComponents
    ) -> SpanControlCore:
        """What runs the environments."""
        return SpanControlCore(config, n_envs, components)

    @property
    def config(self) -> EnvConfig:
        """What is run."""
        return self.core.config

    def reset(self) -> NDArray[Any]:
        """Begin an episode in every environment; seeds set by `seed` take effect here.

        Returns:
            First observations, one row per environment.
        """
        for env_index, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[env_index] = seeding.np_random(_to_int(seed))[0]
        self._reset_seeds()
        self._reset_options()
        return self._reset_all()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Set the spans of the coming layer and run it.

        Returns:
            Observations, rewards (float32), dones and infos, one per environment.
        """
        step = self.core.step(self._actions)
        observations = step.observations
        if step.truncated:
            for info, last in zip(step.infos, step.observations, strict=True):
                info["terminal_observation"] = last
            observations = self._reset_all()
        for info in step.infos:
            info["TimeLimit.truncated"] = step.truncated
            info["milliseconds"] = self.core.milliseconds
        dones = np.full(self.num_envs, step.truncated)
        return observations, step.rewards, dones, step.infos

    def _reset_all(self) -> NDArray[Any]:
        observations, self.reset_infos = self.core.reset(self._generators)
        return observations

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold."""
        return {**super().state_dict(), "seeds": [_to_int(seed) for seed in self._seeds]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments or environments.
        """
        super().load_state_dict(state_dict)
        self._seeds = [*state_dict.get("seeds", [None] * self.num_envs)]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute, once for each environment: environments are not separate objects."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not supported.

        Raises:
            AttributeError: Always; environments are not separate objects.
        """
        raise AttributeError(
            f"cannot set {attr_name!r}: the environments share one simulator; make a new environment"
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
            AttributeError: Always; environments are not separate objects.
        """
        raise AttributeError(f"cannot call {method_name!r}: the environments share one simulator")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for every environment."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """None for every environment: a single one is drawn by `SpanControlEnv`."""
        return [None] * self.num_envs


def _to_int(seed: int | None) -> int | None:
    """A seed that Gymnasium takes: it knows no integers of NumPy."""
    return None if seed is None else int(seed)
