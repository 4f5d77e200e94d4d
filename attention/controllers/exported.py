"""Trained agents as controllers of layers: modules without a learner, in files of their own."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from spangym.attention.controllers.lookup import KMeansPolicy, LookupPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.controllers.policy_heads import PolicyHead
from spangym.attention.controllers.protocol import ObservationTime
from spangym.attention.features import token_moments
from spangym.attention.observation_spec import ObservationSpec, scale_cost_coef
from spangym.utils.readable_repr import short_repr
from spangym.utils.scalars import as_float, as_int
from spangym.utils.serialization import (
    load_metadata,
    load_state,
    parse_json,
    report_damage,
    save_state,
)
from spangym.utils.suggestions import did_you_mean

HEAD_TYPES: dict[str, type[PolicyHead]] = {
    each.head_type: each for each in (MLPPolicy, LookupPolicy, KMeansPolicy)
}
_FORMAT = 1
_MAX_SIZE = 2**20
"""Largest width and number of layers of a controller in a file."""
_MAX_VALUES = 2**28
"""Most numbers in the tensors of a controller that a state dict describes."""


class ExportedPolicy(nn.Module):
    """A trained agent that chooses the actions of whole batches on the device, without learning.

    It is a `spangym.attention.BatchController`: assign it as the ``refiner`` of any
    `IntegratedAttention`. `load_controller` reads one from a file.

    It chooses the actions of the agent in its environment. An agent trained with
    ``observe="current"`` reads the whole input even where the layer is causal, which leaks a few
    bits of a chunk's future into its past. An agent trained with ``observe="previous"`` reads the
    previous pass, which the layer's cache holds, or the first token without a cache.

    It has buffers only, which keep their dtypes where a layer is converted to another precision.
    Its state dict also contains its description (`get_extra_state`), from which a layer without a
    controller makes it.

    Args:
        observation: The observation of the agent.
        head: The greedy policy.
        layer: Index of the layer in the agent's stack; required where the agent observes it.
        cost_coef: Cost coefficient, at least 0; required where the agent observes it. It may be
            changed at any time, by the attribute of this name.
        observation_time: Whether actions depend on the ``current`` input or the ``previous`` one.
        action_scale: Action scale of the layers that the agent was trained in.
        metadata: Additional JSON content of the file, such as windows and spans of the training.
            Layers with others are accepted.

    Raises:
        ValueError: The layer index or the cost coefficient is missing or out of range, or a name is
            unknown.

    Example:
        >>> from spangym.attention import IntegratedAttention
        >>> from spangym.attention.controllers.mlp import MLPPolicy
        >>> observation = ObservationSpec(dims=32, encoding="features")
        >>> network = MLPPolicy(observation, [torch.eye(10, 64)], [torch.zeros(10)])
        >>> layer = IntegratedAttention(48, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> layer.refiner = ExportedPolicy(observation, network)
        >>> layer(torch.ones(2, 48, 32)).shape
        torch.Size([2, 48, 32])
    """

    layer_feature: Tensor
    cost_feature: Tensor
    index: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        head: PolicyHead,
        *,
        layer: int | None = None,
        cost_coef: float | None = None,
        observation_time: ObservationTime = "current",
        action_scale: str = "relative",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        times = get_args(ObservationTime)
        if observation_time not in times:
            hint = did_you_mean(str(observation_time), times)
            raise ValueError(f"observation_time {observation_time!r} is unknown{hint}")
        highest = observation.num_layers - 1
        if layer is None:
            if observation.include_layer_index:
                raise ValueError(
                    "this controller observes the index of its layer: give layer=0 to "
                    f"layer={highest}"
                )
            layer = 0
        layer = as_int("layer", layer, 0, highest)
        if cost_coef is None:
            if observation.include_cost_coef:
                raise ValueError("this controller observes the cost coefficient: give cost_coef")
            cost_coef = 0.0
        self.observation = observation
        self.head = head
        self.observation_time: ObservationTime = observation_time
        self.action_scale = action_scale
        self.metadata = dict(metadata or {})
        self.layer = layer
        # Tensors, so that all layers of a stack share one compilation.
        layer_feature = torch.tensor([[observation.encode_layer_index(layer)]], dtype=torch.float64)
        self.register_buffer("layer_feature", layer_feature, persistent=False)
        self.register_buffer("index", torch.tensor([layer]), persistent=False)
        cost_feature = torch.zeros(1, 1, dtype=torch.float64)
        self.register_buffer("cost_feature", cost_feature, persistent=False)
        self.cost_coef = cost_coef

    @property
    def num_actions(self) -> int:
        """Number of actions; action ``a`` asks for the fraction ``a / (num_actions - 1)``."""
        return self.head.num_actions

    @property
    def cost_coef(self) -> float:
        """Cost coefficient that the agent observes; without effect if it observes none."""
        return self._cost_coef

    @cost_coef.setter
    def cost_coef(self, value: float) -> None:
        self._cost_coef = as_float("cost_coef", value, 0)
        # As environments round it.
        self.cost_feature.copy_(scale_cost_coef(torch.tensor(self._cost_coef)))

    def forward(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Choose actions, int64 of shape (batch,), for a layer's normalized input.

        Args:
            local_input: Shape (batch, tokens, dims).
            lengths: Number of unpadded tokens of each sequence, shape (batch,); all if None.
        """
        local_input = local_input.detach()
        features = token_moments(local_input, lengths)
        return self.actions(self.observe(features, local_input, lengths))

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Compute the observation: see `spangym.attention.BatchController.observe`."""
        return self.observation.extract(features, local_input, lengths)

    def actions(self, obs: Tensor) -> Tensor:
        """Choose actions, int64 of shape (batch,), from the result of `observe`.

        Raises:
            ValueError: The observation is another controller's.
        """
        if obs.shape[-1] != self.observation.num_features:
            raise ValueError(
                f"the observation has {obs.shape[-1]} numbers, this controller reads "
                f"{self.observation.num_features}: begin the stream without a cache"
            )
        if self.observation.include_cost_coef:
            cost = self.cost_feature.to(obs.dtype).expand(obs.shape[0], 1)
            obs = torch.cat([obs, cost], dim=-1)
        numbers = self.observation.encode_features(obs)
        if self.observation.include_layer_index:
            numbers = torch.cat([numbers, self.layer_feature.expand(numbers.shape[0], 1)], dim=-1)
        return self.head(numbers, self.index)

    def check(self, dims: int, action_scale: str) -> None:
        """Refuse a layer of another width or action scale.

        Raises:
            ValueError: The layer does not fit.
        """
        if dims != self.observation.dims:
            raise ValueError(
                f"refiner is for layers of dims {self.observation.dims}, this layer has {dims}"
            )
        if action_scale != self.action_scale:
            raise ValueError(
                f"refiner was trained with action_scale {self.action_scale!r}, this layer has "
                f"{action_scale!r}"
            )

    def save(self, path: Path | str) -> None:
        """Write a file that `load_controller` reads."""
        save_state(Path(path), self._description(), self.metadata)

    def _description(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "observation": dataclasses.asdict(self.observation),
            "observation_time": self.observation_time,
            "action_scale": self.action_scale,
            "head_type": self.head.head_type,
            "head": self.head.arguments,
        }

    def get_extra_state(self) -> Tensor:
        """Describe everything except the values of buffers, as JSON in uint8.

        A tensor, so that every format of state dicts can store it.
        """
        own = {"layer": self.layer, "cost_coef": self.cost_coef, "metadata": self.metadata}
        description = self._description() | own
        described = tree_map_only(Tensor, _describe_tensor, description)
        return torch.tensor([*json.dumps(described, sort_keys=True).encode()], dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that `get_extra_state` described this controller.

        Metadata and cost coefficient are taken over.

        Raises:
            ValueError: The state is another controller's.
        """
        stored, own = (_parse_extra_state(each) for each in (state, self.get_extra_state()))
        metadata, cost_coef = stored.pop("metadata"), stored.pop("cost_coef")
        del own["metadata"], own["cost_coef"]
        changed = [name for name in own if stored.get(name) != own[name]]
        if changed:
            raise ValueError(
                f"the stored controller has another {', '.join(changed)}: assign layer.refiner = "
                "None, from which the layer makes the stored one"
            )
        self.metadata, self.cost_coef = metadata, cost_coef

    def _load_from_state_dict(  # type: ignore[override]
        self, state_dict: Mapping[str, Any], prefix: str, *more: Any
    ) -> None:
        try:
            super()._load_from_state_dict(state_dict, prefix, *more)
        except ValueError as error:
            error_msgs = more[-1]
            error_msgs.append(f"{prefix}*: {error}")

    @classmethod
    def from_extra_state(cls, state: Tensor) -> ExportedPolicy:
        """Make a controller that `get_extra_state` described, with zeros for most buffers.

        `load_state_dict` then sets them.

        Raises:
            ValueError: The state is damaged or of something else.
        """
        description = _parse_extra_state(state)
        if description["format"] != _FORMAT:
            raise ValueError(
                f"the stored controller has format {description['format']!r:.20}; this version of "
                f"spangym reads format {_FORMAT}"
            )
        with _report_damage():
            values = sum(abs(math.prod(each["shape"])) for each in _described(description["head"]))
            if values > _MAX_VALUES:
                raise ValueError(f"its tensors have {values} values, more than {_MAX_VALUES}")
            description["head"] = _make_tensors(description["head"])
            more = {name: description[name] for name in ("layer", "cost_coef", "metadata")}
            return cls(**_arguments_of(description), **more)

    def extra_repr(self) -> str:
        """Agent and environment of the training, observation, and layer."""
        names = ("name", "algo", "environment", "seed", "total_timesteps")
        parts = {name: self.metadata[name] for name in names if name in self.metadata}
        parts |= {"observation": self.observation, "layer": self.layer}
        if self.observation.include_cost_coef:
            parts["cost_coef"] = self.cost_coef
        if self.observation_time != "current":
            parts["observation_time"] = self.observation_time
        return ", ".join(f"{name}={short_repr(value)}" for name, value in parts.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExportedPolicy:
        # The actions must not depend on the precision of the layer.
        def with_same_dtype(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            same = converted.dtype == tensor.dtype
            return converted if same else tensor.to(converted.device)

        return super()._apply(with_same_dtype, recurse)


def load_controller(
    path: Path | str, layer: int | None = None, cost_coef: float | None = None
) -> ExportedPolicy:
    """Read a controller that ``spangym export`` or `ExportedPolicy.save` wrote.

    Args:
        path: The file.
        layer: Index of the controlled layer in the stack that the agent was trained in; required
            where the agent observes it.
        cost_coef: Cost coefficient; required where the agent observes it.

    Returns:
        The controller, on the CPU, to be assigned as ``layer.refiner``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind, or the layer index or the cost
            coefficient is missing or out of range.
    """
    path = Path(path)
    try:
        state, metadata = load_state(path), load_metadata(path)
        version = state["format"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"controller {str(path)!r} is damaged, or not written by `spangym export`"
        ) from error
    if version != _FORMAT:
        raise ValueError(
            f"controller {str(path)!r} has format {version!r:.20}; this version of spangym reads "
            f"format {_FORMAT}"
        )
    with report_damage(f"controller {str(path)!r} is damaged", path):
        arguments = _arguments_of(state)
        ExportedPolicy(**arguments, layer=0, cost_coef=0.0)
    return ExportedPolicy(**arguments, layer=layer, cost_coef=cost_coef, metadata=metadata)


def _arguments_of(description: Mapping[str, Any]) -> dict[str, Any]:
    observation = ObservationSpec(**description["observation"])
    sizes = {name: getattr(observation, name) for name in ("dims", "num_layers")}
    for name, size in sizes.items():
        if size > _MAX_SIZE:
            raise ValueError(f"its layers have {name}={size}, more than {_MAX_SIZE}")
    head = HEAD_TYPES[description["head_type"]](observation, **description["head"])
    more = {name: description[name] for name in ("observation_time", "action_scale")}
    return {"observation": observation, "head": head, **more}


def _describe_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _is_description(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"shape", "dtype"}


def _described(nested: Any) -> list[dict[str, Any]]:
    """Return the descriptions of tensors in nested values."""
    return [each for each in tree_leaves(nested, _is_description) if _is_description(each)]


def _make_tensors(described: Any) -> Any:
    """Replace descriptions of tensors by zeros."""

    def make(each: Any) -> Any:
        if not _is_description(each):
            return each
        return torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"]))

    return tree_map(make, described, is_leaf=_is_description)


def _parse_extra_state(state: Any) -> dict[str, Any]:
    with _report_damage():
        description = parse_json(bytes(state.to("cpu", torch.uint8).tolist()))
        if not isinstance(description["metadata"], dict):
            raise TypeError("its metadata is no table")
        return {"format": None} | description


def _report_damage() -> AbstractContextManager[None]:
    return report_damage("the stored controller is damaged", "_extra_state")
