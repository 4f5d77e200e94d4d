"""How a decision leads from one state to the next: pure functions, so that it can also be tried."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spangym.attention import NUM_ACTIONS, LayerCache, LayerOutput
from spangym.envs.env_config import EnvConfig, full_qk_pairs
from spangym.envs.info import collect_metrics
from spangym.envs.model.stack import LayerStack
from spangym.envs.observations import Encoding
from spangym.envs.rewards import Reward, RewardContext
from spangym.envs.state import Episode, State

MAX_SPAN_ACTION = NUM_ACTIONS - 1


class Transition(NamedTuple):
    """A decision in every environment and what came of it, on the device.

    Attributes:
        state: What the next decision begins with.
        reward_components: Components of the reward, shape (num_envs, components).
        metrics: What else is reported, float64 of shape (num_envs, metrics).
        local_output: Output of the layer's local path, shape (num_envs, tokens, dims).
    """

    state: State
    reward_components: Tensor
    metrics: Tensor
    local_output: Tensor


class TransitionModel:
    """Runs states through a stack, in any number of environments; nothing here ever changes.

    Args:
        config: What to run.
        stack: The live layers and what stands around them.
        reward: What judges decisions.
        encoding: How they are observed.
    """

    def __init__(
        self, config: EnvConfig, stack: LayerStack, reward: Reward, encoding: Encoding
    ) -> None:
        self.config = config
        self.stack = stack
        self.reward = reward
        self.encoding = encoding

    def initial_state(self, episode: Episode) -> State:
        """The state as an episode begins."""
        layers = self.config.num_layers
        nothing = (None,) * layers
        staleness = None
        if self.config.control_kv_cache:
            size = (len(episode.content), layers, 2)
            staleness = torch.zeros(size, dtype=torch.int64, device=episode.content.device)
        state = State(episode.content, nothing, nothing, staleness, None, None, nothing)
        return self.start_chunk(episode, state, 0)

    def start_chunk(self, episode: Episode, state: State, chunk: int) -> State:
        """The state as a chunk begins."""
        hidden = self.stack.embed(episode.content[:, chunk])
        state = dataclasses.replace(state, hidden=hidden)
        if episode.targets is None:
            return state
        caches: list[LayerCache | None] = []
        actions = torch.full((len(hidden),), MAX_SPAN_ACTION, device=hidden.device)
        for index, cache in enumerate(state.full_caches):
            outcome = self.stack.run_layer(index, hidden, actions, cache=cache)
            hidden = self.stack.connect(index, hidden, outcome.output)
            caches.append(outcome.cache)
        targets = episode.targets[:, chunk]
        bits = self.stack.loss_bits(hidden, targets)
        return dataclasses.replace(
            state, targets=targets, full_span_loss=bits, full_caches=tuple(caches)
        )

    def observe(self, state: State, index: int) -> Tensor:
        """What is observed before the coming layer, as the encoding's numbers."""
        features = (
            state.prev_features[index] if self.config.observation_time == "previous" else None
        )
        if features is None:
            hidden = state.hidden
            if self.config.observation_time == "previous":
                # Where there is no chunk before, the first token, which every token may know of.
                hidden = hidden[:, :1]
            features = self.encoding.extract(self.stack.layer(index).ln_a(hidden))
        return self.encoding.encode(features, index)

    def run_layer(
        self, state: State, index: int, actions: Tensor, *, return_stats: bool = False
    ) -> LayerOutput:
        """Run a layer under a decision.

        Args:
            state: What the decision begins with.
            index: Of the layer.
            actions: Integers 0..9 of shape (num_envs,); with ``refresh`` of shape (num_envs, 3). On the
                device.
            return_stats: Whether to give statistics of the local path's attention weights.
        """
        recompute_kv = None
        if self.config.control_kv_cache:
            actions, recompute_kv = actions[:, 0], actions[:, 1:] > 0
        return self.stack.run_layer(
            index,
            state.hidden,
            actions,
            recompute_kv=recompute_kv,
            cache=state.caches[index],
            return_stats=return_stats,
        )

    def step(self, state: State, index: int, actions: Tensor) -> Transition:
        """Run a layer under a decision, and judge and measure what it did.

        Args:
            state: What the decision begins with.
            index: Of the layer.
            actions: As in `run_layer`.

        Raises:
            ValueError: The reward is not what a reward has to give.
        """
        outcome = self.run_layer(state, index, actions, return_stats=self.reward.needs_statistics)
        prev_features = state.prev_features
        if self.config.observation_time == "previous":
            prev_features = _replaced(
                prev_features, index, self.encoding.extract(outcome.local_input)
            )
        hidden = self.stack.connect(index, state.hidden, outcome.output)
        components = self._reward_components(
            index, outcome, self._excess_loss(state, index, hidden)
        )
        metrics, staleness = collect_metrics(outcome, index, state.staleness)
        next_state = dataclasses.replace(
            state,
            hidden=hidden,
            caches=_replaced(state.caches, index, outcome.cache),
            prev_features=prev_features,
            staleness=staleness,
        )
        return Transition(next_state, components, metrics, outcome.local_output)

    def _excess_loss(self, state: State, index: int, hidden: Tensor) -> Tensor | None:
        """What `RewardContext` calls ``excess_loss``, from what goes on behind a layer."""
        if index + 1 < self.config.num_layers or state.targets is None:
            return None
        assert state.full_span_loss is not None
        return self.stack.loss_bits(hidden, state.targets) - state.full_span_loss

    def _reward_components(self, index: int, outcome: LayerOutput, excess: Tensor | None) -> Tensor:
        """Components of the reward, shape (num_envs, components)."""
        config = self.config
        pairs = full_qk_pairs(config.ctx, self.stack.layer(index).config.causal)
        components = self.reward(RewardContext(outcome, index, config.num_layers, pairs, excess))
        name, wanted = (
            type(self.reward).__name__,
            (len(outcome.output), len(self.reward.components)),
        )
        if not isinstance(components, Tensor):
            raise ValueError(
                f"reward {name} must give a tensor, it gave a {type(components).__name__}"
            )
        if components.shape != wanted:
            raise ValueError(
                f"reward {name} gave shape {tuple(components.shape)}; it must be (num_envs, components), "
                f"{wanted}"
            )
        return components


def _replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])
