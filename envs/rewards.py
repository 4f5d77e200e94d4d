"""What a decision earns: rewards are objects that return their parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.attention.features import quality


@dataclass(frozen=True)
class RewardContext:
    """A decision in every environment and what came of it; tensors are on the layers' device.

    Attributes:
        layer_output: What the layer did.
        layer: Index of the layer.
        num_layers: Layers in the stack.
        full_qk_pairs: Query-key pairs of one pass of full attention.
        excess_loss: By how many bits a target the chunk's loss exceeds the one at full span, shape
            (num_envs,); None but at the chunk's last layer, for rewards that need the task.
    """

    layer_output: LayerOutput
    layer: int
    num_layers: int
    full_qk_pairs: int
    excess_loss: Tensor | None = None


class Reward(ABC):
    """Judges decisions. One's own reward needs only `components` and `__call__`.

    Attributes:
        components: Names of the components, whose sum is the reward.
        deterministic: Whether the same decisions on the same streams always earn the same.
        platform_dependent: Whether another machine or device may round it otherwise.
        needs_statistics: Whether ``layer_output.stats`` is read, which costs a pass of full attention.
        cost_coef: As below.
        needs_task: Whether ``excess_loss`` is read, which costs a pass of the stack at full span.

    Args:
        cost_coef: What it costs to visit, in every layer of a chunk, the keys of one full attention; at
            least 0.

    Example:
        >>> class ShortSpan(Reward):
        ...     components = ("tokens",)
        ...     def __call__(self, context):
        ...         return -context.layer_output.span[:, None].double()
        >>> ShortSpan().deterministic
        True
    """

    components: tuple[str, ...] = ()
    deterministic: bool = True
    platform_dependent: bool = True
    needs_statistics: bool = False
    needs_task: bool = False
    cost_coef: float = 0.0

    def __init__(self, cost_coef: float = 0.0) -> None:
        if not isinstance(cost_coef, int | float) or not 0 <= cost_coef < math.inf:
            raise ValueError(
                f"cost_coef must be a number, at least 0 and finite, got {cost_coef!r}"
            )
        self.cost_coef = float(cost_coef)

    @abstractmethod
    def __call__(self, context: RewardContext) -> Tensor:
        """Judge a decision in every environment: the components, of shape (num_envs, components)."""

    def cost(self, context: RewardContext) -> Tensor:
        """Minus the compute cost, all passes of focus together, shape (num_envs,).

        Summed over the layers it is the cost times the mean share of visited keys.
        """
        pairs = context.full_qk_pairs * context.num_layers
        return 0.0 - self.cost_coef * context.layer_output.qk_pairs / pairs


class QualityReward(Reward):
    """The original's reward: coverage minus a tenth of the entropy, minus the cost.

    Coverage and entropy are those of the local output (`spangym.attention.features.quality`).
    """

    components = ("coverage", "entropy", "cost")

    def __call__(self, context: RewardContext) -> Tensor:
        """The coverage, minus a tenth of the entropy, minus the cost; shape (num_envs, 3)."""
        judged = quality(context.layer_output.local_output)
        return torch.stack([judged.coverage, -0.1 * judged.entropy, self.cost(context)], dim=-1)


class AttentionReward(Reward):
    """What the original's names promise: coverage and entropy of the attention weights themselves.

    Coverage is the share of full attention's weight that lies within the span, entropy that of the
    weights, in nats; both from the log-sum-exp (`spangym.attention.AttentionStats`).
    """

    components = ("coverage", "entropy", "cost")
    needs_statistics = True

    def __call__(self, context: RewardContext) -> Tensor:
        """The coverage, minus a tenth of the entropy, minus the cost; shape (num_envs, 3)."""
        stats = context.layer_output.stats
        assert stats is not None
        return torch.stack([stats.coverage, -0.1 * stats.entropy, self.cost(context)], dim=-1)


class TaskReward(Reward):
    """How much worse the stack does its task than at full span, minus the cost.

    The task part is minus the excess loss in bits a target. It arrives with the chunk's last
    layer, the cost at each layer.
    """

    components = ("task", "cost")
    needs_task = True

    def __call__(self, context: RewardContext) -> Tensor:
        """Minus the excess loss, minus the cost; shape (num_envs, 2)."""
        cost = self.cost(context)
        excess = context.excess_loss
        task = torch.zeros_like(cost) if excess is None else 0.0 - excess.to(cost.dtype)
        return torch.stack([task, cost], dim=-1)


REWARDS: dict[str, Callable[[float], Reward]] = {
    "quality": QualityReward,
    "attention": AttentionReward,
    "task": TaskReward,
}
"""Rewards by name; each is made with its cost coefficient."""
