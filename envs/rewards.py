"""What a decision earns: rewards are objects that return their parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention import Outcome
from spangym.attention.features import quality


@dataclass(frozen=True)
class Decided:
    """A decision in every lane and what came of it; tensors are on the layers' device.

    Attributes:
        outcome: What the layer did.
        layer: Index of the layer.
        layers: Layers in the stack.
        full_keys: Query-key pairs of one pass of full attention.
        excess_bits: By how many bits a target the chunk's loss exceeds the one at full span, shape
            (lanes,); None but at the chunk's last layer, for rewards that need the task.
    """

    outcome: Outcome
    layer: int
    layers: int
    full_keys: int
    excess_bits: Tensor | None = None


class Reward(ABC):
    """Judges decisions. One's own reward needs only `parts` and `__call__`.

    Attributes:
        parts: Names of the parts, whose sum is the reward.
        deterministic: Whether the same decisions on the same streams always earn the same.
        platform_dependent: Whether another machine or device may round it otherwise.
        needs_statistics: Whether ``outcome.stats`` is read, which costs a pass of full attention.
        price: As below.
        needs_task: Whether ``excess_bits`` is read, which costs a pass of the stack at full span.

    Args:
        price: What it costs to visit, in every layer of a chunk, the keys of one full attention; at
            least 0.

    Example:
        >>> class ShortSpan(Reward):
        ...     parts = ("tokens",)
        ...     def __call__(self, decided):
        ...         return -decided.outcome.span[:, None].double()
        >>> ShortSpan().deterministic
        True
    """

    parts: tuple[str, ...] = ()
    deterministic: bool = True
    platform_dependent: bool = True
    needs_statistics: bool = False
    needs_task: bool = False
    price: float = 0.0

    def __init__(self, price: float = 0.0) -> None:
        if not isinstance(price, int | float) or not 0 <= price < math.inf:
            raise ValueError(f"price must be a number, at least 0 and finite, got {price!r}")
        self.price = float(price)

    @abstractmethod
    def __call__(self, decided: Decided) -> Tensor:
        """Judge a decision in every lane: the parts, of shape (lanes, parts)."""

    def cost(self, decided: Decided) -> Tensor:
        """Minus the price of the visited keys, all passes of focus together, shape (lanes,).

        Summed over the layers it is the price times the mean share of visited keys.
        """
        pairs = decided.full_keys * decided.layers
        return 0.0 - self.price * decided.outcome.visited_keys / pairs


class QualityReward(Reward):
    """The original's reward: coverage minus a tenth of the entropy, minus the price.

    Coverage and entropy are those of the local output (`spangym.attention.features.quality`).
    """

    parts = ("coverage", "entropy", "price")

    def __call__(self, decided: Decided) -> Tensor:
        """The coverage, minus a tenth of the entropy, minus the price; shape (lanes, 3)."""
        judged = quality(decided.outcome.local_output)
        return torch.stack([judged.coverage, -0.1 * judged.entropy, self.cost(decided)], dim=-1)


class AttentionReward(Reward):
    """What the original's names promise: coverage and entropy of the attention weights themselves.

    Coverage is the share of full attention's weight that lies within the span, entropy that of the
    weights, in nats; both from the log-sum-exp (`spangym.attention.AttentionStats`).
    """

    parts = ("coverage", "entropy", "price")
    needs_statistics = True

    def __call__(self, decided: Decided) -> Tensor:
        """The coverage, minus a tenth of the entropy, minus the price; shape (lanes, 3)."""
        stats = decided.outcome.stats
        assert stats is not None
        return torch.stack([stats.coverage, -0.1 * stats.entropy, self.cost(decided)], dim=-1)


class TaskReward(Reward):
    """How much worse the stack does its task than at full span, minus the price.

    The task part is minus the excess loss in bits a target. It arrives with the chunk's last
    layer, the price at each layer.
    """

    parts = ("task", "price")
    needs_task = True

    def __call__(self, decided: Decided) -> Tensor:
        """Minus the excess loss, minus the price; shape (lanes, 2)."""
        cost = self.cost(decided)
        excess = decided.excess_bits
        task = torch.zeros_like(cost) if excess is None else 0.0 - excess.to(cost.dtype)
        return torch.stack([task, cost], dim=-1)


REWARDS: dict[str, Callable[[float], Reward]] = {
    "quality": QualityReward,
    "attention": AttentionReward,
    "task": TaskReward,
}
"""Rewards by name; each is made with its price."""
