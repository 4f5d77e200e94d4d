"""Policies that set a model's spans: the layers themselves, random, fixed, or an agent."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.agents import Agent, SB3Agent
from spangym.attention import NUM_ACTIONS, IntegratedAttention, LayerOutput, ObservationSpec
from spangym.attention.controllers.protocol import ObservationTime
from spangym.envs.observations import to_observations


class SpanPolicy:
    """Sets the span of each batch element, layer by layer; this one leaves it to the layers."""

    def begin(self) -> None:
        """Start new streams."""

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor | None:
        """Return the actions for a layer with input of shape (batch, tokens, dims).

        They are integers 0..9 of shape (batch,); None leaves the spans to the layer.
        """
        del index, layer, hidden

    def observe(self, index: int, layer_output: LayerOutput) -> None:
        """Record the output of a layer."""


class RandomSpans(SpanPolicy):
    """Draws each action with equal probability, from a generator on the CPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """Draw the actions."""
        del index, layer
        drawn = torch.randint(NUM_ACTIONS, (len(hidden),), generator=self.generator)
        return drawn.to(hidden.device)


class FixedSpans(SpanPolicy):
    """One action, 0..9, for all layers and batch elements."""

    def __init__(self, action: int) -> None:
        self.action = action

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """Return the action for each batch element."""
        del index, layer
        return torch.full((len(hidden),), self.action, device=hidden.device)


class AgentSpans(SpanPolicy):
    """An agent that does not learn, with the observations of its environment.

    With ``previous`` it observes the previous chunk, or the first token of a stream, in place of
    the current chunk.
    """

    def __init__(self, agent: Agent, observation_spec: ObservationSpec, previous: bool) -> None:
        self.agent = agent
        self.observation_spec = observation_spec
        self.previous = previous
        self._prev_features: dict[int, Tensor] = {}

    def begin(self) -> None:
        """Start new streams; a recurrent agent forgets the previous ones."""
        self._prev_features = {}
        if isinstance(self.agent, SB3Agent):
            self.agent.on_episode_start(None)

    @torch.no_grad()
    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """Return the agent's actions."""
        assert isinstance(layer, IntegratedAttention)
        features = self._prev_features.get(index)
        if features is None:
            tokens = hidden[:, :1] if self.previous else hidden
            features = self.observation_spec.extract_from_input(layer.ln_a(tokens))
        return _predict(self.agent, self.observation_spec, features, index)

    @torch.no_grad()
    def observe(self, index: int, layer_output: LayerOutput) -> None:
        """Record the features that the next chunk's observation shows."""
        if self.previous:
            self._prev_features[index] = self.observation_spec.extract_from_input(
                layer_output.local_input
            )


class AgentController:
    """An agent that does not learn as the controller of one layer: a `BatchController`.

    A layer that decodes asks it at each window, for which it observes the window before.
    """

    observation_time: ObservationTime = "previous"

    def __init__(self, agent: Agent, observation_spec: ObservationSpec, index: int) -> None:
        self.agent = agent
        self.observation_spec = observation_spec
        self.index = index

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Return the features of the layer's normalized input."""
        del features, lengths
        return self.observation_spec.extract_from_input(local_input)

    def actions(self, obs: Tensor) -> Tensor:
        """Return the agent's actions."""
        return _predict(self.agent, self.observation_spec, obs, self.index)

    def check(self, dims: int, action_scale: str) -> None:
        """Accept the layers of a pilot."""


def _predict(agent: Agent, spec: ObservationSpec, features: Tensor, index: int) -> Tensor:
    """Return the actions of an agent in layer ``index``, integers of shape (batch,)."""
    numbers = spec.encode(features, index).cpu().numpy()
    actions = agent.predict(to_observations(spec, numbers))
    return torch.as_tensor(actions, device=features.device)
