"""N lanes of streams through one stack of live layers: what every face of the environment runs."""

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

from spangym.attention import ACTIONS
from spangym.envs.data.dataset_registry import open_source
from spangym.envs.data.sample_episode import read_episode
from spangym.envs.env_config import OWN, Parts, Settings
from spangym.envs.info import name_measures
from spangym.envs.model.build_model import make_stack
from spangym.envs.observations import ENCODINGS
from spangym.envs.rewards import REWARDS
from spangym.envs.state import Episode, Flattened, State, flatten, map_tensors
from spangym.envs.transition import Dynamics

_OF_STATES = ("layers", "chunks", "ctx", "dims", "refresh", "observe")
"""Settings that the shape of a state hangs on."""


@dataclass(frozen=True)
class Step:
    """One decision in every lane, on the host.

    Attributes:
        observations: What the lanes see next, one row each.
        rewards: Rewards, float32 of shape (lanes,).
        infos: What else there is to say, one new dict a lane.
        truncated: Whether the episode is over, in all lanes at once.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    infos: list[dict[str, Any]]
    truncated: bool


class Simulator:
    """Runs streams through a stack of live layers, all lanes in step.

    A stream is cut in chunks of ``ctx`` tokens. A chunk passes through the layers; at each, the
    lanes' actions set their spans, the layer runs, what it did is rewarded, and its output is the
    next layer's input. Keys and values of the global paths are carried from chunk to chunk.

    The stack's weights come from ``settings`` and never change, unless the layers are live modules
    of the user's; streams come from the generators handed to `reset`.

    Args:
        settings: What to run.
        lanes: How many streams.
        parts: Objects of the user's own in place of named ones.

    Raises:
        ValueError: There is no lane, or the parts do not go together.
    """

    def __init__(self, settings: Settings, lanes: int, parts: Parts = Parts()) -> None:  # noqa: B008
        if not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"lanes must be an integer, at least 1, got {lanes!r}")
        for name in ("source", "reward"):
            if getattr(settings, name) == OWN and getattr(parts, name) is None:
                raise ValueError(
                    f"{name} {OWN!r} stands for an object that is handed in, and none is"
                )
        self.settings = settings
        self.lanes = lanes
        self.source = parts.source or open_source(settings.source, settings.split)
        self.reward = parts.reward or REWARDS[settings.reward](settings.price)
        self.stack = make_stack(settings, parts.layers, self.source.channels)
        if self.reward.needs_task and not self.stack.classes:
            raise ValueError(
                "these layers were trained on no task: use another reward than 'task', or weights"
            )
        self.device = self.stack.device
        self.encoding = ENCODINGS[settings.encoding](
            settings.dims, settings.layers, settings.groups, settings.lags, settings.layer_index
        )
        self.dynamics = Dynamics(settings, self.stack, self.reward, self.encoding)
        self.action_space = (
            spaces.MultiDiscrete([ACTIONS, 2, 2]) if settings.refresh else spaces.Discrete(ACTIONS)
        )
        """Space of one lane's action."""
        self.milliseconds = 0.0
        """Wall time of the last step, all lanes together."""
        self.position = self.end = settings.chunks * settings.layers
        """Decisions taken of the episode, and decisions in an episode."""
        self._kinds: list[tuple[str, ...]] = []
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
        return self.position % self.settings.layers

    @property
    def kinds(self) -> list[str]:
        """What the chunk is that is decided on next, one a lane.

        Raises:
            RuntimeError: The episode is over, or none has begun.
        """
        self._check_running()
        return [kinds[self.position // self.settings.layers] for kinds in self._kinds]

    @torch.no_grad()
    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Begin an episode: a new stream in every lane.

        Args:
            generators: Source of each lane's stream.

        Returns:
            The lanes' first observations, one row each, and an info each.

        Raises:
            ValueError: A stream is not what its source was asked for.
        """
        settings = self.settings
        kinds, episode = read_episode(
            settings, generators, self.source, self.stack.classes, self.reward.needs_task
        )
        episode = map_tensors(lambda each: each.to(self.device), episode)
        self._state = self.dynamics.begin(episode)
        if self.position != self.end:
            # Of an episode that came to its end, the last decision can still be asked for.
            self._local_output = None
        self.position, self._kinds, self._episode = 0, kinds, episode
        numbers = self.dynamics.numbers(self._state, 0).cpu().numpy()
        infos: list[dict[str, Any]] = [{"source": kinds[0]} for kinds in self._kinds]
        return self.encoding.observations(numbers), infos

    @torch.no_grad()
    def step(self, actions: NDArray[np.integer[Any]]) -> Step:
        """Decide the span of the coming layer in every lane, and run it.

        Args:
            actions: Integers 0..9 of shape (lanes,); with ``refresh`` of shape (lanes, 3): the
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
        chunk, layer = divmod(self.position, self.settings.layers)
        decided = torch.from_numpy(actions.astype(np.int64)).to(self.device, non_blocking=True)
        passed = self.dynamics.decide(state, layer, decided)
        following = passed.state
        if layer + 1 == self.settings.layers:
            assert self._episode is not None
            following = self.dynamics.enter(self._episode, following, chunk + 1)
        numbers = self.dynamics.numbers(following, (layer + 1) % self.settings.layers)
        # The only copy to the host; float64 holds every count exactly.
        together = [numbers, passed.parts.double(), passed.measures]
        copied = torch.cat(together, dim=-1).cpu().numpy()
        if not np.isfinite(copied).all():
            raise ValueError(
                f"layer {layer} of chunk {chunk} led to numbers that are not finite: look at its "
                "weights, the reward and the source's frames"
            )
        self.position, self._state = self.position + 1, following
        self._local_output = passed.local_output
        self.milliseconds = (time.perf_counter() - started) * 1e3
        cuts = np.cumsum([numbers.shape[1], passed.parts.shape[1]])
        observed, reward_parts, measured = np.split(copied, cuts, axis=1)
        return Step(
            observations=self.encoding.observations(observed),
            rewards=reward_parts.sum(1).astype(np.float32),
            infos=self._infos(chunk, layer, reward_parts, measured),
            truncated=self.position == self.end,
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
            One row a lane.

        Raises:
            RuntimeError: Nothing was decided since the episode began.
        """
        if self._local_output is None:
            raise RuntimeError("nothing was decided in this episode: call step() first")
        features = self.encoding.features(self._local_output)
        layer = (self.position - 1) % self.settings.layers
        return self.encoding.observations(self.encoding.numbers(features, layer).cpu().numpy())

    def fork(self) -> Simulator:
        """A simulator that goes on from here by itself; both run the same layers."""
        other = object.__new__(type(self))
        # All else is never changed in place.
        other.__dict__.update(self.__dict__)
        return other

    def state_dict(self) -> dict[str, Any]:
        """All that running has changed, as tensors and what JSON can hold."""
        tensors = {
            **flatten(self._episode, "episode"),
            **flatten(self._state, "state"),
            **flatten(self._local_output, "local_output"),
        }
        return {
            "of": self._identity(),
            "position": self.position,
            "kinds": [*map(list, self._kinds)],
            "tensors": tensors,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was called, in a simulator of the same settings and lanes.

        Raises:
            ValueError: It is of other settings or lanes.
        """
        given, own = state_dict.get("of", {}), self._identity()
        for name, value in own.items():
            if given.get(name) != value:
                raise ValueError(
                    f"state is of another environment: its {name} is {given.get(name)}, "
                    f"this one's {value}"
                )
        episode = state = None
        flat = Flattened(state_dict["tensors"], self.device)
        if state_dict["tensors"]:
            episode, state = flat.episode("episode"), flat.state("state", self.settings.layers)
        self._kinds = [*map(tuple, state_dict["kinds"])]
        self.position, self._episode, self._state = state_dict["position"], episode, state
        self._local_output = flat.optional("local_output")

    def _identity(self) -> dict[str, Any]:
        """What environments must have in common to go on from each other's states."""
        settings = self.settings
        return {
            "lanes": self.lanes,
            **{name: getattr(settings, name) for name in _OF_STATES},
            "channels": self.source.channels,
            "task": self.reward.needs_task,
            "numbers": self.encoding.width,
        }

    def _infos(
        self,
        chunk: int,
        layer: int,
        reward_parts: NDArray[np.float64],
        measured: NDArray[np.float64],
    ) -> list[dict[str, Any]]:
        return [
            {
                "source": kinds[chunk],
                "chunk": chunk,
                "layer": layer,
                "reward_parts": dict(zip(self.reward.parts, parts, strict=True)),
                **name_measures(row, self.settings.ctx),
            }
            for kinds, parts, row in zip(
                self._kinds, reward_parts.tolist(), measured.tolist(), strict=True
            )
        ]

    def _check_running(self) -> None:
        if self.position == self.end or self._state is None:
            raise RuntimeError("no episode is running: call reset() first")

    def _check(self, actions: NDArray[Any]) -> None:
        space = self.action_space
        highest = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        integers = np.issubdtype(actions.dtype, np.integer)
        if (
            actions.shape != (self.lanes, *(space.shape or ()))
            or not integers
            or ((actions < 0) | (actions >= highest)).any()
        ):
            spans = f"an integer in 0..{ACTIONS - 1}"
            wanted = f"{spans}, 0 or 1, and 0 or 1," if self.settings.refresh else spans
            raise ValueError(
                f"action must be {wanted} for each of {self.lanes} lanes, got {actions.tolist()}"
            )
