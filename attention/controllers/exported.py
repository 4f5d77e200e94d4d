"""Trained agents as controllers of layers: a frozen module, a file, and nothing else needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from spangym.attention.controllers.lookup import KMeansPolicy, LookupPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.controllers.policy_heads import PolicyHead
from spangym.attention.controllers.protocol import ObservationTime
from spangym.attention.features import token_moments
from spangym.attention.observation_spec import ObservationSpec
from spangym.utils.serialization import load_metadata, load_state, save_state
from spangym.utils.suggestions import did_you_mean

HEAD_TYPES: dict[str, type[PolicyHead]] = {
    each.head_type: each for each in (MLPPolicy, LookupPolicy, KMeansPolicy)
}
"""What decides, by the name that files give it."""

_FORMAT = 1


class ExportedPolicy(nn.Module):
    """A trained agent that decides for whole batches on the device, and learns nothing.

    It is a `spangym.attention.BatchController`: assign it as the ``refiner`` of any
    `IntegratedAttention`. `load_controller` reads one from a file.

    It picks the actions that the agent picks in its environment. In particular one that was trained
    with ``observe="current"`` decides from the whole of its input even where the layer is causal,
    which leaks a few bits of a chunk's future into its past; one trained with
    ``observe="previous"`` reads the pass before, which the layer's cache holds, and where there is
    none the first token.

    It holds buffers only, which keep their types where a layer is made half or double precision.

    Args:
        observation: What is observed.
        head: What decides.
        layer: Index of the layer in the agent's stack. It is needed where the agent observes it.
        observation_time: Whether a decision is made from the ``current`` input or the ``previous``.
        action_scale: That of the layers that the agent was trained in.
        metadata: How it came about, ready for JSON; for the reader alone. The windows and spans that
            actions stood for are best among it: layers of other ones are not refused, since whether
            shares of those are as good is for the user to judge.

    Raises:
        ValueError: The layer's index is missing or out of range, or a name is unknown.

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
    index: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        head: PolicyHead,
        *,
        layer: int | None = None,
        observation_time: ObservationTime = "current",
        action_scale: str = "relative",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if observation_time not in get_args(ObservationTime):
            raise ValueError(
                f"observation_time {observation_time!r} is unknown{did_you_mean(str(observation_time), get_args(ObservationTime))}"
            )
        self.observation = observation
        self.head = head
        self.observation_time: ObservationTime = observation_time
        self.action_scale = action_scale
        self.metadata = dict(metadata or {})
        self.layer = self._checked_layer(layer)
        # Tensors, lest each layer of a stack be compiled anew.
        layer_feature = torch.tensor(
            [[observation.encode_layer_index(self.layer)]], dtype=torch.float64
        )
        self.register_buffer("layer_feature", layer_feature, persistent=False)
        self.register_buffer("index", torch.tensor([self.layer]), persistent=False)

    def forward(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decide from a layer's normalized input.

        Args:
            local_input: Shape (batch, tokens, dims).
            lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

        Returns:
            Actions, int64 of shape (batch,), on the input's device.
        """
        local_input = local_input.detach()
        features = token_moments(local_input, lengths)
        return self.actions(self.observe(features, local_input, lengths))

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """What is observed of a layer's normalized input.

        Args:
            features: Its means and variances, shape (batch, 2 * dims).
            local_input: The input, shape (batch, tokens, dims).
            lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

        Returns:
            Shape (batch, numbers).
        """
        return self.observation.extract(features, local_input, lengths)

    def actions(self, obs: Tensor) -> Tensor:
        """Decide from what was observed.

        Args:
            obs: What `observe` gave, shape (batch, numbers).

        Returns:
            Actions, int64 of shape (batch,).

        Raises:
            ValueError: It is what another controller observed.
        """
        if obs.shape[-1] != self.observation.num_features:
            raise ValueError(
                f"{obs.shape[-1]} numbers were observed, this controller reads "
                f"{self.observation.num_features}: begin the stream without a cache"
            )
        numbers = self.observation.encode_features(obs)
        if self.observation.include_layer_index:
            numbers = torch.cat([numbers, self.layer_feature.expand(len(numbers), 1)], dim=-1)
        return self.head(numbers, self.index)

    def check(self, dims: int, action_scale: str) -> None:
        """Refuse a layer that the agent's decisions would mean nothing in.

        Args:
            dims: Width of the layer.
            action_scale: What its actions are shares of.

        Raises:
            ValueError: They are others than the agent's.
        """
        if dims != self.observation.dims:
            raise ValueError(
                f"refiner is for layers of dims {self.observation.dims}, this layer has {dims}"
            )
        if action_scale != self.action_scale:
            raise ValueError(
                f"refiner was trained in layers of action_scale {self.action_scale!r}, this layer "
                f"has {action_scale!r}"
            )

    def save(self, path: Path | str) -> None:
        """Write a file that `load_controller` reads."""
        state = {
            "format": _FORMAT,
            "observation": dataclasses.asdict(self.observation),
            "observation_time": self.observation_time,
            "action_scale": self.action_scale,
            "head_type": self.head.head_type,
            "head": self.head.arguments,
        }
        save_state(Path(path), state, self.metadata)

    def extra_repr(self) -> str:
        """Say what is observed, and where."""
        return f"{self.observation}, observation_time={self.observation_time!r}, layer={self.layer}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExportedPolicy:
        # A layer that is made half precision is to decide as before.
        def kept(tensor: Tensor) -> Tensor:
            done = fn(tensor)
            return done if done.dtype == tensor.dtype else tensor.to(done.device)

        return super()._apply(kept, recurse)

    def _checked_layer(self, layer: int | None) -> int:
        layers = self.observation.num_layers
        if layer is None:
            if self.observation.include_layer_index:
                raise ValueError(
                    "this controller observes which layer it decides for: say which, "
                    f"layer=0 to layer={layers - 1}"
                )
            return 0
        if not isinstance(layer, int) or not 0 <= layer < layers:
            raise ValueError(f"layer must be in 0..{layers - 1}, got {layer!r}")
        return layer


def load_controller(path: Path | str, layer: int | None = None) -> ExportedPolicy:
    """Read a controller that ``spangym export`` or `ExportedPolicy.save` wrote.

    Args:
        path: The file.
        layer: Index of the layer that it is to control, in the stack that the agent was trained
            in. It is needed where the agent observes it.

    Returns:
        The controller, on the CPU; ``layer.refiner = controller`` makes it part of a layer.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or another kind of file, or the layer's index is missing or out
            of range.
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
            f"controller {str(path)!r} has format {version}; this version of spangym reads format "
            f"{_FORMAT}"
        )
    try:
        observation = ObservationSpec(**state["observation"])
        head = HEAD_TYPES[state["head_type"]](observation, **state["head"])
        arguments = {name: state[name] for name in ("observation_time", "action_scale")}
        ExportedPolicy(observation, head, layer=0, **arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"controller {str(path)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    return ExportedPolicy(observation, head, layer=layer, metadata=metadata, **arguments)
