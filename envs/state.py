"""The state of an episode: immutable dataclasses of tensors, and functions on such trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from spangym.attention import LayerCache
from spangym.attention.layers.cached_attention import KeyValueCache
from spangym.attention.layers.local_global import ControllerInput
from spangym.envs.model.block_cache import BlockCache
from spangym.utils.readable_repr import readable_repr

T = TypeVar("T")

Cache = LayerCache | BlockCache
"""What a layer, or a decision about a document, passes on."""


@dataclass(frozen=True)
class Episode:
    """The content of an episode.

    Attributes:
        content: Bytes, int64 of shape (num_envs, chunks, ctx), or frames, float32 of shape
            (num_envs, chunks, ctx, channels).
        targets: Target classes of a trained stack, int64 of shape (num_envs, chunks, ctx); None
            without a task.
        cost_coef: Cost coefficient of the episode, float32 of shape (num_envs,); None where it is
            neither drawn nor observed.
    """

    __repr__ = readable_repr

    content: Tensor
    targets: Tensor | None
    cost_coef: Tensor | None = None


class Prepared(Protocol):
    """The part of a layer's pass that does not depend on its span, a tree of tensors.

    Of layers of this project it is a `spangym.attention.layers.local_global.PreparedInput`.
    """

    @property
    def observed(self) -> ControllerInput:
        """Normalized input of the layer and its features."""
        ...


@dataclass(frozen=True)
class State:
    """Everything that a step changes, on the device; the first dimension is the environment.

    Attributes:
        hidden: Input of the next layer, shape (num_envs, ctx, dims).
        caches: Cache of each layer's last chunk; None before the first. Where a layer is a decision
            about the cache of a document, that of the next decision is what it may trim.
        prev_features: Observation features of each layer's last input, shape (num_envs, numbers);
            None before the first.
        staleness: Chunks since the keys, and the values, of each layer were recomputed, int64 of
            shape (num_envs, layers, 2); None unless recomputation is an action.
        targets: Target classes of the chunk, int64 of shape (num_envs, ctx); None without a task.
        full_span_loss: Loss of the chunk at full span in bits a target, shape (num_envs,), or that
            of each layer's step, (num_envs, layers); None without a task.
        full_outputs: Final outputs of the chunk at full span, shape (num_envs, tokens, numbers);
            None unless the reward compares them.
        full_caches: Like ``caches``, of the stack at full span.
        prepared: The part of the next layer's pass that does not depend on its span; None where it
            is not computed yet.
        weights_version: Version of the layer's weights that computed it.
        cost_coef: See `Episode`.
    """

    __repr__ = readable_repr

    hidden: Tensor
    caches: tuple[Cache | None, ...]
    prev_features: tuple[Tensor | None, ...]
    staleness: Tensor | None
    targets: Tensor | None
    full_span_loss: Tensor | None
    full_outputs: Tensor | None
    full_caches: tuple[Cache | None, ...]
    prepared: Prepared | None = None
    weights_version: int | None = None
    cost_coef: Tensor | None = None


def tree_map(function: Callable[..., Tensor], tree: T, *others: T) -> T:
    """Apply a function to all tensors in nested dataclasses and tuples.

    Args:
        function: Called with a tensor of ``tree`` and the tensors at the same place in ``others``.
        tree: Nested dataclasses and tuples; other leaves are kept.
        *others: Trees of the same structure.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> tree_map(lambda each: each[:1], episode).content.shape
        torch.Size([1, 3, 4])
    """
    if isinstance(tree, Tensor):
        return cast(T, function(tree, *others))
    if isinstance(tree, tuple):
        columns = zip(tree, *cast(Any, others), strict=True)
        return cast(T, tuple(tree_map(function, *column) for column in columns))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changes = {
            field.name: tree_map(function, *(getattr(each, field.name) for each in (tree, *others)))
            for field in dataclasses.fields(tree)
        }
        return cast(T, dataclasses.replace(tree, **changes))
    return tree


def concat_trees(trees: list[T]) -> T:
    """Concatenate all tensors of trees of the same structure, environment after environment.

    Example:
        >>> episode = Episode(torch.zeros(2, 3, 4), None)
        >>> concat_trees([episode, episode]).content.shape
        torch.Size([4, 3, 4])
    """
    return tree_map(lambda *tensors: torch.cat(tensors), *trees)


def select_row(tree: T, row: int) -> T:
    """Select one environment of all tensors in a tree, as views with a first dimension of 1."""
    return tree_map(lambda each: each[row : row + 1], tree)


def select_rows(tree: T, rows: Tensor) -> T:
    """Select environments of all tensors in a tree by index, as copies.

    Example:
        >>> episode = Episode(torch.arange(3).view(3, 1, 1), None)
        >>> select_rows(episode, torch.tensor([2, 2, 0])).content.flatten().tolist()
        [2, 2, 0]
    """
    return tree_map(lambda each: each[rows], tree)


def repeat_rows(tree: T, times: int) -> T:
    """Repeat each environment of all tensors in a tree; a single one as views.

    Example:
        >>> episode = Episode(torch.arange(2).view(2, 1, 1), None)
        >>> repeat_rows(episode, 3).content.flatten().tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def repeat(each: Tensor) -> Tensor:
        return each[:, None].expand(-1, times, *each.shape[1:]).flatten(0, 1)

    return tree_map(repeat, tree)


def state_to_dict(state: State) -> dict[str, Any]:
    """Convert a state to nested dicts; ``prepared``, which can be computed again, is left out."""
    values = dataclasses.asdict(dataclasses.replace(state, prepared=None))
    del values["prepared"], values["weights_version"]
    return values


def state_from_dict(values: Mapping[str, Any]) -> State:
    """Restore a state of which `state_to_dict` gave the values."""

    def restore(cache: Mapping[str, Any] | None) -> Cache | None:
        if cache is None:
            return None
        if "is_held" in cache:
            return BlockCache(**cache)
        key_value = cache["key_value"] and KeyValueCache(**cache["key_value"])
        return LayerCache(**{**cache, "key_value": key_value})

    caches = {name: tuple(map(restore, values[name])) for name in ("caches", "full_caches")}
    return State(**{**values, **caches})
