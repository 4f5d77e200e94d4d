"""How frozen controllers decide: from the numbers of an `Observation` to actions, on the device.

A head holds what was learnt as buffers and passes no gradient on. Each lane is computed by itself:
a decision has the same bits whatever lanes stand beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .hints import did_you_mean
from .metrics import STATES
from .observation import Observation
from .spans import ACTIONS
from .state_hash import hashed_states

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

GRID, FARTHEST = 1024.0, 128.0
"""Steps of the grid of clusters in a deviation, and deviations from the mean to its end."""


class Normalisation(NamedTuple):
    """How numbers are normalised: ``clamp((x - mean) / deviation, -clip, clip)``.

    Attributes:
        mean: Shape (numbers,), float64.
        deviation: Likewise.
        clip: Largest of what results.
    """

    mean: Tensor
    deviation: Tensor
    clip: float


class Head(nn.Module):
    """What decides.

    Attributes:
        kind: What a file calls it.
        settings: What it is made from besides its tensors and the observation, ready for JSON.
    """

    kind: ClassVar[str]
    settings: Mapping[str, Any]

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Decide for every lane.

        Args:
            numbers: What `Observation.numbers` gave, float64 of shape (lanes, numbers).
            layer: Index of the layer, int64 of shape (1,).

        Returns:
            Actions, int64 of shape (lanes,).
        """
        raise NotImplementedError

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> Head:
        """The head whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        raise NotImplementedError


class _Linear(nn.Module):
    """As `spangym.attention.predictor.LaneLinear`, without parameters."""

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


class _Numbers(nn.Module):
    """Numbers as the environment and Stable-Baselines3 make them of one another, type by type."""

    low: Tensor | None
    high: Tensor | None
    mean: Tensor | None
    deviation: Tensor | None

    def __init__(self, observation: Observation, normalisation: Normalisation | None) -> None:
        super().__init__()
        low, high = (
            torch.tensor(each, dtype=torch.float32) if observation.encoding == "features" else None
            for each in observation.bounds
        )
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        mean, deviation, self.clip = normalisation or (None, None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, numbers: Tensor) -> Tensor:
        read = numbers.float()
        if self.low is not None:
            read = torch.clamp(read, self.low, self.high)
        if self.mean is None or self.deviation is None or self.clip is None:
            return read
        return ((read - self.mean) / self.deviation).clamp(-self.clip, self.clip).float()


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
        self.read = _Places(observation) if inputs else _Numbers(observation, normalisation)
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


class Table(Head):
    """The action of every state id.

    Args:
        observation: What is observed, encoded as ``state``.
        actions: Shape (9999,), integers 0..9.

    Raises:
        ValueError: They are not that.

    Example:
        >>> table = Table(Observation(dims=4, encoding="state"), torch.arange(9999) % 10)
        >>> seen = torch.full((2, 8), 5.0).double()
        >>> table(seen, layer=torch.tensor([0])).tolist() == [hash((5,) * 8) % 9999 % 10] * 2
        True
    """

    kind = "table"
    actions: Tensor

    def __init__(self, observation: Observation, actions: Tensor) -> None:
        super().__init__()
        if observation.encoding != "state":
            raise ValueError(
                f"a table reads state ids: encoding must be 'state', got {observation.encoding!r}"
            )
        check_actions(actions, (STATES,))
        self.register_buffer("actions", actions.long())
        self.settings = {}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look the lanes' states up; the layer is in their ids."""
        del layer
        return self.actions[hashed_states(numbers.long())]

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> Table:
        """The table of these actions.

        Raises:
            ValueError: They are no actions of every state.
            KeyError: They are missing.
        """
        del settings
        return cls(observation, tensors["actions"])


class ClusterTable(Head):
    """The action of the nearest of some centres: see `spangym.agents.Clusters`.

    Numbers are standardised and put on a grid on which float64 holds all distances exactly, so that
    the nearest centre, and of several the lowest, is the same on every device.

    Args:
        observation: What is observed, not encoded as ``state``.
        means: Of the numbers, float64 of shape (numbers,).
        scales: Theirs, likewise.
        centres: In whole steps of the grid, float64 of shape (layers, clusters, numbers).
        actions: Of the centres, integers 0..9 of shape (layers * clusters,).
        by_layer: Whether each layer has centres of its own; its index is then no number among the
            others.

    Raises:
        ValueError: They do not go together.

    Example:
        >>> observation = Observation(dims=4, encoding="features", groups=1)
        >>> centres = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]).double() * GRID
        >>> one = torch.ones(2).double()
        >>> table = ClusterTable(observation, one * 0, one, centres, torch.tensor([3, 8]), False)
        >>> seen = torch.tensor([[0.1, 0.9], [0.1, 1.1]]).double()
        >>> table(seen, layer=torch.tensor([0])).tolist()
        [3, 8]
    """

    kind = "clusters"
    means: Tensor
    scales: Tensor
    centres: Tensor
    actions: Tensor

    def __init__(
        self,
        observation: Observation,
        means: Tensor,
        scales: Tensor,
        centres: Tensor,
        actions: Tensor,
        by_layer: bool,
    ) -> None:
        super().__init__()
        if observation.encoding == "state":
            raise ValueError("a state id has no distances: encoding must be another than 'state'")
        if by_layer and not observation.layer_index:
            raise ValueError("centres of each layer need observations that end with its index")
        numbers = len(observation.sizes) - by_layer
        layers = observation.layers if by_layer else 1
        shapes = [tuple(each.shape) for each in (means, scales, centres)]
        if shapes != [(numbers,), (numbers,), (layers, *shapes[2][1:2], numbers)]:
            raise ValueError(
                f"means, scales and centres are of shapes {shapes}, the observation needs "
                f"({numbers},), ({numbers},) and ({layers}, clusters, {numbers})"
            )
        check_actions(actions, (layers * centres.shape[1],))
        self.by_layer = by_layer
        self.read = _Numbers(observation, None)
        tensors = {"means": means, "scales": scales, "centres": centres}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.double())
        self.register_buffer("actions", actions.long())
        self.settings = {"by_layer": by_layer}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look up the actions of the nearest centres."""
        rows = self.read(numbers).double()
        if self.by_layer:
            rows = rows[:, :-1]
        layer = layer * self.by_layer
        centres = self.centres.index_select(0, layer)[0]
        standardised = ((rows - self.means) / self.scales).clamp(-FARTHEST, FARTHEST)
        points = (standardised * GRID).round()
        nearest = (points[:, None] - centres).square().sum(-1).argmin(-1)
        return self.actions[layer * len(centres) + nearest]

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> ClusterTable:
        """The table whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        return cls(
            observation,
            tensors["means"],
            tensors["scales"],
            tensors["centres"],
            tensors["actions"],
            settings["by_layer"],
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


def check_actions(actions: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what are no actions.

    Raises:
        ValueError: They are of another shape or type, or none of 0..9.
    """
    if actions.shape != shape or actions.dtype.is_floating_point:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)} and type {actions.dtype}; they must be "
            f"integers of shape {shape}"
        )
    if ((actions < 0) | (actions >= ACTIONS)).any():
        raise ValueError(f"actions must be in 0..{ACTIONS - 1}")


HEADS: dict[str, type[Head]] = {each.kind: each for each in (Network, Table, ClusterTable)}
"""Heads by what a file calls them."""
