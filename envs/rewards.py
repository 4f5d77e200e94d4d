"""Rewards: objects that compute named components, whose sum is the reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.attention.features import quality
from spangym.utils.errors import describe_error
from spangym.utils.importing import import_class, is_import_path
from spangym.utils.readable_repr import readable_repr
from spangym.utils.scalars import as_float
from spangym.utils.signatures import construct, method_problem, parameters_of, source_location
from spangym.utils.suggestions import did_you_mean


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
        infidelity: 1 minus the cosine of the final outputs to those at full span, mean over the
            tokens, shape (num_envs,); None except at the last layer of a chunk if the reward has
            ``needs_fidelity``.
        cost_coef: Cost coefficient of each environment's episode, float32 of shape (num_envs,);
            None if it is that of the reward.
    """

    __repr__ = readable_repr

    layer_output: LayerOutput
    layer: int
    num_layers: int
    full_qk_pairs: int
    excess_loss: Tensor | None = None
    infidelity: Tensor | None = None
    cost_coef: Tensor | None = None

    @property
    def qk_pairs(self) -> Tensor:
        """Query-key pairs scored, over all refinement passes, int64 of shape (num_envs,)."""
        return self.layer_output.qk_pairs

    @property
    def output_quality(self) -> tuple[Tensor, Tensor]:
        """Coverage and entropy of the local output, of shape (num_envs,) each."""
        terms = quality(self.layer_output.local_output)
        return terms.coverage, terms.entropy

    @property
    def attention_quality(self) -> tuple[Tensor, Tensor]:
        """Coverage and entropy of the attention weights, with ``needs_statistics``."""
        stats = self.layer_output.stats
        assert stats is not None
        return stats.coverage, stats.entropy


class Reward(ABC):
    """Base class of rewards. A custom reward only needs `components` and `__call__`.

    Attributes:
        components: Names of the components, whose sum is the reward.
        platform_dependent: Whether another machine or device may round differently.
        needs_statistics: Whether ``layer_output.stats`` is used, which costs a pass of full
            attention.
        needs_task: Whether ``excess_loss`` is used, which costs a pass of the stack at full span.
        needs_fidelity: Whether ``infidelity`` is used, which costs a pass of the stack at full
            span.
        needs_layer_output: Whether ``layer_output`` is used, and not only the other attributes of
            the context. A table (`spangym.envs.tabulate`) then holds the components of this very
            reward; otherwise it serves the reward with any coefficients.

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

    __repr__ = readable_repr

    components: tuple[str, ...] = ()
    platform_dependent: bool = True
    needs_statistics: bool = False
    needs_task: bool = False
    needs_fidelity: bool = False
    needs_layer_output: bool = True
    cost_coef: float = 0.0

    def __init__(self, cost_coef: float = 0.0) -> None:
        self.cost_coef = as_float("cost_coef", cost_coef, 0)

    @abstractmethod
    def __call__(self, context: RewardContext) -> Tensor:
        """Compute the components of a step in every environment, shape (num_envs, components)."""

    def cost(self, context: RewardContext) -> Tensor:
        """Minus the compute cost over all refinement passes, shape (num_envs,).

        The sum over the layers is minus ``cost_coef`` times the mean share of query-key pairs. A
        coefficient of the episode takes the place of the reward's.
        """
        pairs = context.full_qk_pairs * context.num_layers
        cost_coef = self.cost_coef if context.cost_coef is None else context.cost_coef
        # Integers times a number would have the default type of PyTorch.
        return 0.0 - cost_coef * context.qk_pairs.float() / pairs


class _CoverageReward(Reward):
    """Weighted coverage minus weighted entropy, minus the cost.

    Args:
        cost_coef: See `Reward`.
        coverage_weight: Factor of the coverage, default 1.
        entropy_weight: Factor of the entropy, which is subtracted, default 0.1.
    """

    components = ("coverage", "entropy", "cost")
    needs_layer_output = False

    def __init__(
        self, cost_coef: float = 0.0, coverage_weight: float = 1.0, entropy_weight: float = 0.1
    ) -> None:
        super().__init__(cost_coef)
        self.coverage_weight = as_float("coverage_weight", coverage_weight)
        self.entropy_weight = as_float("entropy_weight", entropy_weight)

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute weighted coverage, minus weighted entropy, minus the cost: (num_envs, 3)."""
        coverage, entropy = self._terms(context)
        weighted = (self.coverage_weight * coverage, -self.entropy_weight * entropy)
        return torch.stack([*weighted, self.cost(context)], dim=-1)

    @abstractmethod
    def _terms(self, context: RewardContext) -> tuple[Tensor, Tensor]:
        """Coverage and entropy, shape (num_envs,) each."""


class QualityReward(_CoverageReward):
    """The original's reward: coverage minus 0.1 times the entropy, minus the cost.

    Coverage and entropy are those of the local output (`spangym.attention.features.quality`). Both
    weights are arguments: ``coverage_weight`` (1) and ``entropy_weight`` (0.1).

    Example:
        >>> QualityReward(entropy_weight=0.2).entropy_weight
        0.2
    """

    def _terms(self, context: RewardContext) -> tuple[Tensor, Tensor]:
        return context.output_quality


class AttentionReward(_CoverageReward):
    """Coverage minus 0.1 times the entropy of the attention weights, minus the cost.

    Coverage is the share of full attention's weight within the span, the entropy is that of the
    weights in nats; both come from the log-sum-exp (`spangym.attention.AttentionStats`). Both
    weights are arguments: ``coverage_weight`` (1) and ``entropy_weight`` (0.1).
    """

    needs_statistics = True

    def _terms(self, context: RewardContext) -> tuple[Tensor, Tensor]:
        return context.attention_quality


class TaskReward(Reward):
    """Minus the excess loss over full span, in bits a target, minus the cost.

    The component ``task`` is 0 except at the last layer of a chunk; the cost arises at each layer.
    """

    components = ("task", "cost")
    needs_task = True
    needs_layer_output = False

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute minus the excess loss, and minus the cost, shape (num_envs, 2)."""
        return _loss_and_cost(context.excess_loss, self.cost(context))


class FidelityReward(Reward):
    """Minus the distance of the final outputs to those at full span, minus the cost.

    The component ``fidelity`` is minus ``RewardContext.infidelity``, 0 except at the last layer of
    a chunk; the cost arises at each layer. It needs no targets.
    """

    components = ("fidelity", "cost")
    needs_fidelity = True
    needs_layer_output = False

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute minus the infidelity, and minus the cost, shape (num_envs, 2)."""
        return _loss_and_cost(context.infidelity, self.cost(context))


def _loss_and_cost(loss: Tensor | None, cost: Tensor) -> Tensor:
    """Stack minus a loss, 0 where there is none, and the cost."""
    first = torch.zeros_like(cost) if loss is None else 0.0 - loss.to(cost.dtype)
    return torch.stack([first, cost], dim=-1)


REWARDS: dict[str, type[Reward]] = {
    "quality": QualityReward,
    "attention": AttentionReward,
    "task": TaskReward,
    "fidelity": FidelityReward,
}
"""The builtin rewards by name."""


def find_reward(name: str) -> type[Reward]:
    """Find a builtin reward, or import the class of a user's by ``module:Class``.

    Raises:
        ValueError: There is no such reward.
    """
    if name in REWARDS:
        return REWARDS[name]
    if not is_import_path(name):
        hint = did_you_mean(name, REWARDS)
        raise ValueError(
            f"reward {name!r} is unknown{hint} (one of your own is named module:Class)"
        )
    found = import_class(name, f"reward {name!r}")
    if not issubclass(found, Reward):
        raise ValueError(f"reward {name!r} is not a subclass of spangym.envs.Reward")
    if problem := method_problem(found, "__call__", "context"):
        raise ValueError(f"reward {name!r}: {source_location(found, '__call__')}{problem}")
    return found


def make_reward(name: str, cost_coef: float, kwargs: Mapping[str, Any]) -> Reward:
    """Make a reward by name or ``module:Class``.

    Args:
        name: See `find_reward`.
        cost_coef: Cost coefficient; given to classes whose constructor takes it.
        kwargs: Other arguments of the class.

    Raises:
        ValueError: There is no such reward, or it cannot be made with these arguments.
    """
    cls, arguments = find_reward(name), dict(kwargs)
    if cost_coef or "cost_coef" in parameters_of(cls):
        arguments["cost_coef"] = cost_coef
    try:
        return construct(cls, arguments)
    except Exception as error:  # Users' constructors may raise anything.
        raise ValueError(f"reward {name!r} cannot be made: {describe_error(error)}") from error
