"""Who decides the spans of a model that reads: its layers, chance, a fixed action, or an agent."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.agents import Agent, SB3Agent
from spangym.attention import NUM_ACTIONS, IntegratedAttention, LayerOutput
from spangym.envs.observations import Encoding


class SpanPolicy:
    """Decides the span of each batch element, layer by layer; this one leaves it to the layers."""

    def begin(self) -> None:
        """Take note that streams begin."""
        return

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor | None:
        """Decide before a layer.

        Args:
            index: Of the layer.
            layer: The layer.
            hidden: Its input, shape (batch, tokens, dims).

        Returns:
            Integers 0..9 of shape (batch,); None leaves it to the layer.
        """
        del index, layer, hidden

    def observe(self, index: int, layer_output: LayerOutput) -> None:
        """Take note of what the layer did."""
        del index, layer_output


class RandomSpans(SpanPolicy):
    """Every span is drawn, each action as often.

    Args:
        generator: What to draw from, on the CPU.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """Draw."""
        del index, layer
        drawn = torch.randint(NUM_ACTIONS, (len(hidden),), generator=self.generator)
        return drawn.to(hidden.device)


class FixedSpans(SpanPolicy):
    """One action in all layers.

    Args:
        action: The action, 0..9.
    """

    def __init__(self, action: int) -> None:
        self.action = action

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """The action, for each batch element."""
        del index, layer
        return torch.full((len(hidden),), self.action, device=hidden.device)


class AgentSpans(SpanPolicy):
    """An agent decides as well as it has learned to, from what an environment would show it.

    Args:
        agent: The agent.
        encoding: How it observes.
        previous: Whether from the chunk before rather than from the current one; where there is
            none, from the first token.
    """

    def __init__(self, agent: Agent, encoding: Encoding, previous: bool) -> None:
        self.agent = agent
        self.encoding = encoding
        self.previous = previous
        self._seen: dict[int, Tensor] = {}

    def begin(self) -> None:
        """Forget the streams before; so does an agent that remembers."""
        self._seen = {}
        if isinstance(self.agent, SB3Agent):
            self.agent.on_episode_start(None)

    @torch.no_grad()
    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        """Ask the agent."""
        assert isinstance(layer, IntegratedAttention)
        features = self._seen.get(index)
        if features is None:
            read = hidden[:, :1] if self.previous else hidden
            features = self.encoding.extract(layer.ln_a(read))
        numbers = self.encoding.encode(features, index).cpu().numpy()
        actions = self.agent.predict(self.encoding.to_observations(numbers))
        return torch.as_tensor(actions, device=hidden.device)

    @torch.no_grad()
    def observe(self, index: int, layer_output: LayerOutput) -> None:
        """Keep what the next chunk's decision is made from."""
        if self.previous:
            self._seen[index] = self.encoding.extract(layer_output.local_input)
