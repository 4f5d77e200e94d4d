"""Networks as frozen controllers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spangym.attention.controllers.policy_heads import ObsNormalization, ObsNormalizer, PolicyHead
from spangym.attention.features import NUM_STATES
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.hashing import tuple_hash_states
from spangym.attention.observation_spec import ObservationSpec
from spangym.utils.suggestions import did_you_mean

ACTIVATIONS: dict[str, type[nn.Module]] = {
    each.__name__: each
    for each in (
        nn.ELU,
        nn.GELU,
        nn.Hardswish,
        nn.Identity,
        nn.LeakyReLU,
        nn.Mish,
        nn.ReLU,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Tanh,
    )
}
"""Activations of networks, by PyTorch's names, with PyTorch's defaults."""


class _Linear(nn.Module):
    """As `spangym.attention.layers.modules.BatchInvariantLinear`, without parameters."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().float().contiguous().clone())
        self.register_buffer("bias", bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None, :] * self.weight).sum(-1) + self.bias


class _OneHotLinear(_Linear):
    """The same of one-hot vectors, whose places are given: rows of the weight are looked up."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.T, bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding_bag(x, self.weight, mode="sum") + self.bias


class _OneHotIndices(nn.Module):
    """Where the ones stand in the one-hot vectors of digits or of a state."""

    starts: Tensor

    def __init__(self, observation: ObservationSpec) -> None:
        super().__init__()
        self._hashed = observation.encoding == "state"
        starts = [0, *itertools.accumulate(observation.nvec[:-1])]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        digits = numbers.long()
        return tuple_hash_states(digits)[:, None] if self._hashed else digits + self.starts


class MLPPolicy(PolicyHead):
    """A multi-layer perceptron, as Stable-Baselines3's are: the action of the highest output.

    ``digits`` and ``state`` are read as one-hot vectors one after the other, ``box`` and
    ``features`` as they are, float32.

    Args:
        observation: What is observed.
        weights: Of the linear layers, each of shape (outputs, inputs).
        biases: Theirs, each of shape (outputs,).
        activation: What stands between them, one of `ACTIVATIONS`.
        quantiles: Outputs of an action, whose mean is its value; one quantile of all actions
            stands after the other.
        normalization: How numbers are normalized first; None leaves them.

    Raises:
        ValueError: These make no network from such observations to actions.

    Example:
        >>> observation = ObservationSpec(dims=4, encoding="box", pool_groups=1)
        >>> network = MLPPolicy(observation, [torch.eye(10, 2)], [torch.zeros(10)])
        >>> obs = torch.tensor([[0.3, 0.1], [0.2, 0.4], [-1.0, -1.0]]).double()
        >>> network(obs, layer=torch.tensor([0])).tolist()
        [0, 1, 2]
    """

    head_type = "network"

    def __init__(
        self,
        observation: ObservationSpec,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str = "ReLU",
        quantiles: int = 1,
        normalization: ObsNormalization | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is unknown{did_you_mean(activation, ACTIVATIONS)}"
            )
        inputs = {"digits": sum(observation.nvec), "state": NUM_STATES}.get(observation.encoding)
        _check_network(
            observation.encoding,
            inputs or len(observation.nvec),
            weights,
            biases,
            NUM_ACTIONS * quantiles,
        )
        if normalization is not None:
            _check_normalization(normalization, None if inputs else len(observation.nvec))
        self.quantiles = quantiles
        self.encoder = (
            _OneHotIndices(observation) if inputs else ObsNormalizer(observation, normalization)
        )
        first = _OneHotLinear if inputs else _Linear
        self.first = first(weights[0], biases[0])
        self.activation = ACTIVATIONS[activation]()
        self.hidden = nn.ModuleList(map(_Linear, weights[1:], biases[1:]))
        self.config = {
            "activation": activation,
            "quantiles": quantiles,
            "clip": None if normalization is None else normalization.clip,
        }

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """The action of the highest output, the lowest of several; the layer is in the numbers."""
        del layer
        return self.values(self.encoder(numbers)).argmax(-1)

    def values(self, inputs: Tensor) -> Tensor:
        """Outputs of the network, one an action: shape (batch, 10).

        Args:
            inputs: Its inputs, float32 of shape (batch, inputs); of one-hot vectors the places of
                the ones, int64.
        """
        found = self.first(inputs)
        for linear in self.hidden:
            found = linear(self.activation(found))
        return found.unflatten(-1, (self.quantiles, NUM_ACTIONS)).mean(-2)

    @classmethod
    def from_tensors(
        cls, observation: ObservationSpec, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> MLPPolicy:
        """The network whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        depth = sum(name.endswith(".weight") for name in tensors)
        names = ["first", *(f"hidden.{index}" for index in range(depth - 1))]
        weights = [tensors[f"{name}.weight"] for name in names]
        if observation.encoding in ("digits", "state"):
            weights[0] = weights[0].T
        normalization = None
        if config["clip"] is not None:
            normalization = ObsNormalization(
                tensors["encoder.mean"], tensors["encoder.std"], config["clip"]
            )
        return cls(
            observation,
            weights,
            [tensors[f"{name}.bias"] for name in names],
            config["activation"],
            config["quantiles"],
            normalization,
        )


def _check_network(
    encoding: str, inputs: int, weights: Sequence[Tensor], biases: Sequence[Tensor], outputs: int
) -> None:
    if not weights or any(each.ndim != 2 for each in weights):
        raise ValueError("weights must be matrices, at least one")
    first, last = weights[0].shape[1], weights[-1].shape[0]
    if first != inputs:
        raise ValueError(
            f"a network that reads {first} numbers does not go with the observation: encoding "
            f"{encoding!r} gives {inputs}"
        )
    if last != outputs:
        raise ValueError(f"a network must give {outputs} numbers, one for each action, not {last}")
    chained = all(one.shape[0] == two.shape[1] for one, two in itertools.pairwise(weights))
    if not chained or [each.shape for each in biases] != [each.shape[:1] for each in weights]:
        raise ValueError("weights and biases of the network do not go together")


def _check_normalization(normalization: ObsNormalization, numbers: int | None) -> None:
    if numbers is None:
        raise ValueError("one-hot vectors cannot be normalized: encoding must be box or features")
    shapes = [tuple(each.shape) for each in normalization[:2]]
    if set(shapes) != {(numbers,)}:
        raise ValueError(f"normalization is of shapes {shapes}; they must be ({numbers},)")
