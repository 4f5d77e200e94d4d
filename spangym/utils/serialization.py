"""Nested values as one file without pickle: tensors by safetensors, all else as JSON.

A tree is made of dicts, lists, tuples, tensors, arrays, and what JSON can hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spangym.utils.atomic_io import atomic_write

_ENTRY = "tree"
_PLAIN = (str, int, float, bool, type(None))


def to_bytes(tree: Any) -> bytes:
    """A tree as the bytes of a safetensors file.

    Raises:
        TypeError: It holds what can be stored by pickle only; the message says where.

    Example:
        >>> from_bytes(to_bytes({"steps": 3, 7: (np.arange(2), torch.ones(1))}))
        {'steps': 3, 7: (array([0, 1]), tensor([1.]))}
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, tensors, "")
    return save(tensors, {_ENTRY: json.dumps(skeleton)})


def from_bytes(content: bytes) -> Any:
    """The tree of which `to_bytes` made the bytes; tensors are on the CPU.

    Raises:
        ValueError: The bytes are not of a tree.
    """
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        return _unpack(json.loads(metadata[_ENTRY]), tensors)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"it is damaged, or not what was written here: {error}") from error


def save_state(path: Path, tree: Any) -> None:
    """Write a tree, whole or not at all.

    Raises:
        TypeError: It holds what can be stored by pickle only.
    """
    content = to_bytes(tree)
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; needs no pickle.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, or another kind of file.
    """
    try:
        return from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_serializable(value: Any) -> bool:
    """Whether a tree may hold the value.

    Example:
        >>> is_serializable([1, {"a": np.zeros(2)}]), is_serializable(print)
        (True, False)
    """
    try:
        _pack(value, {}, "")
    except TypeError:
        return False
    return True


def _pack(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """The value as JSON; its tensors are put aside, named by the place where they stood."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        array = np.ascontiguousarray(value)
        # Bytes, since torch does not know every type of NumPy's.
        raw = torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
        name = _register(tensors, where, raw)
        return {"array": name, "dtype": array.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Tensor):
        return {"tensor": _register(tensors, where, value.detach().cpu().contiguous().clone())}
    if isinstance(value, dict):
        pairs = [
            [_pack(key, tensors, ""), _pack(each, tensors, f"{where}.{key}")]
            for key, each in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        packed = [_pack(each, tensors, f"{where}.{index}") for index, each in enumerate(value)]
        return {kind: packed}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(
        f"{where.lstrip('.') or 'it'} is a {type(value).__name__}: only tensors, arrays, dicts, "
        "lists, tuples, text and numbers are stored"
    )


def _register(tensors: dict[str, Tensor], where: str, tensor: Tensor) -> str:
    """Put a tensor aside; keys may have dots in them, so that a place alone is no name."""
    name = f"{len(tensors)}{where}"
    tensors[name] = tensor
    return name


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "array" in packed:
        flat = tensors[packed["array"]].numpy().view(packed["dtype"])
        return flat.reshape(packed["shape"])
    if "dict" in packed:
        return {_unpack(key, tensors): _unpack(each, tensors) for key, each in packed["dict"]}
    if "list" in packed:
        return [_unpack(each, tensors) for each in packed["list"]]
    return tuple(_unpack(each, tensors) for each in packed["tuple"])
