"""How a decision leads from one state to the next: pure functions, so that it can also be tried."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spangym.attention import ACTIONS, LayerCache, Outcome
from spangym.envs.env_config import Settings, full_keys
from spangym.envs.info import measure
from spangym.envs.model.stack import Stack
from spangym.envs.observations import Encoding
from spangym.envs.rewards import Decided, Reward
from spangym.envs.state import Episode, State

FULL_SPAN = ACTIONS - 1


class Passed(NamedTuple):
    """A decision in every lane and what came of it, on the device.

    Attributes:
        state: What the next decision begins with.
        parts: Parts of the reward, shape (lanes, parts).
        measures: What else is reported, float64 of shape (lanes, measures).
        local_output: Output of the layer's local path, shape (lanes, tokens, dims).
    """

    state: State
    parts: Tensor
    measures: Tensor
    local_output: Tensor


class Dynamics:
    """Runs states through a stack, in any number of lanes; nothing here ever changes.

    Args:
        settings: What to run.
        stack: The live layers and what stands around them.
        reward: What judges decisions.
        encoding: How they are observed.
    """

    def __init__(
        self, settings: Settings, stack: Stack, reward: Reward, encoding: Encoding
    ) -> None:
        self.settings = settings
        self.stack = stack
        self.reward = reward
        self.encoding = encoding

    def begin(self, episode: Episode) -> State:
        """The state as an episode begins."""
        layers = self.settings.layers
        nothing = (None,) * layers
        staleness = None
        if self.settings.refresh:
            size = (len(episode.content), layers, 2)
            staleness = torch.zeros(size, dtype=torch.int64, device=episode.content.device)
        begun = State(episode.content, nothing, nothing, staleness, None, None, nothing)
        return self.enter(episode, begun, 0)

    def enter(self, episode: Episode, state: State, chunk: int) -> State:
        """The state as a chunk begins."""
        hidden = self.stack.embed(episode.content[:, chunk])
        state = dataclasses.replace(state, hidden=hidden)
        if episode.targets is None:
            return state
        caches: list[LayerCache | None] = []
        actions = torch.full((len(hidden),), FULL_SPAN, device=hidden.device)
        for index, cache in enumerate(state.full_caches):
            outcome = self.stack.run(index, hidden, actions, cache=cache)
            hidden = self.stack.follow(index, hidden, outcome)
            caches.append(outcome.cache)
        targets = episode.targets[:, chunk]
        bits = self.stack.bits(hidden, targets)
        return dataclasses.replace(
            state, targets=targets, full_bits=bits, full_caches=tuple(caches)
        )

    def numbers(self, state: State, index: int) -> Tensor:
        """What is observed before the coming layer, as the encoding's numbers."""
        features = state.seen[index] if self.settings.observe == "previous" else None
        if features is None:
            hidden = state.hidden
            if self.settings.observe == "previous":
                # Where there is no chunk before, the first token, which every token may know of.
                hidden = hidden[:, :1]
            features = self.encoding.features(self.stack.layer(index).ln_a(hidden))
        return self.encoding.numbers(features, index)

    def run(
        self, state: State, index: int, actions: Tensor, *, return_stats: bool = False
    ) -> Outcome:
        """Run a layer under a decision.

        Args:
            state: What the decision begins with.
            index: Of the layer.
            actions: Integers 0..9 of shape (lanes,); with ``refresh`` of shape (lanes, 3). On the
                device.
            return_stats: Whether to give statistics of the local path's attention weights.
        """
        refresh = None
        if self.settings.refresh:
            actions, refresh = actions[:, 0], actions[:, 1:] > 0
        return self.stack.run(
            index,
            state.hidden,
            actions,
            refresh=refresh,
            cache=state.caches[index],
            return_stats=return_stats,
        )

    def decide(self, state: State, index: int, actions: Tensor) -> Passed:
        """Run a layer under a decision, and judge and measure what it did.

        Args:
            state: What the decision begins with.
            index: Of the layer.
            actions: As in `run`.

        Raises:
            ValueError: The reward is not what a reward has to give.
        """
        outcome = self.run(state, index, actions, return_stats=self.reward.needs_statistics)
        seen = state.seen
        if self.settings.observe == "previous":
            seen = _replaced(seen, index, self.encoding.features(outcome.local_input))
        hidden = self.stack.follow(index, state.hidden, outcome)
        parts = self._judge(index, outcome, self._excess(state, index, hidden))
        measures, staleness = measure(outcome, index, state.staleness)
        after = dataclasses.replace(
            state,
            hidden=hidden,
            caches=_replaced(state.caches, index, outcome.cache),
            seen=seen,
            staleness=staleness,
        )
        return Passed(after, parts, measures, outcome.local_output)

    def _excess(self, state: State, index: int, hidden: Tensor) -> Tensor | None:
        """What `Decided` calls ``excess_bits``, from what goes on behind a layer."""
        if index + 1 < self.settings.layers or state.targets is None:
            return None
        assert state.full_bits is not None
        return self.stack.bits(hidden, state.targets) - state.full_bits

    def _judge(self, index: int, outcome: Outcome, excess: Tensor | None) -> Tensor:
        """Parts of the reward, shape (lanes, parts)."""
        settings = self.settings
        pairs = full_keys(settings.ctx, self.stack.layer(index).options.causal)
        parts = self.reward(Decided(outcome, index, settings.layers, pairs, excess))
        name, wanted = type(self.reward).__name__, (len(outcome.output), len(self.reward.parts))
        if not isinstance(parts, Tensor):
            raise ValueError(f"reward {name} must give a tensor, it gave a {type(parts).__name__}")
        if parts.shape != wanted:
            raise ValueError(
                f"reward {name} gave shape {tuple(parts.shape)}; it must be (lanes, parts), "
                f"{wanted}"
            )
        return parts


def _replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])
