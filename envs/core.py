"""Many environments in step: what their interfaces share, and the core with live layers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import SpanConfig
from spangym.envs.data.dataset import BYTES, sample_streams
from spangym.envs.env_config import CUSTOM, EnvComponents, EnvConfig
from spangym.envs.levels import draw_levels, sample_levels
from spangym.envs.model.build_model import build_model
from spangym.envs.model.load_pretrained import build_pretrained, load_components, read_as_tokens
from spangym.envs.model.stack import LayerStack
from spangym.envs.observations import make_observation_space, to_observations
from spangym.envs.state import Episode, State, state_from_dict, state_to_dict, tree_map
from spangym.envs.transition import TransitionModel, metrics_to_columns
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import as_int

_STATE_SHAPE_FIELDS = (
    "backend",
    "num_levels",
    "start_level",
    "num_layers",
    "chunks_per_episode",
    "ctx",
    "dims",
    "control_kv_cache",
    "observation_time",
)
"""Fields of `EnvConfig` that determine what a state holds."""


@dataclass(frozen=True)
class StepResult:
    """The result of one step in every environment, on the host.

    Attributes:
        observations: Next observations, one row per environment.
        rewards: Rewards, float32 of shape (num_envs,).
        infos: One new info per environment.
        truncated: Whether the episode ended, which happens in all environments at once.
    """

    __repr__ = readable_repr

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    infos: list[dict[str, Any]]
    truncated: bool


class EpisodeCore(ABC):
    """Episodes of many environments in step: the part that does not depend on the backend.

    A stream is cut into chunks of ``ctx`` tokens. A chunk passes through the layers; at each layer
    the actions set the spans, the layer runs, its local output is rewarded, and its output is the
    next layer's input. With ``num_levels`` every chunk of a stream is one of the levels.

    Args:
        config: Arguments of the environment.
        num_envs: Number of environments.
        components: The user's own layers, dataset or reward.
        max_episode_steps: Steps after which an episode ends if it has not ended before; None for
            no limit.

    Attributes:
        action_space: Space of one environment's action.
        observation_space: Space of one environment's observation.
        step_count: Steps taken in the episode.
        episode_length: Steps in an episode.
        milliseconds: Wall time of the last step of all environments, in ms.

    Raises:
        TypeError: ``num_envs`` is no integer.
        ValueError: ``num_envs`` is less than 1, or the components do not fit together.
    """

    __repr__ = readable_repr

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        components: EnvComponents = EnvComponents(),  # noqa: B008
        max_episode_steps: int | None = None,
    ) -> None:
        for name in ("dataset", "reward"):
            if getattr(config, name) == CUSTOM and getattr(components, name) is None:
                raise ValueError(f"{name} {CUSTOM!r} needs an object in components.{name}")
        self.config = config
        self.num_envs = as_int("num_envs", num_envs, 1)
        self.dataset = components.dataset or config.make_dataset()
        self.reward = components.reward or config.make_reward()
        self.observation_spec = config.observation_spec
        self.observation_space = make_observation_space(self.observation_spec)
        num_actions = config.num_actions
        with_kv, spans = spaces.MultiDiscrete([num_actions, 2, 2]), spaces.Discrete(num_actions)
        self.action_space = with_kv if config.control_kv_cache else spans
        self.episode_length = config.chunks_per_episode * config.num_layers
        if max_episode_steps is not None:
            limit = as_int("max_episode_steps", max_episode_steps, 1)
            self.episode_length = min(self.episode_length, limit)
        self.step_count = self.episode_length
        self.milliseconds = 0.0
        self._levels: NDArray[np.int64] | None = None
        self._cost_coefs: NDArray[np.float32] | None = None
        self._content_types: list[tuple[str, ...]] = []

    @abstractmethod
    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Start an episode: a new stream in every environment, each from its own generator.

        Returns:
            First observations, one row per environment, and one info each.

        Raises:
            ValueError: The dataset returned a stream of another shape, dtype or range.
        """

    @abstractmethod
    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """Set the span of the next layer in every environment, and run the layer.

        Args:
            actions: Integers in ``0..num_actions - 1`` of shape (num_envs,); with
                ``control_kv_cache`` of shape (num_envs, 3): the span, and 0 or 1 for keys and for
                values.

        Raises:
            ValueError: The actions are not in the action space, or a result is NaN or infinite.
            RuntimeError: No episode is running.
        """

    @property
    @abstractmethod
    def stack(self) -> LayerStack:
        """The live layers with embedding and task head."""

    @property
    @abstractmethod
    def transition_model(self) -> TransitionModel:
        """What runs the live layers."""

    @property
    @abstractmethod
    def episode(self) -> Episode | None:
        """Content of the episode; None before the first reset."""

    @property
    @abstractmethod
    def state(self) -> State:
        """The current state of the live layers.

        Raises:
            RuntimeError: No episode is running.
        """

    @property
    @abstractmethod
    def search_state(self) -> Any:
        """State from which actions are tried, a tree of tensors, the environments first.

        Raises:
            RuntimeError: No episode is running.
        """

    @abstractmethod
    def try_all_actions(self, state: Any, layer: int) -> tuple[Any, Tensor]:
        """Take every action of `all_actions` in every environment, without a change of this one.

        Args:
            state: `search_state`, or a result of this method.
            layer: Index of the layer.

        Returns:
            Next states, and rewards in float64, of ``num_envs * actions`` environments.
        """

    @abstractmethod
    def try_last_action(self, state: Any, layer: int) -> tuple[Any, Tensor]:
        """`try_all_actions` for the last action alone, which is full span."""

    @abstractmethod
    def coverages(self, state: Any) -> Tensor:
        """Share of full attention's weight within the span of each action at the next layer.

        Args:
            state: `search_state`.

        Returns:
            Shape (num_envs * actions,).
        """

    @property
    def all_actions(self) -> NDArray[np.int64]:
        """All actions of one environment, shape (num_actions,).

        With ``control_kv_cache`` the shape is (4 * num_actions, 3), in lexicographic order.
        """
        spans = range(self.config.num_actions)
        if not self.config.control_kv_cache:
            return np.array(spans)
        return np.array([*itertools.product(spans, range(2), range(2))])

    @property
    def device(self) -> torch.device:
        """Device of the live layers."""
        return self.stack.device

    @property
    def layers(self) -> list[Any]:
        """The live layers."""
        return [*self.stack.layers]

    @property
    def span_configs(self) -> tuple[SpanConfig, ...]:
        """Span options of each layer."""
        return tuple(layer.config for layer in self.layers)

    @abstractmethod
    def output_observations(self) -> NDArray[Any]:
        """Encode the local output of the last step as an observation; one row per environment.

        The original bootstraps on it. After the end of an episode it is of that episode's last step
        until the next step.

        Raises:
            RuntimeError: No step was taken yet.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that running changes, as nested dicts of tensors and JSON values."""

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue, bit-exactly, from where `state_dict` was called.

        Raises:
            ValueError: The state is of an environment with other arguments.
        """

    @property
    def layer(self) -> int:
        """Index of the layer that the next action is for."""
        return self.step_count % self.config.num_layers

    @property
    def content_types(self) -> list[str]:
        """Content type of the chunk that the next action is for, one per environment.

        Raises:
            RuntimeError: No episode is running.
        """
        self._check_running()
        chunk = self.step_count // self.config.num_layers
        return [content_types[chunk] for content_types in self._content_types]

    @property
    def is_over(self) -> bool:
        """Whether an episode has ended, and no other has started."""
        return bool(self._content_types) and self.step_count == self.episode_length

    def fork(self) -> Self:
        """Make an independent copy in the same state, on the same live layers."""
        # Attributes are replaced, never changed in place.
        return copy.copy(self)

    def _draw_levels(self, generators: Sequence[np.random.Generator]) -> NDArray[np.int64]:
        # The last chunk is not acted on: its observation is the final one.
        chunks = self.config.chunks_per_episode + 1
        return draw_levels(generators, self.config.start_level, self.config.num_levels, chunks)

    def _draw_cost_coefs(
        self, generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float32] | None:
        """Draw the cost coefficients of an episode, after its content: see `Episode.cost_coef`."""
        cost_coef = self.config.cost_coef
        if isinstance(cost_coef, tuple):
            low, high = np.log(cost_coef)
            return np.exp([each.uniform(low, high) for each in generators]).astype(np.float32)
        if self.config.include_cost_coef:
            return np.full(self.num_envs, cost_coef, np.float32)
        return None

    def _chunk_infos(self, chunk: int) -> list[dict[str, Any]]:
        """Infos of a chunk: content type, and the level if there are levels."""
        return _columns_to_infos(self._chunk_columns(chunk))

    def _chunk_columns(self, chunk: int) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {
            "content_type": [types[chunk] for types in self._content_types]
        }
        if self._levels is not None:
            columns["level"] = self._levels[:, chunk].tolist()
        if self._cost_coefs is not None:
            columns["cost_coef"] = self._cost_coefs.tolist()
        return columns

    def _step_infos(
        self, chunk: int, layer: int, components: NDArray[Any], metrics: NDArray[np.float64]
    ) -> list[dict[str, Any]]:
        """Infos of a step, from one row of numbers per environment."""
        names = self.reward.components
        columns = {
            **self._chunk_columns(chunk),
            "chunk": [chunk] * self.num_envs,
            "layer": [layer] * self.num_envs,
            "reward_components": [
                dict(zip(names, row, strict=True)) for row in components.tolist()
            ],
            **metrics_to_columns(metrics, self.config.ctx),
        }
        return _columns_to_infos(columns)

    def _load_draws(self, state_dict: Mapping[str, Any]) -> None:
        drawn = (state_dict["levels"], state_dict["cost_coefs"])
        self._levels, self._cost_coefs = (None if each is None else each.copy() for each in drawn)

    def _check_running(self) -> None:
        if self.step_count == self.episode_length:
            raise RuntimeError("no episode is running: call reset() first")

    def _check_compat(self, state_dict: Mapping[str, Any]) -> None:
        given = state_dict.get("compat_key", {})
        for name, value in self._compat_key().items():
            if given.get(name) != value:
                given = f"its {name} is {given.get(name)}, this one's {value}"
                raise ValueError(f"state is of another environment: {given}")

    def _compat_key(self) -> dict[str, Any]:
        return {
            "num_envs": self.num_envs,
            **{name: getattr(self.config, name) for name in _STATE_SHAPE_FIELDS},
            "episode_length": self.episode_length,
            "channels": self.dataset.channels,
            "task": self.reward.needs_task,
            "has_cost_coef": self.config.has_episode_cost,
            "num_features": self.observation_spec.num_features,
        }

    def _check_actions(self, actions: NDArray[Any]) -> None:
        space = self.action_space
        high = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        if (
            actions.shape != (self.num_envs, *(space.shape or ()))
            or actions.dtype.kind not in "iu"
            or actions.min() < 0
            or (actions >= high).any()
        ):
            wanted = f"an integer in 0..{self.config.num_actions - 1}"
            if self.config.control_kv_cache:
                wanted += ", 0 or 1, and 0 or 1,"
            wanted += f" for each of {self.num_envs} environments"
            raise ValueError(f"action must be {wanted}, got {short_repr(actions.tolist())}")


def _columns_to_infos(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


class SpanControlCore(EpisodeCore):
    """Runs streams of content through a stack of live layers; see `EpisodeCore`.

    Keys and values of the global paths are carried from chunk to chunk.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        components: EnvComponents = EnvComponents(),  # noqa: B008
        max_episode_steps: int | None = None,
    ) -> None:
        super().__init__(config, num_envs, components, max_episode_steps)
        if config.model:
            components = load_components(config, components)
            self.dataset = read_as_tokens(self.dataset, components)
        self._stack = self._build_stack(components)
        self._transition_model = TransitionModel(config, self._stack, self.reward)
        self._episode: Episode | None = None
        self._state: State | None = None
        # Of the last step, with the cost coefficients of its episode.
        self._local_output: Tensor | None = None
        self._output_cost_coefs: Tensor | None = None

    def _build_stack(self, components: EnvComponents) -> LayerStack:
        needs_task = self.reward.needs_task
        if self.config.model:
            return build_pretrained(self.config, components, self.dataset, needs_task)
        if self.dataset.vocab_size != BYTES:
            raise ValueError("dataset must be of bytes or frames for these layers, got token ids")
        stack = build_model(self.config, components.layers, self.dataset.channels)
        if needs_task and not stack.num_classes:
            raise ValueError("layers were trained on no task: use a checkpoint, or another reward")
        return stack

    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """See `EpisodeCore.reset`."""
        if self.config.num_levels:
            levels = self._draw_levels(generators)
            return self.start(levels, self._draw_cost_coefs(generators))
        # The last chunk is not acted on: its observation is the final one.
        chunks = self.config.chunks_per_episode + 1
        sizes = (chunks, self.config.ctx, self._num_classes)
        streams = sample_streams(self.dataset, generators, *sizes)
        return self._start(*streams, self._draw_cost_coefs(generators))

    def start(
        self, levels: NDArray[np.int64], cost_coefs: NDArray[np.float32] | None
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Start an episode on given levels, shape (num_envs, chunks_per_episode + 1).

        Cost coefficients are of shape (num_envs,), or None: see `Episode.cost_coef`.
        """
        self._levels = levels
        content = sample_levels(self.dataset, levels, self.config.ctx, self._num_classes)
        return self._start(*content, cost_coefs)

    @property
    def _num_classes(self) -> int | None:
        return self.stack.num_classes if self.reward.needs_task else None

    @torch.no_grad()
    def _start(
        self,
        content_types: list[tuple[str, ...]],
        content: Tensor,
        targets: Tensor | None,
        cost_coefs: NDArray[np.float32] | None,
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        self._content_types = content_types
        self._cost_coefs = cost_coefs
        costs = None if cost_coefs is None else torch.from_numpy(cost_coefs)
        episode = Episode(content, targets, costs)
        self._episode = tree_map(lambda each: each.to(self.device), episode)
        self._state = self.transition_model.initial_state(self._episode)
        if self.step_count != self.episode_length:
            # After a complete episode `output_observations` is still of its last step.
            self._local_output = None
        self.step_count = 0
        self._state = self.transition_model.prepare_layer(self._state, 0)
        numbers = self.transition_model.observe(self._state, 0).cpu().numpy()
        return to_observations(self.observation_spec, numbers), self._chunk_infos(0)

    @torch.no_grad()
    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """See `EpisodeCore.step`."""
        state = self.state
        self._check_actions(actions)
        start = time.perf_counter()
        chunk, layer = divmod(self.step_count, self.config.num_layers)
        next_layer = (layer + 1) % self.config.num_layers
        device_actions = torch.from_numpy(actions.astype(np.int64))
        device_actions = device_actions.to(self.device, non_blocking=True)

        transition = self.transition_model.step(state, layer, device_actions)
        next_state = transition.state
        if next_layer == 0:
            assert self.episode is not None
            next_state = self.transition_model.start_chunk(self.episode, next_state, chunk + 1)
        if self.step_count + 1 < self.episode_length:
            next_state = self.transition_model.prepare_layer(next_state, next_layer)
        numbers = self.transition_model.observe(next_state, next_layer)

        # The only copy to the host; float64 holds every count exactly.
        packed = [numbers, transition.reward_components.double(), transition.metrics]
        host = torch.cat(packed, dim=-1).cpu().numpy()
        if not np.isfinite(host).all():
            hint = "check its weights, the reward and the dataset"
            raise ValueError(f"layer {layer} of chunk {chunk} gave NaN or infinite numbers: {hint}")
        offsets = np.cumsum([each.shape[1] for each in packed[:2]])
        host_numbers, components, metrics = np.split(host, offsets, axis=1)

        self.step_count, self._state = self.step_count + 1, next_state
        self._local_output = transition.local_output
        self._output_cost_coefs = state.cost_coef
        self.milliseconds = (time.perf_counter() - start) * 1e3
        return StepResult(
            observations=to_observations(self.observation_spec, host_numbers),
            rewards=components.sum(1).astype(np.float32),
            infos=self._step_infos(chunk, layer, components, metrics),
            truncated=self.step_count == self.episode_length,
        )

    @property
    def stack(self) -> LayerStack:
        """See `EpisodeCore.stack`."""
        return self._stack

    @property
    def transition_model(self) -> TransitionModel:
        """See `EpisodeCore.transition_model`."""
        return self._transition_model

    @property
    def episode(self) -> Episode | None:
        """See `EpisodeCore.episode`."""
        return self._episode

    @property
    def state(self) -> State:
        """See `EpisodeCore.state`."""
        self._check_running()
        assert self._state is not None
        return self._state

    @property
    def search_state(self) -> State:
        """See `EpisodeCore.search_state`."""
        # Only later chunks need the caches at full span.
        return dataclasses.replace(self.state, full_caches=())

    @torch.no_grad()
    def try_all_actions(self, state: State, layer: int) -> tuple[State, Tensor]:
        """See `EpisodeCore.try_all_actions`."""
        return self._try(state, layer, self._all_actions_in(state))

    @torch.no_grad()
    def try_last_action(self, state: State, layer: int) -> tuple[State, Tensor]:
        """See `EpisodeCore.try_last_action`."""
        return self._try(state, layer, self._all_actions_in(state)[:, -1:])

    def _try(self, state: State, layer: int, actions: Tensor) -> tuple[State, Tensor]:
        transition = self.transition_model.step(state, layer, actions)
        # Only the next chunk needs the caches of the layers that ran.
        caches = (None,) * (layer + 1) + transition.state.caches[layer + 1 :]
        next_state = dataclasses.replace(transition.state, caches=caches)
        return next_state, transition.reward_components.double().sum(-1)

    @torch.no_grad()
    def coverages(self, state: State) -> Tensor:
        """See `EpisodeCore.coverages`."""
        actions = self._all_actions_in(state)
        layer_output = self.transition_model.run_layer(
            state, self.layer, actions, return_stats=True
        )
        assert layer_output.stats is not None
        return layer_output.stats.coverage

    def _all_actions_in(self, state: State) -> Tensor:
        actions = torch.from_numpy(self.all_actions).to(self.device, non_blocking=True)
        return actions.expand(len(state.hidden), *actions.shape)

    @torch.no_grad()
    def output_observations(self) -> NDArray[Any]:
        """See `EpisodeCore.output_observations`."""
        if self._local_output is None:
            raise RuntimeError("no step was taken in this episode: call step() first")
        layer = (self.step_count - 1) % self.config.num_layers
        output = (self._local_output, layer, self._output_cost_coefs)
        numbers = self.transition_model.observe_output(*output).cpu().numpy()
        return to_observations(self.observation_spec, numbers)

    def state_dict(self) -> dict[str, Any]:
        """See `EpisodeCore.state_dict`."""
        return {
            "compat_key": self._compat_key(),
            "step_count": self.step_count,
            "levels": self._levels,
            "cost_coefs": self._cost_coefs,
            "content_types": [*map(list, self._content_types)],
            "episode": self.episode and dataclasses.asdict(self.episode),
            "state": self._state and state_to_dict(self._state),
            "outputs": tree_map(torch.clone, (self._local_output, self._output_cost_coefs)),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `EpisodeCore.load_state_dict`."""
        self._check_compat(state_dict)
        episode, state = map(state_dict.get, ("episode", "state"))
        self._episode, self._state, outputs = tree_map(
            lambda each: each.to(self.device, copy=True),
            (
                episode and Episode(**episode),
                state and state_from_dict(state),
                tuple(state_dict["outputs"]),
            ),
        )
        self._local_output, self._output_cost_coefs = outputs
        self._content_types = [*map(tuple, state_dict["content_types"])]
        self._load_draws(state_dict)
        self.step_count = state_dict["step_count"]
