"""Trained agents as controllers of layers: a frozen module, a file, and nothing else needed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from spangym.attention.controllers.lookup import ClusterTable, Table
from spangym.attention.controllers.mlp import Network
from spangym.attention.controllers.policy_heads import Head
from spangym.attention.controllers.protocol import Observes
from spangym.attention.features import features
from spangym.attention.observation_spec import Observation
from spangym.utils.suggestions import did_you_mean

HEADS: dict[str, type[Head]] = {each.kind: each for each in (Network, Table, ClusterTable)}
"""What decides, by the name that files give it."""

_METADATA = "controller"
_FORMAT = 1


class FrozenController(nn.Module):
    """A trained agent that decides for whole batches on the device, and learns nothing.

    It is a `spangym.attention.TensorController`: assign it as the ``refiner`` of any
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
        observes: Whether a decision is made from the ``current`` input or the ``previous``.
        action_scale: That of the layers that the agent was trained in.
        made: How it came about, ready for JSON; for the reader alone. The windows and spans that
            actions stood for are best among it: layers of other ones are not refused, since whether
            shares of those are as good is for the user to judge.

    Raises:
        ValueError: The layer's index is missing or out of range, or a name is unknown.

    Example:
        >>> from spangym.attention import IntegratedAttention
        >>> from spangym.attention.controllers.mlp import Network
        >>> observation = Observation(dims=32, encoding="features")
        >>> network = Network(observation, [torch.eye(10, 64)], [torch.zeros(10)])
        >>> layer = IntegratedAttention(48, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> layer.refiner = FrozenController(observation, network)
        >>> layer(torch.ones(2, 48, 32)).shape
        torch.Size([2, 48, 32])
    """

    place: Tensor
    index: Tensor

    def __init__(
        self,
        observation: Observation,
        head: Head,
        *,
        layer: int | None = None,
        observes: Observes = "current",
        action_scale: str = "relative",
        made: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if observes not in get_args(Observes):
            raise ValueError(
                f"observes {observes!r} is unknown{did_you_mean(str(observes), get_args(Observes))}"
            )
        self.observation = observation
        self.head = head
        self.observes: Observes = observes
        self.action_scale = action_scale
        self.made = dict(made or {})
        self.layer = self._checked_layer(layer)
        # Tensors, lest each layer of a stack be compiled anew.
        place = torch.tensor([[observation.place(self.layer)]], dtype=torch.float64)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("index", torch.tensor([self.layer]), persistent=False)

    def forward(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decide from a layer's normalised input.

        Args:
            local_input: Shape (lanes, tokens, dims).
            lengths: Tokens of each lane that are no padding, shape (lanes,); all if None.

        Returns:
            Actions, int64 of shape (lanes,), on the input's device.
        """
        local_input = local_input.detach()
        found = features(local_input, lengths)
        return self.actions(self.observe(found, local_input, lengths))

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """What is observed of a layer's normalised input.

        Args:
            features: Its means and variances, shape (lanes, 2 * dims).
            local_input: The input, shape (lanes, tokens, dims).
            lengths: Tokens of each lane that are no padding, shape (lanes,); all if None.

        Returns:
            Shape (lanes, numbers).
        """
        return self.observation.observed(features, local_input, lengths)

    def actions(self, observed: Tensor) -> Tensor:
        """Decide from what was observed.

        Args:
            observed: What `observe` gave, shape (lanes, numbers).

        Returns:
            Actions, int64 of shape (lanes,).

        Raises:
            ValueError: It is what another controller observed.
        """
        if observed.shape[-1] != self.observation.width:
            raise ValueError(
                f"{observed.shape[-1]} numbers were observed, this controller reads "
                f"{self.observation.width}: begin the stream without a cache"
            )
        numbers = self.observation.encoded(observed)
        if self.observation.layer_index:
            numbers = torch.cat([numbers, self.place.expand(len(numbers), 1)], dim=-1)
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
        """Write a file that `load_controller` reads: safetensors with a manifest, no pickle."""
        manifest = {
            "format": _FORMAT,
            "observation": dataclasses.asdict(self.observation),
            "observes": self.observes,
            "action_scale": self.action_scale,
            "head": {"kind": self.head.kind, **self.head.settings},
            "made": self.made,
        }
        tensors = {name: each.cpu().contiguous() for name, each in self.head.state_dict().items()}
        # Not by save_file, which lets nobody but the owner read.
        Path(path).write_bytes(save(tensors, {_METADATA: json.dumps(manifest)}))

    def extra_repr(self) -> str:
        """Say what is observed, and where."""
        return f"{self.observation}, observes={self.observes!r}, layer={self.layer}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenController:
        # A layer that is made half precision is to decide as before.
        def kept(tensor: Tensor) -> Tensor:
            done = fn(tensor)
            return done if done.dtype == tensor.dtype else tensor.to(done.device)

        return super()._apply(kept, recurse)

    def _checked_layer(self, layer: int | None) -> int:
        layers = self.observation.layers
        if layer is None:
            if self.observation.layer_index:
                raise ValueError(
                    "this controller observes which layer it decides for: say which, "
                    f"layer=0 to layer={layers - 1}"
                )
            return 0
        if not isinstance(layer, int) or not 0 <= layer < layers:
            raise ValueError(f"layer must be in 0..{layers - 1}, got {layer!r}")
        return layer


def load_controller(path: Path | str, layer: int | None = None) -> FrozenController:
    """Read a controller that ``spangym export`` or `FrozenController.save` wrote.

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
    manifest, tensors = _read(Path(path))
    try:
        observation = Observation(**manifest["observation"])
        settings = dict(manifest["head"])
        head = HEADS[settings.pop("kind")].from_tensors(observation, tensors, settings)
        whole = {name: each.shape for name, each in head.state_dict().items()}
        if whole != {name: each.shape for name, each in tensors.items()}:
            raise ValueError("its tensors are not those of its manifest")
        made = manifest["made"]
        arguments = {name: manifest[name] for name in ("observes", "action_scale")}
        FrozenController(observation, head, layer=0, **arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"controller {str(path)!r} is damaged: {type(error).__name__}: {error}"
        ) from error
    return FrozenController(observation, head, layer=layer, made=made, **arguments)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads(file.metadata()[_METADATA])
            found = manifest["format"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"controller {str(path)!r} is none that `spangym export` wrote, or damaged"
        ) from error
    if found != _FORMAT:
        raise ValueError(
            f"controller {str(path)!r} is of format {found}, this spangym reads {_FORMAT}"
        )
    return manifest, tensors
