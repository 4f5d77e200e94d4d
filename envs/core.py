"""N environments of streams through one stack of live layers: what every face of the environment runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import NUM_ACTIONS
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.sample_episode import sample_episode
from spangym.envs.env_config import CUSTOM, EnvComponents, EnvConfig
from spangym.envs.info import metrics_to_info
from spangym.envs.model.build_model import build_model
from spangym.envs.observations import ENCODINGS
from spangym.envs.rewards import REWARDS
from spangym.envs.state import Episode, State, TreeReader, tree_flatten, tree_map
from spangym.envs.transition import TransitionModel

_STATE_SHAPE_FIELDS = (
    "num_layers",
    "chunks_per_episode",
    "ctx",
    "dims",
    "control_kv_cache",
    "observation_time",
)
"""EnvConfig that the shape of a state hangs on."""


@dataclass(frozen=True)
class StepResult:
    """One decision in every environment, on the host.

    Attributes:
        observations: What the environments see next, one row each.
        rewards: Rewards, float32 of shape (num_envs,).
        infos: What else there is to say, one new dict an environment.
        truncated: Whether the episode is over, in all environments at once.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    infos: list[dict[str, Any]]
    truncated: bool


class SpanControlCore:
    """Runs streams through a stack of live layers, all environments in step.

    A stream is cut in chunks of ``ctx`` tokens. A chunk passes through the layers; at each, the
    environments' actions set their spans, the layer runs, what it did is rewarded, and its output is the
    next layer's input. Keys and values of the global paths are carried from chunk to chunk.

    The stack's weights come from ``settings`` and never change, unless the layers are live modules
    of the user's; streams come from the generators handed to `reset`.

    Args:
        config: What to run.
        num_envs: How many streams.
        components: Objects of the user's own in place of named ones.

    Raises:
        ValueError: There is no environment, or the components do not go together.
    """

    def __init__(
        self, config: EnvConfig, num_envs: int, components: EnvComponents = EnvComponents()
    ) -> None:  # noqa: B008
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer, at least 1, got {num_envs!r}")
        for name in ("dataset", "reward"):
            if getattr(config, name) == CUSTOM and getattr(components, name) is None:
                raise ValueError(
                    f"{name} {CUSTOM!r} stands for an object that is handed in, and none is"
                )
        self.config = config
        self.num_envs = num_envs
        self.dataset = components.dataset or make_dataset(config.dataset, config.split)
        self.reward = components.reward or REWARDS[config.reward](config.cost_coef)
        self.stack = build_model(config, components.layers, self.dataset.channels)
        if self.reward.needs_task and not self.stack.num_classes:
            raise ValueError(
                "these layers were trained on no task: use another reward than 'task', or weights"
            )
        self.device = self.stack.device
        self.encoding = ENCODINGS[config.encoding](
            config.dims,
            config.num_layers,
            config.pool_groups,
            config.autocorrelation,
            config.include_layer_index,
        )
        self.transition_model = TransitionModel(config, self.stack, self.reward, self.encoding)
        self.action_space = (
            spaces.MultiDiscrete([NUM_ACTIONS, 2, 2])
            if config.control_kv_cache
            else spaces.Discrete(NUM_ACTIONS)
        )
        """Space of one environment's action."""
        self.milliseconds = 0.0
        """Wall time of the last step, all environments together."""
        self.step_count = self.episode_length = config.chunks_per_episode * config.num_layers
        """Decisions taken of the episode, and decisions in an episode."""
        self._content_types: list[tuple[str, ...]] = []
        self._episode: Episode | None = None
        self._state: State | None = None
        self._local_output: Tensor | None = None

    @property
    def layers(self) -> list[Any]:
        """The live layers."""
        return [*self.stack.layers]

    @property
    def layer(self) -> int:
        """Index of the layer that is decided on next."""
        return self.step_count % self.config.num_layers

    @property
    def content_types(self) -> list[str]:
        """What the chunk is that is decided on next, one per environment.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        self._check_running()
        return [
            content_types[self.step_count // self.config.num_layers]
            for content_types in self._content_types
        ]

    @torch.no_grad()
    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Begin an episode: a new stream in every environment.

        Args:
            generators: Source of each environment's stream.

        Returns:
            The environments' first observations, one row each, and an info each.

        Raises:
            ValueError: A stream is not what its dataset was asked for.
        """
        config = self.config
        content_types, episode = sample_episode(
            config, generators, self.dataset, self.stack.num_classes, self.reward.needs_task
        )
        episode = tree_map(lambda each: each.to(self.device), episode)
        self._state = self.transition_model.initial_state(episode)
        if self.step_count != self.episode_length:
            # Of an episode that came to its end, the last decision can still be asked for.
            self._local_output = None
        self.step_count, self._content_types, self._episode = 0, content_types, episode
        numbers = self.transition_model.observe(self._state, 0).cpu().numpy()
        infos: list[dict[str, Any]] = [
            {"content_type": content_types[0]} for content_types in self._content_types
        ]
        return self.encoding.to_observations(numbers), infos

    @torch.no_grad()
    def step(self, actions: NDArray[np.integer[Any]]) -> StepResult:
        """Decide the span of the coming layer in every environment, and run it.

        Args:
            actions: Integers 0..9 of shape (num_envs,); with ``refresh`` of shape (num_envs, 3): the
                span, and 0 or 1 for keys and for values.

        Returns:
            What came of it.

        Raises:
            ValueError: The actions are not that, or the layers put out NaN or infinite numbers.
            RuntimeError: The episode is over, or none has begun.
        """
        state = self.state
        self._check(actions)
        started = time.perf_counter()
        chunk, layer = divmod(self.step_count, self.config.num_layers)
        decided = torch.from_numpy(actions.astype(np.int64)).to(self.device, non_blocking=True)
        transition = self.transition_model.step(state, layer, decided)
        next_state = transition.state
        if layer + 1 == self.config.num_layers:
            assert self._episode is not None
            next_state = self.transition_model.start_chunk(self._episode, next_state, chunk + 1)
        numbers = self.transition_model.observe(next_state, (layer + 1) % self.config.num_layers)
        # The only copy to the host; float64 holds every count exactly.
        packed = [numbers, transition.reward_components.double(), transition.metrics]
        copied = torch.cat(packed, dim=-1).cpu().numpy()
        if not np.isfinite(copied).all():
            raise ValueError(
                f"layer {layer} of chunk {chunk} led to numbers that are not finite: look at its "
                "weights, the reward and the dataset's frames"
            )
        self.step_count, self._state = self.step_count + 1, next_state
        self._local_output = transition.local_output
        self.milliseconds = (time.perf_counter() - started) * 1e3
        offsets = np.cumsum([numbers.shape[1], transition.reward_components.shape[1]])
        observed, reward_components, metrics = np.split(copied, offsets, axis=1)
        return StepResult(
            observations=self.encoding.to_observations(observed),
            rewards=reward_components.sum(1).astype(np.float32),
            infos=self._infos(chunk, layer, reward_components, metrics),
            truncated=self.step_count == self.episode_length,
        )

    @property
    def state(self) -> State:
        """What the next decision begins with.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        self._check_running()
        assert self._state is not None
        return self._state

    @torch.no_grad()
    def output_observations(self) -> NDArray[Any]:
        """The local output of the last decision, encoded as its local input is.

        It is what the original bootstraps on, in place of the next observation. Where an episode
        has come to its end, its last decision is meant until the next one falls.

        Returns:
            One row per environment.

        Raises:
            RuntimeError: Nothing was decided since the episode began.
        """
        if self._local_output is None:
            raise RuntimeError("nothing was decided in this episode: call step() first")
        features = self.encoding.extract(self._local_output)
        layer = (self.step_count - 1) % self.config.num_layers
        return self.encoding.to_observations(self.encoding.encode(features, layer).cpu().numpy())

    def fork(self) -> SpanControlCore:
        """A simulator that goes on from here by itself; both run the same layers."""
        other = object.__new__(type(self))
        # All else is never changed in place.
        other.__dict__.update(self.__dict__)
        return other

    def state_dict(self) -> dict[str, Any]:
        """All that running has changed, as tensors and what JSON can hold."""
        tensors = {
            **tree_flatten(self._episode, "episode"),
            **tree_flatten(self._state, "state"),
            **tree_flatten(self._local_output, "local_output"),
        }
        return {
            "of": self._compat_key(),
            "step_count": self.step_count,
            "content_types": [*map(list, self._content_types)],
            "tensors": tensors,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was called, in a simulator of the same settings and environments.

        Raises:
            ValueError: It is of other settings or environments.
        """
        given, own = state_dict.get("of", {}), self._compat_key()
        for name, value in own.items():
            if given.get(name) != value:
                raise ValueError(
                    f"state is of another environment: its {name} is {given.get(name)}, "
                    f"this one's {value}"
                )
        episode = state = None
        flat = TreeReader(state_dict["tensors"], self.device)
        if state_dict["tensors"]:
            episode, state = flat.episode("episode"), flat.state("state", self.config.num_layers)
        self._content_types = [*map(tuple, state_dict["content_types"])]
        self.step_count, self._episode, self._state = state_dict["step_count"], episode, state
        self._local_output = flat.optional("local_output")

    def _compat_key(self) -> dict[str, Any]:
        """What environments must have in common to go on from each other's states."""
        config = self.config
        return {
            "num_envs": self.num_envs,
            **{name: getattr(config, name) for name in _STATE_SHAPE_FIELDS},
            "channels": self.dataset.channels,
            "task": self.reward.needs_task,
            "num_features": self.encoding.num_features,
        }

    def _infos(
        self,
        chunk: int,
        layer: int,
        reward_components: NDArray[np.float64],
        metrics: NDArray[np.float64],
    ) -> list[dict[str, Any]]:
        return [
            {
                "content_type": content_types[chunk],
                "chunk": chunk,
                "layer": layer,
                "reward_components": dict(zip(self.reward.components, values, strict=True)),
                **metrics_to_info(row, self.config.ctx),
            }
            for content_types, values, row in zip(
                self._content_types, reward_components.tolist(), metrics.tolist(), strict=True
            )
        ]

    def _check_running(self) -> None:
        if self.step_count == self.episode_length or self._state is None:
            raise RuntimeError("no episode is running: call reset() first")

    def _check(self, actions: NDArray[Any]) -> None:
        space = self.action_space
        highest = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        integers = np.issubdtype(actions.dtype, np.integer)
        if (
            actions.shape != (self.num_envs, *(space.shape or ()))
            or not integers
            or ((actions < 0) | (actions >= highest)).any()
        ):
            spans = f"an integer in 0..{NUM_ACTIONS - 1}"
            wanted = f"{spans}, 0 or 1, and 0 or 1," if self.config.control_kv_cache else spans
            raise ValueError(
                f"action must be {wanted} for each of {self.num_envs} environments, got {actions.tolist()}"
            )
