"""The arguments of an environment, typed and checked: one list for all its faces."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..attention.hints import did_you_mean
from ..attention.options import SpanOptions, check_sizes
from .encodings import ENCODINGS
from .rewards import REWARDS
from .sources import SOURCES, SPLITS


@dataclass(frozen=True)
class Settings:
    """Arguments of a span-control environment.

    Attributes:
        layers: Live layers in the stack.
        dims: Width of the layers; at least 4.
        heads: Attention heads of a layer; divides ``dims``.
        ctx: Tokens in a chunk.
        chunks: Chunks in an episode, which has ``chunks * layers`` steps.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        temp_scale: Strength of the layers' temperature law.
        sharpen: Sharper scores for longer spans (True) or for shorter ones (False).
        weights_seed: Seed of the layers' and the embedding's random weights.
        source: Name of the source of the streams: ``text``.
        split: Part of the source that is read: ``train`` or ``evaluation``.
        reward: Name of the reward: ``quality``.
        price: What one full attention's worth of visited keys costs, in units of reward.
        encoding: Name of the encoding: ``digits``, ``box``, ``features`` or ``state``.
        groups: Groups of dimensions that the features are pooled to first; 0 leaves them.
        layer_index: Whether the observation says which layer is next.
        device: Where the layers run, as torch names it.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument breaks its rule.
    """

    layers: int = 2
    dims: int = 64
    heads: int = 4
    ctx: int = 256
    chunks: int = 8
    win_size: int = 256
    max_span: int = 384
    max_dist: int = 512
    temp_scale: float = 0.01
    sharpen: bool = True
    weights_seed: int = 0
    source: str = "text"
    split: str = "train"
    reward: str = "quality"
    price: float = 0.0
    encoding: str = "digits"
    groups: int = 0
    layer_index: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), type(field.default))
        for name in ("layers", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads < 1 or self.dims % self.heads:
            raise ValueError(f"heads must divide dims, got heads={self.heads}, dims={self.dims}")
        check_sizes(self.ctx, self.dims, self.heads)
        SpanOptions(
            win_size=self.win_size,
            max_span=self.max_span,
            max_dist=self.max_dist,
            temp_scale=self.temp_scale,
            sharpen=self.sharpen,
        )
        if self.groups < 0 or (self.groups and self.dims % self.groups):
            raise ValueError(
                f"groups must divide dims (or be 0: no pooling), got groups={self.groups}, "
                f"dims={self.dims}"
            )
        if not 0 <= self.weights_seed < 2**63:
            raise ValueError(f"weights_seed must be in 0..2**63 - 1, got {self.weights_seed}")
        if not 0 <= self.price < math.inf:
            raise ValueError(f"price must be at least 0 and finite, got {self.price}")
        for name, known in (
            ("source", SOURCES),
            ("split", SPLITS),
            ("reward", REWARDS),
            ("encoding", ENCODINGS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown{did_you_mean(value, known)}")
        check_device(self.device)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Settings:
        """Make settings from keyword arguments.

        Raises:
            TypeError: An argument is unknown; the message names the nearest.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in arguments:
            if name not in known:
                raise TypeError(f"argument {name!r} is unknown{did_you_mean(name, known)}")
        return cls(**arguments)


def _check_type(name: str, value: object, expected: type) -> None:
    number = {int: numbers.Integral, float: numbers.Real}.get(expected, expected)
    if not isinstance(value, number) or (isinstance(value, bool) and expected is not bool):
        raise TypeError(f"{name} must be of type {expected.__name__}, got {value!r}")


def check_device(name: str) -> torch.device:
    """The device of that name, after a look whether it is there.

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        device = torch.device(name)
        # Counts are held in float64, which not every device has.
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {name!r} cannot be used on this machine; it has: {', '.join(there)}"
        ) from error
    return device
