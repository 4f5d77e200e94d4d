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
    """What is read in an episode; environments first.

    Attributes:
        content: Bytes, int64 of shape (num_envs, chunks, ctx), or frames, float32 of shape (num_envs,
            chunks, ctx, channels).
        targets: What a trained stack is to predict, int64 of shape (num_envs, chunks, ctx); None if
            no task is judged.
    """

    content: Tensor
    targets: Tensor | None


@dataclass(frozen=True)
class State:
    """All that a step changes, on the device; environments first.

    Attributes:
        hidden: Input of the coming layer, shape (num_envs, ctx, dims).
        caches: What each layer keeps of the stream.
        prev_features: What was observed of each layer's last input, shape (num_envs, numbers); None before.
        staleness: Chunks since keys, and values, of each layer were computed anew, int64 of shape
            (num_envs, layers, 2); None if that is not decided.
        targets: What is to be predicted of the chunk, int64 of shape (num_envs, ctx); None if no task
            is judged.
        full_span_loss: The chunk's loss at full span, shape (num_envs,); likewise.
        full_caches: What each layer keeps of the stream at full span.
    """

    hidden: Tensor
    caches: tuple[LayerCache | None, ...]
    prev_features: tuple[Tensor | None, ...]
    staleness: Tensor | None
    targets: Tensor | None
    full_span_loss: Tensor | None
    full_caches: tuple[LayerCache | None, ...]


def tree_map(function: Callable[[Tensor], Tensor], value: T) -> T:
    """A value with the function applied to all tensors in its dataclasses and tuples.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> tree_map(lambda each: each[:1], episode).content.shape
        torch.Size([1, 3, 4])
    """
    if isinstance(value, Tensor):
        return cast(T, function(value))
    if isinstance(value, tuple):
        return cast(T, tuple(tree_map(function, each) for each in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: tree_map(function, getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return cast(T, dataclasses.replace(value, **changed))
    return value


def concat_trees(values: list[T]) -> T:
    """One value of many, all tensors in its dataclasses and tuples joined, environment after environment.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> concat_trees([episode, episode]).content.shape
        torch.Size([4, 3, 4])
    """
    first = values[0]
    if isinstance(first, Tensor):
        return cast(T, torch.cat(cast(list[Tensor], values)))
    if isinstance(first, tuple):
        columns = zip(*cast(list[tuple[Any, ...]], values), strict=True)
        return cast(T, tuple(concat_trees([*column]) for column in columns))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        merged = {
            field.name: concat_trees([getattr(each, field.name) for each in values])
            for field in dataclasses.fields(first)
        }
        return cast(T, dataclasses.replace(first, **merged))
    return first


def tree_flatten(value: Any, name: str) -> dict[str, Tensor]:
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
        found.update(tree_flatten(part, f"{name}.{key}"))
    return found


class TreeReader:
    """Tensors by dotted names, to be put merged again.

    Args:
        tensors: What `tree_flatten` gave.
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
            prev_features=tuple(
                self.optional(f"{name}.prev_features.{index}") for index in range(layers)
            ),
            staleness=self.optional(f"{name}.staleness"),
            targets=self.optional(f"{name}.targets"),
            full_span_loss=self.optional(f"{name}.full_span_loss"),
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
                recomputed_keys=self.tensor(f"{inside}.recomputed_keys"),
                recomputed_values=self.tensor(f"{inside}.recomputed_values"),
                lengths=self.optional(f"{inside}.lengths"),
                mean_token=self.tensor(f"{inside}.mean_token"),
            )
        return LayerCache(
            key_value, self.tensor(f"{name}.global_mean"), self.tensor(f"{name}.obs_features")
        )
