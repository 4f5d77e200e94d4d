"""What an episode is, and what a step changes of it: never in place, so that it can be kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from spangym.attention import LayerCache
from spangym.attention.layers.cached_attention import KeyValueCache

T = TypeVar("T")


@dataclass(frozen=True)
class Episode:
    """What is read in an episode; lanes first.

    Attributes:
        content: Bytes, int64 of shape (lanes, chunks, ctx), or frames, float32 of shape (lanes,
            chunks, ctx, channels).
        targets: What a trained stack is to predict, int64 of shape (lanes, chunks, ctx); None if
            no task is judged.
    """

    content: Tensor
    targets: Tensor | None


@dataclass(frozen=True)
class State:
    """All that a step changes, on the device; lanes first.

    Attributes:
        hidden: Input of the coming layer, shape (lanes, ctx, dims).
        caches: What each layer keeps of the stream.
        seen: What was observed of each layer's last input, shape (lanes, numbers); None before.
        staleness: Chunks since keys, and values, of each layer were computed anew, int64 of shape
            (lanes, layers, 2); None if that is not decided.
        targets: What is to be predicted of the chunk, int64 of shape (lanes, ctx); None if no task
            is judged.
        full_bits: The chunk's loss at full span, shape (lanes,); likewise.
        full_caches: What each layer keeps of the stream at full span.
    """

    hidden: Tensor
    caches: tuple[LayerCache | None, ...]
    seen: tuple[Tensor | None, ...]
    staleness: Tensor | None
    targets: Tensor | None
    full_bits: Tensor | None
    full_caches: tuple[LayerCache | None, ...]


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """A value with the function applied to all tensors in its dataclasses and tuples.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> map_tensors(lambda each: each[:1], episode).content.shape
        torch.Size([1, 3, 4])
    """
    if isinstance(value, Tensor):
        return cast(T, function(value))
    if isinstance(value, tuple):
        return cast(T, tuple(map_tensors(function, each) for each in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: map_tensors(function, getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return cast(T, dataclasses.replace(value, **changed))
    return value


def joined(values: list[T]) -> T:
    """One value of many, all tensors in its dataclasses and tuples joined, lane after lane.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> joined([episode, episode]).content.shape
        torch.Size([4, 3, 4])
    """
    first = values[0]
    if isinstance(first, Tensor):
        return cast(T, torch.cat(cast(list[Tensor], values)))
    if isinstance(first, tuple):
        columns = zip(*cast(list[tuple[Any, ...]], values), strict=True)
        return cast(T, tuple(joined([*column]) for column in columns))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        together = {
            field.name: joined([getattr(each, field.name) for each in values])
            for field in dataclasses.fields(first)
        }
        return cast(T, dataclasses.replace(first, **together))
    return first


def flatten(value: Any, name: str) -> dict[str, Tensor]:
    """All tensors in a value's dataclasses and tuples, by dotted names."""
    if isinstance(value, Tensor):
        return {name: value.clone()}
    parts: Mapping[Any, Any] = {}
    if isinstance(value, tuple):
        parts = dict(enumerate(value))
    elif dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found.update(flatten(part, f"{name}.{key}"))
    return found


class Flattened:
    """Tensors by dotted names, to be put together again.

    Args:
        tensors: What `flatten` gave.
        device: Where the tensors are to be.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._tensors = tensors
        self._device = device

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            KeyError: There is none.
        """
        return self._tensors[name].to(self._device, copy=True)

    def optional(self, name: str) -> Tensor | None:
        """The tensor of that name, None if there is none."""
        return self.tensor(name) if name in self._tensors else None

    def episode(self, name: str) -> Episode:
        """The episode that was flattened under that name."""
        return Episode(self.tensor(f"{name}.content"), self.optional(f"{name}.targets"))

    def state(self, name: str, layers: int) -> State:
        """The state of so many layers that was flattened under that name."""
        return State(
            hidden=self.tensor(f"{name}.hidden"),
            caches=tuple(self._cache(f"{name}.caches.{index}") for index in range(layers)),
            seen=tuple(self.optional(f"{name}.seen.{index}") for index in range(layers)),
            staleness=self.optional(f"{name}.staleness"),
            targets=self.optional(f"{name}.targets"),
            full_bits=self.optional(f"{name}.full_bits"),
            full_caches=tuple(
                self._cache(f"{name}.full_caches.{index}") for index in range(layers)
            ),
        )

    def _cache(self, name: str) -> LayerCache | None:
        if f"{name}.global_mean" not in self._tensors:
            return None
        key_value = None
        if f"{name}.key_value.keys" in self._tensors:
            inside = f"{name}.key_value"
            key_value = KeyValueCache(
                keys=self.tensor(f"{inside}.keys"),
                values=self.tensor(f"{inside}.values"),
                refreshed_keys=self.tensor(f"{inside}.refreshed_keys"),
                refreshed_values=self.tensor(f"{inside}.refreshed_values"),
                lengths=self.optional(f"{inside}.lengths"),
                summary=self.tensor(f"{inside}.summary"),
            )
        return LayerCache(
            key_value, self.tensor(f"{name}.global_mean"), self.tensor(f"{name}.features")
        )
