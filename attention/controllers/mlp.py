"""Multi-layer perceptrons as heads of exported policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spangym.attention.controllers.policy_heads import (
    ObsNormalization,
    ObsNormalizer,
    PolicyHead,
    copied,
)
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.observation_spec import ObservationSpec
from spangym.utils.suggestions import did_you_mean

_NAMES = "ELU GELU Hardswish Identity LeakyReLU Mish ReLU SELU SiLU Sigmoid Softplus Tanh"
ACTIVATIONS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in _NAMES.split()}
"""Supported activations by name, with PyTorch's defaults."""


class _Linear(nn.Module):
    """`spangym.attention.layers.modules.BatchInvariantLinear` with buffers for parameters."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", copied(weight, torch.float32))
        self.register_buffer("bias", copied(bias, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None, :] * self.weight).sum(-1) + self.bias


class _OneHotLinear(_Linear):
    """The same for one-hot vectors, given as the indices of the ones; the weight is transposed."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding_bag(x, self.weight, mode="sum") + self.bias


class _OneHotIndices(nn.Module):
    """Indices of the ones in the concatenated one-hot vectors of digits, or of a state id."""

    starts: Tensor

    def __init__(self, observation: ObservationSpec) -> None:
        super().__init__()
        self._state_spec = observation if observation.encoding == "state" else None
        starts = [0, *itertools.accumulate(observation.nvec[:-1])]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        if self._state_spec is not None:
            return self._state_spec.state_ids(numbers)[:, None]
        return numbers.long() + self.starts


class MLPPolicy(PolicyHead):
    """The action of the highest output of a multi-layer perceptron, as in Stable-Baselines3.

    ``digits`` and ``state`` are read as concatenated one-hot vectors, ``box`` and ``features`` as
    float32.

    Args:
        observation: The observation.
        weights: Weights of the linear layers, each of shape (outputs, inputs).
        biases: Biases of the linear layers, each of shape (outputs,).
        activation: Activation between the layers, one of `ACTIVATIONS`.
        quantiles: Outputs of an action, whose mean is its value; the outputs are ordered by
            quantile, then action.
        normalization: Normalization of the numbers; none by default.
        num_actions: Number of actions.

    Raises:
        ValueError: The arguments do not fit one another.

    Example:
        >>> observation = ObservationSpec(dims=4, encoding="box", pool_groups=1)
        >>> network = MLPPolicy(observation, [torch.eye(10, 2)], [torch.zeros(10)])
        >>> obs = torch.tensor([[0.3, 0.1], [0.2, 0.4], [-1.0, -1.0]]).double()
        >>> network(obs, layer=torch.tensor([0])).tolist()
        [0, 1, 2]
    """

    head_type = "mlp"

    def __init__(
        self,
        observation: ObservationSpec,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: str = "ReLU",
        quantiles: int = 1,
        normalization: ObsNormalization | None = None,
        num_actions: int = NUM_ACTIONS,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is unknown{did_you_mean(activation, ACTIVATIONS)}"
            )
        encoding = observation.encoding
        one_hot = {"digits": sum(observation.nvec), "state": observation.num_state_ids}.get(
            encoding
        )
        inputs, outputs = one_hot or len(observation.nvec), num_actions * quantiles
        shapes = [[tuple(each.shape) for each in tensors] for tensors in (weights, biases)]
        widths = [inputs, *(width for width, *_ in shapes[1])]
        expected = [[*zip(widths[1:], widths, strict=False)], [(width,) for width in widths[1:]]]
        if not weights or shapes != expected or widths[-1] != outputs:
            raise ValueError(
                f"weights and biases have shapes {shapes[0]} and {shapes[1]}; encoding "
                f"{encoding!r} needs a network from {inputs} numbers to {outputs}"
            )
        if normalization is not None:
            shapes = [tuple(each.shape) for each in normalization[:2]]
            if one_hot or set(shapes) != {(inputs,)}:
                raise ValueError(
                    f"normalization has shapes {shapes}; they must be ({inputs},), and encoding "
                    f"{encoding!r} must be box or features"
                )
        self.quantiles, self.num_actions = quantiles, num_actions
        if one_hot:
            self.encoder = _OneHotIndices(observation)
            self.first = _OneHotLinear(weights[0].T, biases[0])
        else:
            self.encoder = ObsNormalizer(observation, normalization)
            self.first = _Linear(weights[0], biases[0])
        self.activation = ACTIVATIONS[activation]()
        self.hidden = nn.ModuleList(map(_Linear, weights[1:], biases[1:]))

    def __repr__(self) -> str:
        weights = self.arguments["weights"]
        widths = [weights[0].shape[1], *(each.shape[0] for each in weights)]
        sizes = "-".join(map(str, widths))
        return f"MLPPolicy({sizes}, {type(self.activation).__name__}, {self.num_actions} actions)"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, except the observation."""
        first, encoder = self.first, self.encoder
        normalization = None
        if isinstance(encoder, ObsNormalizer) and encoder.mean is not None:
            normalization = (encoder.mean, encoder.std, encoder.clip)
        return {
            "weights": [
                first.weight.T if isinstance(first, _OneHotLinear) else first.weight,
                *(each.weight for each in self.hidden),
            ],
            "biases": [each.bias for each in (first, *self.hidden)],
            "activation": type(self.activation).__name__,
            "quantiles": self.quantiles,
            "normalization": normalization,
            "num_actions": self.num_actions,
        }

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Choose the action of the highest output, the lowest of several."""
        del layer  # The numbers contain it.
        return self.values(self.encoder(numbers)).argmax(-1)

    def values(self, inputs: Tensor) -> Tensor:
        """Outputs of the network for each action, shape (batch, num_actions).

        Args:
            inputs: Inputs of the network, float32 of shape (batch, inputs); for one-hot vectors the
                indices of the ones, int64.
        """
        found = self.first(inputs)
        for linear in self.hidden:
            found = linear(self.activation(found))
        return found.unflatten(-1, (self.quantiles, self.num_actions)).mean(-2)
