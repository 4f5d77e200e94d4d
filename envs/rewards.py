"""Rewards: objects that compute named components, whose sum is the reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.attention.features import quality
from spangym.utils.scalars import as_float


@dataclass(frozen=True)
class RewardContext:
    """Input of a reward: one step in every environment; tensors are on the layers' device.

    Attributes:
        layer_output: Output of the layer.
        layer: Index of the layer.
        num_layers: Layers in the stack.
        full_qk_pairs: Query-key pairs of one pass of full attention.
        excess_loss: Loss of the chunk minus its loss at full span, in bits a target, shape
            (num_envs,); None except at the last layer of a chunk if the reward has ``needs_task``.
    """

    layer_output: LayerOutput
    layer: int
    num_layers: int
    full_qk_pairs: int
    excess_loss: Tensor | None = None


class Reward(ABC):
    """Base class of rewards. A custom reward only needs `components` and `__call__`.

    Attributes:
        components: Names of the components, whose sum is the reward.
        platform_dependent: Whether another machine or device may round differently.
        needs_statistics: Whether ``layer_output.stats`` is used, which costs a pass of full
            attention.
        needs_task: Whether ``excess_loss`` is used, which costs a pass of the stack at full span.

    Args:
        cost_coef: Cost of scoring, in every layer of a chunk, the query-key pairs of one full
            attention, in units of reward; at least 0, default 0.

    Example:
        >>> class ShortSpan(Reward):
        ...     components = ("tokens",)
        ...     def __call__(self, context):
        ...         return -context.layer_output.span[:, None].double()
        >>> ShortSpan(cost_coef=0.5).cost_coef
        0.5
    """

    components: tuple[str, ...] = ()
    platform_dependent: bool = True
    needs_statistics: bool = False
    needs_task: bool = False
    cost_coef: float = 0.0

    def __init__(self, cost_coef: float = 0.0) -> None:
        self.cost_coef = as_float("cost_coef", cost_coef, 0)

    @abstractmethod
    def __call__(self, context: RewardContext) -> Tensor:
        """Compute the components of a step in every environment, shape (num_envs, components)."""

    def cost(self, context: RewardContext) -> Tensor:
        """Minus the compute cost over all refinement passes, shape (num_envs,).

        The sum over the layers is minus ``cost_coef`` times the mean share of query-key pairs.
        """
        pairs = context.full_qk_pairs * context.num_layers
        return 0.0 - self.cost_coef * context.layer_output.qk_pairs / pairs


class QualityReward(Reward):
    """The original's reward: coverage minus 0.1 times the entropy, minus the cost.

    Coverage and entropy are those of the local output (`spangym.attention.features.quality`).
    """

    components = ("coverage", "entropy", "cost")

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute coverage, -0.1 times the entropy, and minus the cost, shape (num_envs, 3)."""
        terms = quality(context.layer_output.local_output)
        return torch.stack([terms.coverage, -0.1 * terms.entropy, self.cost(context)], dim=-1)


class AttentionReward(Reward):
    """Coverage minus 0.1 times the entropy of the attention weights, minus the cost.

    Coverage is the share of full attention's weight within the span, the entropy is that of the
    weights in nats; both come from the log-sum-exp (`spangym.attention.AttentionStats`).
    """

    components = ("coverage", "entropy", "cost")
    needs_statistics = True

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute coverage, -0.1 times the entropy, and minus the cost, shape (num_envs, 3)."""
        stats = context.layer_output.stats
        assert stats is not None
        return torch.stack([stats.coverage, -0.1 * stats.entropy, self.cost(context)], dim=-1)


class TaskReward(Reward):
    """Minus the excess loss over full span, in bits a target, minus the cost.

    The component ``task`` is 0 except at the last layer of a chunk; the cost arises at each layer.
    """

    components = ("task", "cost")
    needs_task = True

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute minus the excess loss, and minus the cost, shape (num_envs, 2)."""
        cost = self.cost(context)
        excess = context.excess_loss
        task = torch.zeros_like(cost) if excess is None else 0.0 - excess.to(cost.dtype)
        return torch.stack([task, cost], dim=-1)


REWARDS: dict[str, Callable[[float], Reward]] = {
    "quality": QualityReward,
    "attention": AttentionReward,
    "task": TaskReward,
}
"""Constructors of the rewards, called with the cost coefficient."""
