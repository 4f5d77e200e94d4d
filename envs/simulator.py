"""N lanes of streams through one stack of live layers: what every face of the environment runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention import ACTIONS, IntegratedAttention, LayerCache
from .encodings import ENCODINGS
from .rewards import REWARDS
from .settings import Settings
from .sources import SOURCES

BYTES = 256

_ACTIONS = frozenset(range(ACTIONS))

_MEASURES = ("scale", "window", "span", "visited_keys", "focus_steps")
"""Fields of an `Outcome` that a step reports for each lane."""


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
    lanes' actions set their spans, the layer runs, its local output is rewarded, and its output is
    the next layer's input. Keys and values of the global paths are carried from chunk to chunk.

    The layers' weights come from ``settings.weights_seed`` and never change; streams come from the
    generators handed to `reset`.

    Args:
        settings: What to run.
        lanes: How many streams.
    """

    def __init__(self, settings: Settings, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {lanes}")
        self.settings = settings
        self.lanes = lanes
        self.device = torch.device(settings.device)
        self.source = SOURCES[settings.source](settings.split)
        self.reward = REWARDS[settings.reward](settings.price)
        self.encoding = ENCODINGS[settings.encoding](
            settings.dims, settings.layers, settings.groups, settings.layer_index
        )
        # Drawn on the CPU, so that every device runs the same weights.
        generator = torch.Generator().manual_seed(settings.weights_seed)
        self.embedding = torch.randn(BYTES, settings.dims, generator=generator).to(self.device)
        self.layers = [
            IntegratedAttention(
                settings.ctx,
                settings.dims,
                settings.heads,
                settings.max_dist,
                settings.win_size,
                settings.max_span,
                settings.temp_scale,
                sharpen=settings.sharpen,
                generator=generator,
            )
            .to(self.device)
            .eval()
            for _ in range(settings.layers)
        ]
        self.milliseconds = 0.0
        """Wall time of the last step, all lanes together."""
        self._position = self._end = settings.chunks * settings.layers

    @torch.no_grad()
    def reset(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Begin an episode: a new stream in every lane.

        Args:
            generators: Source of each lane's stream.

        Returns:
            The lanes' first observations, one row each, and an info each.
        """
        settings = self.settings
        # One chunk more than is decided on: the episode is truncated, and its last observation is
        # what the next decision would have seen.
        tokens = (settings.chunks + 1) * settings.ctx
        streams = [self.source.stream(generator, tokens) for generator in generators]
        self._kinds = [stream.kind for stream in streams]
        stacked = np.stack([stream.tokens for stream in streams]).astype(np.int64)
        self._tokens = torch.from_numpy(stacked).to(self.device)
        self._caches: list[LayerCache | None] = [None for _ in self.layers]
        self._position = 0
        self._hidden = self._embed(0)
        numbers = self._numbers().cpu().numpy()
        infos: list[dict[str, Any]] = [{"source": kind} for kind in self._kinds]
        return self.encoding.observations(numbers), infos

    @torch.no_grad()
    def step(self, actions: NDArray[np.integer[Any]]) -> Step:
        """Decide the span of the coming layer in every lane, and run it.

        Args:
            actions: Integers 0..9 of shape (lanes,).

        Returns:
            What came of it.

        Raises:
            ValueError: The actions are not that.
            RuntimeError: The episode is over, or none has begun.
        """
        if self._position == self._end:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._check(actions)
        started = time.perf_counter()
        chunk, layer = divmod(self._position, len(self.layers))
        decided = torch.as_tensor(actions, device=self.device)
        outcome = self.layers[layer].outcome(self._hidden, decided, cache=self._caches[layer])
        self._caches[layer] = outcome.cache
        parts = self.reward(outcome)
        self._position += 1
        through_the_stack = layer + 1 == len(self.layers)
        self._hidden = self._embed(chunk + 1) if through_the_stack else outcome.output
        measures = torch.stack([getattr(outcome, name).double() for name in _MEASURES], dim=-1)
        # The only copy to the host; float64 holds every count exactly.
        together = torch.cat([self._numbers(), parts.double(), measures], dim=-1).cpu().numpy()
        self.milliseconds = (time.perf_counter() - started) * 1e3
        cuts = np.cumsum([together.shape[1] - parts.shape[1] - len(_MEASURES), parts.shape[1]])
        numbers, reward_parts, measured = np.split(together, cuts, axis=1)
        return Step(
            observations=self.encoding.observations(numbers),
            rewards=reward_parts.sum(1).astype(np.float32),
            infos=self._infos(chunk, layer, reward_parts, measured),
            truncated=self._position == self._end,
        )

    def _infos(
        self,
        chunk: int,
        layer: int,
        reward_parts: NDArray[np.float64],
        measured: NDArray[np.float64],
    ) -> list[dict[str, Any]]:
        rows = zip(self._kinds, reward_parts.tolist(), measured.tolist(), strict=True)
        return [
            {
                "source": kind,
                "chunk": chunk,
                "layer": layer,
                "reward_parts": dict(zip(self.reward.parts, parts, strict=True)),
                "scale": scale,
                "window": int(window),
                "span": int(span),
                "visited_keys": int(visited_keys),
                "focus_steps": int(focus_steps),
            }
            for kind, parts, (scale, window, span, visited_keys, focus_steps) in rows
        ]

    def _check(self, actions: NDArray[Any]) -> None:
        integers = np.issubdtype(actions.dtype, np.integer)
        if actions.shape != (self.lanes,) or not integers or not set(actions) <= _ACTIONS:
            raise ValueError(
                f"action must be an integer in 0..{ACTIONS - 1} for each of {self.lanes} lanes, "
                f"got {actions.tolist()}"
            )

    def _embed(self, chunk: int) -> Tensor:
        ctx = self.settings.ctx
        return self.embedding[self._tokens[:, chunk * ctx : (chunk + 1) * ctx]]

    def _numbers(self) -> Tensor:
        """The coming layer's input, as the encoding's numbers."""
        layer = self._position % len(self.layers)
        return self.encoding.numbers(self.layers[layer].features(self._hidden), layer)
