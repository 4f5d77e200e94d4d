"""What a decision earns: rewards are objects that return their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..attention import Outcome
from ..attention.metrics import quality


class Reward(Protocol):
    """Judges decisions.

    Attributes:
        parts: Names of the parts, whose sum is the reward.
    """

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, whose sum is the reward."""
        ...

    def __call__(self, outcome: Outcome) -> Tensor:
        """Judge one pass through a layer: the parts, of shape (lanes, parts)."""
        ...


class QualityReward:
    """The original's reward, optionally with a price: ``coverage - 0.1 * entropy - price * share``.

    Coverage and entropy are those of the local output (`spangym.attention.metrics.quality`); the
    share is that of visited keys, over all passes, in one full attention's.

    Args:
        price: What one full attention's worth of visited keys costs, at least 0.
    """

    parts = ("coverage", "entropy", "price")

    def __init__(self, price: float = 0.0) -> None:
        self.price = price

    def __call__(self, outcome: Outcome) -> Tensor:
        """The coverage, minus a tenth of the entropy, minus the price; shape (lanes, 3)."""
        judged = quality(outcome.local_output)
        full = outcome.local_output.shape[1] ** 2
        cost = self.price * outcome.visited_keys / full
        return torch.stack([judged.coverage, -0.1 * judged.entropy, 0.0 - cost], dim=-1)


REWARDS: dict[str, Callable[[float], Reward]] = {"quality": QualityReward}
"""Rewards by name; each is made with its price."""
