"""N lanes of streams through one stack of live layers: what every face of the environment runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from ..attention import ACTIONS, LayerCache
from .encodings import ENCODINGS
from .make_stack import make_stack
from .open_source import open_source
from .rewards import REWARDS, Decided
from .settings import OWN, Parts, Settings, full_keys
from .sources import Stream, check_stream, check_targets, next_tokens
from .state import Episode, Flattened, State, flatten

_MEASURES = ("scale", "window", "span", "visited_keys", "focus_steps")
"""Fields of an `Outcome` that a step reports for each lane."""
_REFRESH_MEASURES = ("refreshed_keys", "refreshed_values", "key_staleness", "value_staleness")

_OF_STATES = ("layers", "chunks", "ctx", "dims", "refresh", "observe")
"""Settings that the shape of a state hangs on."""

FULL_SPAN = ACTIONS - 1


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


class Passed(NamedTuple):
    """A decision in every lane and what came of it, on the device.

    Attributes:
        state: What the next decision begins with.
        parts: Parts of the reward, shape (lanes, parts).
        measures: What else is reported, float64 of shape (lanes, measures).
    """

    state: State
    parts: Tensor
    measures: Tensor


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

    @property
    def layers(self) -> list[Any]:
        """The live layers."""
        return [*self.stack.layers]

    @property
    def layer(self) -> int:
        """Index of the layer that is decided on next."""
        return self.position % self.settings.layers

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
        kinds, episode = self._read(generators)
        nothing = (None,) * settings.layers
        staleness = None
        if settings.refresh:
            staleness = torch.zeros(self.lanes, settings.layers, 2, dtype=torch.int64).to(
                self.device
            )
        begun = State(episode.content, nothing, nothing, staleness, None, None, nothing)
        self._state = self._enter(episode, begun, 0)
        self.position, self._kinds, self._episode = 0, kinds, episode
        numbers = self._numbers(self._state, 0).cpu().numpy()
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
        passed = self.decide(state, layer, decided)
        following = passed.state
        if layer + 1 == self.settings.layers:
            assert self._episode is not None
            following = self._enter(self._episode, following, chunk + 1)
        numbers = self._numbers(following, (layer + 1) % self.settings.layers)
        # The only copy to the host; float64 holds every count exactly.
        together = [numbers, passed.parts.double(), passed.measures]
        copied = torch.cat(together, dim=-1).cpu().numpy()
        if not np.isfinite(copied).all():
            raise ValueError(
                f"layer {layer} of chunk {chunk} led to numbers that are not finite: look at its "
                "weights, the reward and the source's frames"
            )
        self.position, self._state = self.position + 1, following
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
        if self.position == self.end or self._state is None:
            raise RuntimeError("no episode is running: call reset() first")
        return self._state

    def decide(self, state: State, index: int, actions: Tensor) -> Passed:
        """Run a layer under a decision: a pure function of what it is given.

        Args:
            state: What the decision begins with, in any number of lanes.
            index: Of the layer.
            actions: As in `step`, on the device.

        Returns:
            The state after the layer, the parts of the reward and what else is measured.
        """
        layers = self.settings.layers
        refresh = None
        if self.settings.refresh:
            actions, refresh = actions[:, 0], actions[:, 1:] > 0
        layer = self.stack.layer(index)
        outcome = layer.outcome(
            state.hidden,
            actions,
            refresh=refresh,
            cache=state.caches[index],
            return_stats=self.reward.needs_statistics,
        )
        seen = state.seen
        if self.settings.observe == "previous":
            seen = _replaced(seen, index, self.encoding.features(outcome.local_input))
        caches = _replaced(state.caches, index, outcome.cache)
        hidden = self.stack.follow(index, state.hidden, outcome)
        excess = None
        if index + 1 == layers and state.targets is not None:
            assert state.full_bits is not None
            excess = self.stack.bits(hidden, state.targets) - state.full_bits
        ctx = self.settings.ctx
        pairs = full_keys(ctx, layer.options.causal)
        parts = self.reward(Decided(outcome, index, layers, pairs, excess))
        if not isinstance(parts, Tensor):
            raise ValueError(
                f"reward {type(self.reward).__name__} must give a tensor, it gave a "
                f"{type(parts).__name__}"
            )
        if parts.shape != (len(state.hidden), len(self.reward.parts)):
            raise ValueError(
                f"reward {type(self.reward).__name__} gave shape {tuple(parts.shape)}; it must be "
                f"(lanes, parts), {(len(state.hidden), len(self.reward.parts))}"
            )
        norm = outcome.output.flatten(1).norm(dim=1)
        measures = [
            each.double() for each in (*(getattr(outcome, name) for name in _MEASURES), norm)
        ]
        staleness = state.staleness
        if staleness is not None:
            assert outcome.cache.key_value is not None
            kept = outcome.cache.key_value
            anew = torch.stack([kept.refreshed_keys, kept.refreshed_values], dim=-1)
            staleness = staleness.clone()
            staleness[:, index] = torch.where(anew, 0, staleness[:, index] + 1)
            measures += [*anew.double().unbind(-1), *staleness[:, index].double().unbind(-1)]
        after = dataclasses.replace(
            state, hidden=hidden, caches=caches, seen=seen, staleness=staleness
        )
        return Passed(after, parts, torch.stack(measures, dim=-1))

    def fork(self) -> Simulator:
        """A simulator that goes on from here by itself; both run the same layers."""
        other = object.__new__(type(self))
        # All else is never changed in place.
        other.__dict__.update(self.__dict__)
        return other

    def state_dict(self) -> dict[str, Any]:
        """All that running has changed, as tensors and what JSON can hold."""
        tensors = {**flatten(self._episode, "episode"), **flatten(self._state, "state")}
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
        if state_dict["tensors"]:
            flat = Flattened(state_dict["tensors"], self.device)
            episode, state = flat.episode("episode"), flat.state("state", self.settings.layers)
        self._kinds = [*map(tuple, state_dict["kinds"])]
        self.position, self._episode, self._state = state_dict["position"], episode, state

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

    def _read(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[list[tuple[str, ...]], Episode]:
        """Draw the lanes' streams, and look whether they are what they are to be."""
        settings = self.settings
        # One chunk more than is decided on: the episode is truncated, and its last observation is
        # what the next decision would have seen.
        chunks = settings.chunks + 1
        streams = [self.source.stream(each, chunks, settings.ctx) for each in generators]
        channels, classes = self.source.channels, self.stack.classes
        for stream in streams:
            if not isinstance(stream, Stream):
                raise ValueError(
                    f"source {type(self.source).__name__} must give a Stream, it gave a "
                    f"{type(stream).__name__}"
                )
            try:
                check_stream(stream, chunks, settings.ctx, channels)
                if self.reward.needs_task:
                    check_targets(stream, classes)
            except ValueError as error:
                raise ValueError(f"source {type(self.source).__name__}: {error}") from error
        stacked = np.stack([stream.content for stream in streams])
        content = torch.from_numpy(stacked.astype(np.float32 if channels else np.int64))
        targets = None
        if self.reward.needs_task:
            given = [stream.targets for stream in streams if stream.targets is not None]
            targets = torch.from_numpy(np.stack(given)) if given else next_tokens(content)
            targets = targets.to(self.device)
        return [stream.kinds for stream in streams], Episode(content.to(self.device), targets)

    def _enter(self, episode: Episode, state: State, chunk: int) -> State:
        """The state as a chunk begins."""
        hidden = self.stack.embed(episode.content[:, chunk])
        state = dataclasses.replace(state, hidden=hidden)
        if episode.targets is None:
            return state
        caches: list[LayerCache | None] = []
        for index, cache in enumerate(state.full_caches):
            outcome = self.stack.layer(index).outcome(hidden, FULL_SPAN, cache=cache)
            hidden = self.stack.follow(index, hidden, outcome)
            caches.append(outcome.cache)
        targets = episode.targets[:, chunk]
        bits = self.stack.bits(hidden, targets)
        return dataclasses.replace(
            state, targets=targets, full_bits=bits, full_caches=tuple(caches)
        )

    def _numbers(self, state: State, index: int) -> Tensor:
        """What is observed before the coming layer, as the encoding's numbers."""
        features = state.seen[index] if self.settings.observe == "previous" else None
        if features is None:
            hidden = state.hidden
            if self.settings.observe == "previous":
                # Where there is no chunk before, the first token, which every token may know of.
                hidden = hidden[:, :1]
            features = self.encoding.features(self.stack.layer(index).ln_a(hidden))
        return self.encoding.numbers(features, index)

    def _infos(
        self,
        chunk: int,
        layer: int,
        reward_parts: NDArray[np.float64],
        measured: NDArray[np.float64],
    ) -> list[dict[str, Any]]:
        infos = []
        for kinds, parts, row in zip(
            self._kinds, reward_parts.tolist(), measured.tolist(), strict=True
        ):
            scale, window, span, visited_keys, focus_steps, output_norm, *refresh = row
            info: dict[str, Any] = {
                "source": kinds[chunk],
                "chunk": chunk,
                "layer": layer,
                "reward_parts": dict(zip(self.reward.parts, parts, strict=True)),
                "scale": scale,
                "window": int(window),
                "span": int(span),
                "visited_keys": int(visited_keys),
                "focus_steps": int(focus_steps),
                "output_norm": output_norm,
            }
            if refresh:
                named = dict(zip(_REFRESH_MEASURES, map(int, refresh), strict=True))
                anew = named["refreshed_keys"] + named["refreshed_values"]
                info |= {**named, "refresh_cost": anew * self.settings.ctx}
            infos.append(info)
        return infos

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


def _replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])
