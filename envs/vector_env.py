"""The Gymnasium vector face: many environments as a `gymnasium.vector.VectorEnv`."""

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


class SpanControlVectorEnv(BatchedEnvMixin, VectorEnv[Any, Any, NDArray[Any]]):
    """Many environments of `SpanControlEnv` through one simulator, for Gymnasium's vector users.

    Environment ``i`` behaves as the scalar environment seeded ``seed + i``: to the bit on the CPU for
    chunks of 16 tokens or more. All environments' episodes end at once, by truncation, and begin anew
    within the step (``AutoresetMode.SAME_STEP``): the observations are then the new episodes',
    the last ones stand in ``infos["final_obs"]`` and what was said of them in
    ``infos["final_info"]``. Arrays are fresh at every step.

    Args:
        num_envs: Environments.
        render_mode: None: a single environment can be drawn by `SpanControlEnv`.
        report_step_time: Whether ``infos`` hold the wall time of the step.
        **arguments: Those of `spangym.envs.SpanControlEnv`.

    Raises:
        TypeError: An argument is unknown.
        ValueError: An argument breaks its rule.

    Example:
        >>> import gymnasium as gym
        >>> envs = gym.make_vec("spangym.envs:spangym/SpanControl-v0", 3, chunks_per_episode=2, encoding="box")
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
        **arguments: Any,
    ) -> None:
        if render_mode is not None:
            raise ValueError(
                f"render_mode must be None for many environments, got {render_mode!r}: draw one with make"
            )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.config, components = parse_env_kwargs(arguments)
        self.report_step_time = report_step_time
        self.core = SpanControlCore(self.config, num_envs, components)
        self.single_observation_space = self.core.encoding.space
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
        """Begin an episode in every environment.

        Args:
            seed: Environment ``i`` is seeded ``seed + i``, or by the ``i``-th of a sequence; environments without
                a seed go on.
            options: Not used; ``reset_mask`` is refused, since all environments' episodes end at once.

        Returns:
            The first observations, one row per environment, and infos.

        Raises:
            ValueError: There are other than ``num_envs`` seeds, or a mask is given.
        """
        if options and "reset_mask" in options:
            raise ValueError(
                "options must have no reset_mask: all environments' episodes begin merged"
            )
        seeds: Sequence[int | None]
        if isinstance(seed, int | np.integer):
            seeds = [int(seed) + env_index for env_index in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else [*seed]
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"seed must be of {self.num_envs} numbers, one per environment, got {seeds}"
            )
        for env_index, each in enumerate(seeds):
            if each is not None:
                self._generators[env_index] = seeding.np_random(int(each))[0]
        observations, infos = self.core.reset(self._generators)
        return observations, self._merge_infos(infos)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Set the spans of the coming layer and run it.

        Args:
            actions: One row per environment.

        Returns:
            Observations, rewards (float32), terminations (never), truncations and infos.

        Raises:
            ValueError: The actions are not in the action space.
            RuntimeError: No episode has begun.
        """
        step = self.core.step(np.asarray(actions))
        observations, infos = step.observations, step.infos
        if self.report_step_time:
            infos = [{**info, "milliseconds": self.core.milliseconds} for info in infos]
        if step.truncated:
            observations, first = self.core.reset(self._generators)
            infos = [
                {"final_obs": last, "final_info": info, **new}
                for last, info, new in zip(step.observations, infos, first, strict=True)
            ]
        truncations = np.full(self.num_envs, step.truncated)
        never = np.zeros(self.num_envs, dtype=np.bool_)
        return observations, step.rewards, never, truncations, self._merge_infos(infos)

    def _merge_infos(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for env_index, info in enumerate(infos):
            merged = self._add_info(merged, info, env_index)
        return merged
