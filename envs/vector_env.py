"""The Gymnasium vector interface: many environments as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spangym.envs.batched_mixin import BatchedEnvMixin
from spangym.envs.core import SpanControlCore
from spangym.envs.env_config import parse_env_kwargs
from spangym.utils.scalars import as_int


class SpanControlVectorEnv(BatchedEnvMixin, VectorEnv[Any, Any, NDArray[Any]]):
    """Many environments of `SpanControlEnv` in one batch, for Gymnasium's vector API.

    Environment ``i`` behaves as the scalar environment seeded ``seed + i``, bit-exactly on the CPU;
    shapes that PyTorch rounds differently in a batch are run one environment at a time
    (`spangym.envs.transition.is_batch_invariant`). All episodes end at once, by truncation, and the
    environments are reset within the step (``AutoresetMode.SAME_STEP``): the observations are then
    those of the new episodes, and ``infos["final_obs"]`` and ``infos["final_info"]`` hold the last
    ones. Returned arrays are never reused.

    Args:
        num_envs: Number of environments.
        render_mode: None; use `SpanControlEnv` to render a single environment.
        report_step_time: Whether ``infos`` hold the wall time of the step.
        **kwargs: Arguments of `spangym.envs.SpanControlEnv`.

    Raises:
        TypeError: An argument is unknown, or of another type.
        ValueError: An argument is invalid.

    Example:
        >>> import gymnasium as gym
        >>> envs = gym.make_vec("spangym.envs:spangym/SpanControl-v0", 3, encoding="box")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations, rewards, terminations, truncations, infos = envs.step(np.array([0, 5, 9]))
        >>> observations.shape, rewards.dtype, infos["span"].tolist()[0]
        ((3, 128), dtype('float32'), 0)
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        render_mode: None = None,
        report_step_time: bool = False,
        **kwargs: Any,
    ) -> None:
        if render_mode is not None:
            hint = "render a single environment, made by gym.make"
            raise ValueError(f"render_mode must be None, got {render_mode!r}: {hint}")
        self.render_mode = render_mode
        self.report_step_time = report_step_time
        self.config, components = parse_env_kwargs(kwargs)
        self.core = SpanControlCore(self.config, num_envs, components)
        self.num_envs = num_envs = self.core.num_envs
        self.single_observation_space = self.core.observation_space
        self.single_action_space = self.core.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: Environment ``i`` gets ``seed + i``, or item ``i`` of a sequence; None continues
                the random generator.
            options: Not used; ``reset_mask`` is an error, since all episodes start and end
                together.

        Returns:
            First observations, one row per environment, and infos.

        Raises:
            ValueError: The number of seeds is not ``num_envs``, or a mask is given.
        """
        if options and "reset_mask" in options:
            raise ValueError("options must have no reset_mask: all episodes start together")
        if seed is not None and not np.ndim(seed):
            first = as_int("seed", seed)
            seed = [first + env_index for env_index in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else [*seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be {self.num_envs} numbers, one each, got {seeds}")
        for env_index, each in enumerate(seeds):
            if each is not None:
                self._generators[env_index] = seeding.np_random(as_int("seed", each))[0]
        observations, infos = self.core.reset(self._generators)
        return observations, self._merge_infos(infos)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Set the spans of the next layer, and run the layer.

        Args:
            actions: One row per environment.

        Returns:
            Observations, rewards (float32), terminations (all False), truncations and infos.

        Raises:
            ValueError: The actions are not in the action space.
            RuntimeError: No episode is running.
        """
        result = self.core.step(np.asarray(actions))
        observations, infos = result.observations, result.infos
        if self.report_step_time:
            infos = [{**info, "milliseconds": self.core.milliseconds} for info in infos]
        if result.truncated:
            observations, first_infos = self.core.reset(self._generators)
            ends = zip(result.observations, infos, first_infos, strict=True)
            infos = [{"final_obs": obs, "final_info": info, **first} for obs, info, first in ends]
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        truncations = np.full(self.num_envs, result.truncated)
        return observations, result.rewards, terminations, truncations, self._merge_infos(infos)

    def _merge_infos(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for env_index, info in enumerate(infos):
            merged = self._add_info(merged, info, env_index)
        return merged
