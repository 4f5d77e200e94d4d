"""Networks as frozen controllers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spangym.attention.controllers.policy_heads import Head, Normalisation, Numbers
from spangym.attention.features import STATES
from spangym.attention.geometry import ACTIONS
from spangym.attention.hashing import hashed_states
from spangym.attention.observation_spec import Observation
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
    """As `spangym.attention.layers.predictor.LaneLinear`, without parameters."""

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


class _Places(nn.Module):
    """Where the ones stand in the one-hot vectors of digits or of a state."""

    starts: Tensor

    def __init__(self, observation: Observation) -> None:
        super().__init__()
        self._hashed = observation.encoding == "state"
        starts = [0, *itertools.accumulate(observation.sizes[:-1])]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        digits = numbers.long()
        return hashed_states(digits)[:, None] if self._hashed else digits + self.starts


class Network(Head):
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
        normalisation: How numbers are normalised first; None leaves them.

    Raises:
        ValueError: These make no network from such observations to actions.

    Example:
        >>> observation = Observation(dims=4, encoding="box", groups=1)
        >>> network = Network(observation, [torch.eye(10, 2)], [torch.zeros(10)])
        >>> seen = torch.tensor([[0.3, 0.1], [0.2, 0.4], [-1.0, -1.0]]).double()
        >>> network(seen, layer=torch.tensor([0])).tolist()
        [0, 1, 2]
    """

    kind = "network"

    def __init__(
        self,
        observation: Observation,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str = "ReLU",
        quantiles: int = 1,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is unknown{did_you_mean(activation, ACTIVATIONS)}"
            )
        inputs = {"digits": sum(observation.sizes), "state": STATES}.get(observation.encoding)
        _check_network(
            observation.encoding,
            inputs or len(observation.sizes),
            weights,
            biases,
            ACTIONS * quantiles,
        )
        if normalisation is not None:
            _check_normalisation(normalisation, None if inputs else len(observation.sizes))
        self.quantiles = quantiles
        self.read = _Places(observation) if inputs else Numbers(observation, normalisation)
        first = _OneHotLinear if inputs else _Linear
        self.first = first(weights[0], biases[0])
        self.activation = ACTIVATIONS[activation]()
        self.others = nn.ModuleList(map(_Linear, weights[1:], biases[1:]))
        self.settings = {
            "activation": activation,
            "quantiles": quantiles,
            "clip": None if normalisation is None else normalisation.clip,
        }

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """The action of the highest output, the lowest of several; the layer is in the numbers."""
        del layer
        return self.values(self.read(numbers)).argmax(-1)

    def values(self, read: Tensor) -> Tensor:
        """Outputs of the network, one an action: shape (lanes, 10).

        Args:
            read: Its inputs, float32 of shape (lanes, inputs); of one-hot vectors the places of
                the ones, int64.
        """
        found = self.first(read)
        for linear in self.others:
            found = linear(self.activation(found))
        return found.unflatten(-1, (self.quantiles, ACTIONS)).mean(-2)

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> Network:
        """The network whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        depth = sum(name.endswith(".weight") for name in tensors)
        names = ["first", *(f"others.{index}" for index in range(depth - 1))]
        weights = [tensors[f"{name}.weight"] for name in names]
        if observation.encoding in ("digits", "state"):
            weights[0] = weights[0].T
        normalisation = None
        if settings["clip"] is not None:
            normalisation = Normalisation(
                tensors["read.mean"], tensors["read.deviation"], settings["clip"]
            )
        return cls(
            observation,
            weights,
            [tensors[f"{name}.bias"] for name in names],
            settings["activation"],
            settings["quantiles"],
            normalisation,
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


def _check_normalisation(normalisation: Normalisation, numbers: int | None) -> None:
    if numbers is None:
        raise ValueError("one-hot vectors cannot be normalised: encoding must be box or features")
    shapes = [tuple(each.shape) for each in normalisation[:2]]
    if set(shapes) != {(numbers,)}:
        raise ValueError(f"normalisation is of shapes {shapes}; they must be ({numbers},)")
