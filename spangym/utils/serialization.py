"""The reader and writer of every binary file: safetensors with a JSON header, without pickle.

A *state* is a nesting of dicts, lists, tuples, tensors, arrays and JSON values. The tensors and
arrays are the tensors of the file. The header describes the nesting around them, and may carry
metadata, which can be read without the tensors. A flat dict of tensors needs no description: such
files are plain safetensors files, and plain safetensors files can be read. Identical states give
identical bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from spangym.utils.atomic_io import atomic_write

SUFFIX = ".safetensors"

_ERRORS = (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError)


def to_bytes(state: Any, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file with a state, and with JSON metadata in its header.

    Raises:
        TypeError: The state holds a value that only pickle can store; the message says where.

    Example:
        >>> from_bytes(to_bytes({"steps": 3, 7: (np.arange(2), torch.ones(1))}))
        {'steps': 3, 7: (array([0, 1]), tensor([1.]))}
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(state, tensors, "")
    header = {}
    if _is_flat(state):
        tensors = dict(zip(state, tensors.values(), strict=True))
    else:
        header["state"] = json.dumps(structure)
    if metadata is not None:
        header["metadata"] = json.dumps(metadata)
    return save(tensors, header or None)


def from_bytes(content: bytes) -> Any:
    """Restore the state of which `to_bytes` gave the content; tensors are on the CPU.

    Raises:
        ValueError: The content is damaged or of another format.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        structure = header.get("__metadata__", {}).get("state")
        return tensors if structure is None else _unpack(json.loads(structure), tensors)
    except _ERRORS as error:
        raise ValueError(f"damaged, or not written by spangym ({error})") from error


def save_state(path: Path, state: Any, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state to a file, atomically.

    Raises:
        TypeError: The state holds a value that only pickle can store.
    """
    content = to_bytes(state, metadata)
    with atomic_write(path) as tmp:
        tmp.write_bytes(content)


def load_state(path: Path) -> Any:
    """Read a state from a file; tensors are on the CPU.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or of another format; the message names it.
    """
    try:
        return from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error


def load_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a file without its tensors; empty if it has none.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or of another format; the message names it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("metadata", "{}"))
    except _ERRORS as error:
        raise ValueError(f"{path} is damaged, or not written by spangym ({error})") from error


def is_serializable(value: Any) -> bool:
    """Whether a state may hold the value.

    Example:
        >>> is_serializable([1, {"a": np.zeros(2)}]), is_serializable(print)
        (True, False)
    """
    try:
        _pack(value, {}, "")
    except TypeError:
        return False
    return True


def _is_flat(state: Any) -> bool:
    return isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )


def _pack(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Convert a value to JSON, in which the names of tensors stand for them."""

    def register(tensor: Tensor) -> str:
        # Paths alone are not unique, since keys may contain dots.
        name = f"{len(tensors)}{where}"
        tensors[name] = tensor
        return name

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # As bytes, since torch does not have all dtypes of NumPy.
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy()
        name = register(torch.from_numpy(raw))
        return {"array": name, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Tensor):
        return {"tensor": register(value.detach().cpu().contiguous().clone())}
    if isinstance(value, dict):
        pairs = [
            [_pack(key, tensors, ""), _pack(each, tensors, f"{where}.{key}")]
            for key, each in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        packed = [_pack(each, tensors, f"{where}.{index}") for index, each in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": packed}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(
        f"{where.lstrip('.') or 'the state'} is a {type(value).__name__}: only tensors, arrays, "
        "dicts, lists, tuples, text and numbers can be stored"
    )


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "array" in packed:
        return tensors[packed["array"]].numpy().view(packed["dtype"]).reshape(packed["shape"])
    if "dict" in packed:
        return {_unpack(key, tensors): _unpack(each, tensors) for key, each in packed["dict"]}
    if "list" in packed:
        return [_unpack(each, tensors) for each in packed["list"]]
    return tuple(_unpack(each, tensors) for each in packed["tuple"])
