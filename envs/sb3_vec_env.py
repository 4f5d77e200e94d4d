"""The Stable-Baselines3 interface: many environments as a `stable_baselines3` `VecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from spangym.envs.batched_mixin import BatchedEnvMixin
from spangym.envs.core import EpisodeCore
from spangym.envs.env_config import EnvComponents, EnvConfig, make_spec
from spangym.envs.make_core import make_core
from spangym.utils.readable_repr import readable_repr
from spangym.utils.scalars import as_int


class SB3SpanControlVecEnv(BatchedEnvMixin, VecEnv):
    """Many environments of `SpanControlEnv` in one batch, for Stable-Baselines3.

    Environment ``i`` behaves as the scalar environment seeded ``seed + i``, bit-exactly on the CPU;
    shapes that PyTorch rounds differently in a batch are run one environment at a time
    (`spangym.envs.transition.is_batch_invariant`). All episodes end at once; the environments are
    then reset within the step, and ``info["terminal_observation"]`` holds the last observation,
    with ``info["TimeLimit.truncated"]`` true. Returned arrays are never reused.

    Args:
        config: Arguments of the environments.
        n_envs: Number of environments.
        components: The user's own layers, dataset or reward; `parse_env_kwargs` makes both config
            and components from the arguments of ``gym.make``.

    Example:
        >>> env = SB3SpanControlVecEnv(EnvConfig(encoding="box", chunks_per_episode=2), n_envs=3)
        >>> _ = env.seed(0)
        >>> env.reset().shape
        (3, 128)
        >>> observations, rewards, dones, infos = env.step(np.array([0, 5, 9]))
        >>> rewards.dtype, dones.tolist(), infos[0]["span"]
        (dtype('float32'), [False, False, False], 0)
    """

    __repr__ = readable_repr

    def __init__(
        self,
        config: EnvConfig,
        n_envs: int = 1,
        components: EnvComponents = EnvComponents(),  # noqa: B008
    ) -> None:
        self.render_mode = None
        self._components = components
        self.core = self._make_core(config, n_envs, components)
        n_envs = self.core.num_envs
        self._generators = [seeding.np_random(None)[0] for _ in range(n_envs)]
        super().__init__(n_envs, self.core.observation_space, self.core.action_space)

    def _make_core(self, config: EnvConfig, n_envs: int, components: EnvComponents) -> EpisodeCore:
        return make_core(config, n_envs, components)

    @property
    def config(self) -> EnvConfig:
        """Arguments of the environments."""
        return self.core.config

    @property
    def spec(self) -> EnvSpec:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Specification from which ``gym.make`` makes the scalar environment."""
        return make_spec(self.config, self._components)

    @property
    def episode_steps(self) -> int:
        """Steps of an episode, one for each chunk and layer."""
        return self.config.chunks_per_episode * self.config.num_layers

    def reset(self) -> NDArray[Any]:
        """Start an episode in every environment; seeds set by `seed` take effect here."""
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
        """Run the next layer: observations, rewards (float32), dones, infos of all environments."""
        result = self.core.step(self._actions)
        observations, infos = result.observations, result.infos
        if result.truncated:
            for info, last_observation in zip(infos, observations, strict=True):
                info["terminal_observation"] = last_observation
            observations = self._reset_all()
        milliseconds = self.core.milliseconds
        for info in infos:
            info["TimeLimit.truncated"] = result.truncated
            info["milliseconds"] = milliseconds
        dones = np.full(self.num_envs, result.truncated)
        return observations, result.rewards, dones, infos

    def _reset_all(self) -> NDArray[Any]:
        observations, self.reset_infos = self.core.reset(self._generators)
        return observations

    def state_dict(self) -> dict[str, Any]:
        """See `BatchedEnvMixin.state_dict`."""
        return {**super().state_dict(), "seeds": [_to_int(seed) for seed in self._seeds]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `BatchedEnvMixin.load_state_dict`."""
        super().load_state_dict(state_dict)
        self._seeds = [*state_dict.get("seeds", [None] * self.num_envs)]

    def close(self) -> None:
        """Do nothing: there are no resources."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, repeated for each environment."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not supported, because the environments are one batch: an `AttributeError`."""
        reason = "the environments share one core; make a new environment"
        raise AttributeError(f"cannot set {attr_name!r}: {reason}")

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Not supported, because the environments are one batch: an `AttributeError`."""
        raise AttributeError(f"cannot call {method_name!r}: the environments share one core")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for every environment."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """None for every environment; use `SpanControlEnv` to render."""
        return [None] * self.num_envs


def _to_int(seed: int | None) -> int | None:
    """Convert a seed to a Python integer: Gymnasium accepts no NumPy integers."""
    return None if seed is None else as_int("seed", seed)
