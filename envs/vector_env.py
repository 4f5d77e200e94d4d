"""The Gymnasium vector interface: many environments as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from spangym.envs.batched_mixin import BatchedEnvMixin
from spangym.envs.env_config import parse_env_kwargs
from spangym.envs.episode_renderer import EpisodeRenderer, check_render_mode
from spangym.envs.make_core import make_core
from spangym.envs.span_control import SpanControlEnv
from spangym.utils.readable_repr import short_repr
from spangym.utils.scalars import as_int


class SpanControlVectorEnv(  # pyright: ignore[reportIncompatibleVariableOverride]
    BatchedEnvMixin, VectorEnv[Any, Any, NDArray[Any]]
):
    """Many environments of `SpanControlEnv` in one batch, for Gymnasium's vector API.

    Environment ``i`` behaves as the scalar environment seeded ``seed + i``, bit-exactly on the CPU;
    shapes that PyTorch rounds differently in a batch are run one environment at a time
    (`spangym.envs.transition.is_batch_invariant`). All episodes end at once, by truncation.
    Returned arrays are never reused.

    Args:
        num_envs: Number of environments.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        report_step_time: Whether ``infos`` hold the wall time of the step.
        autoreset_mode: When environments are reset, by value or as `AutoresetMode`.
            ``SAME_STEP``: within the step that ends the episodes; the observations are then those
            of the new episodes, and ``infos["final_obs"]`` and ``infos["final_info"]`` hold the
            last ones. ``NEXT_STEP``: by the step after it, which ignores its actions, with rewards
            of 0.
        max_episode_steps: Steps after which episodes are truncated, as by Gymnasium's `TimeLimit`;
            None or -1 for no limit but the content's.
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

    metadata = {  # noqa: RUF012  (Gymnasium's own)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        **SpanControlEnv.metadata,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        report_step_time: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.render_mode = check_render_mode(render_mode)
        self.autoreset_mode = _check_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.report_step_time = report_step_time
        self.config, components = parse_env_kwargs(kwargs)
        limit = None if max_episode_steps == -1 else max_episode_steps
        self.core = make_core(self.config, num_envs, components, limit)
        self.num_envs = num_envs = self.core.num_envs
        self.single_observation_space = self.core.observation_space
        self.single_action_space = self.core.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self.renderers = self._new_renderers([{}] * self.num_envs)

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
        if seed is not None and (
            isinstance(seed, str) or not isinstance(seed, Sequence | np.ndarray)
        ):
            first = as_int("seed", seed)
            seed = [first + env_index for env_index in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else [*seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be {self.num_envs} numbers, one each, got {seeds}")
        for env_index, each in enumerate(seeds):
            if each is not None:
                self._generators[env_index] = seeding.np_random(as_int("seed", each))[0]
        observations, infos = self._reset_all()
        return observations, self._merge_infos(infos)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Set the spans of the next layer, and run the layer; or start new episodes.

        Args:
            actions: One row per environment.

        Returns:
            Observations, rewards (float32), terminations (all False), truncations and infos.

        Raises:
            ValueError: The actions are not in the action space.
            RuntimeError: No episode is running.
        """
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        if self.core.is_over and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observations, infos = self._reset_all()
            rewards = np.zeros(self.num_envs, np.float32)
            return (
                observations,
                rewards,
                terminations,
                terminations.copy(),
                self._merge_infos(infos),
            )
        result = self.core.step(np.asarray(actions))
        observations, infos = result.observations, result.infos
        if self.report_step_time:
            infos = [{**info, "milliseconds": self.core.milliseconds} for info in infos]
        if self.render_mode is not None:
            columns = zip(self.renderers, result.rewards.tolist(), infos, strict=True)
            self.renderers = tuple(each.with_step(reward, info) for each, reward, info in columns)
        if result.truncated and self.autoreset_mode is AutoresetMode.SAME_STEP:
            observations, first_infos = self._reset_all()
            ends = zip(result.observations, infos, first_infos, strict=True)
            infos = [{"final_obs": obs, "final_info": info, **first} for obs, info, first in ends]
        truncations = np.full(self.num_envs, result.truncated)
        return observations, result.rewards, terminations, truncations, self._merge_infos(infos)

    def render(self) -> tuple[Any, ...] | None:
        """Draw the current chunk of each environment: text, or images, or None without a mode."""
        if self.render_mode is None:
            return None
        return tuple(each.draw(self.render_mode) for each in self.renderers)

    def state_dict(self) -> dict[str, Any]:
        """See `BatchedEnvMixin.state_dict`."""
        return {
            **super().state_dict(),
            "renderings": [each.state_dict() for each in self.renderers],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `BatchedEnvMixin.load_state_dict`."""
        super().load_state_dict(state_dict)
        self.renderers = self._new_renderers([{}] * self.num_envs)
        # States of the other interfaces have no renderings.
        if "renderings" in state_dict:
            pairs = zip(self.renderers, state_dict["renderings"], strict=True)
            self.renderers = tuple(each.from_state(state) for each, state in pairs)

    def _reset_all(self) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        observations, infos = self.core.reset(self._generators)
        self.renderers = self._new_renderers(infos)
        return observations, infos

    def _new_renderers(self, infos: Sequence[Mapping[str, Any]]) -> tuple[EpisodeRenderer, ...]:
        spans = self.core.span_configs
        return tuple(EpisodeRenderer.of_episode(self.config, spans, info) for info in infos)

    def _merge_infos(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for env_index, info in enumerate(infos):
            merged = self._add_info(merged, info, env_index)
        return merged


def _check_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    supported = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
    for each in supported:
        if mode in (each, each.value):
            return each
    known = " or ".join(repr(each.value) for each in supported)
    raise ValueError(f"autoreset_mode must be {known}, got {short_repr(mode)}")
