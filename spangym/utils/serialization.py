"""The reader and writer of every binary file: safetensors with a JSON header, without pickle.

A *state* is a nesting of dicts, lists, tuples, tensors, arrays and JSON values. The tensors and
arrays are the tensors of the file. The header describes the nesting around them, and may carry
metadata, which can be read without the tensors. A flat dict of tensors needs no description: such
files are plain safetensors files, and plain safetensors files can be read. Identical states give
identical bytes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import describe_error
from spangym.utils.text import printable

SUFFIX = ".safetensors"

_MAX_DEPTH = 200
_ARRAY_KINDS = "biuf"
"""Kinds of NumPy's dtypes that a file may hold: truth values and numbers."""


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
    with _reported_as_damage():
        tensors = load(content)
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        structure = header.get("__metadata__", {}).get("state")
        return tensors if structure is None else _unpack(parse_json(structure), tensors)


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: The text is not JSON, is nested so deeply that no reader could follow, or has
            an integer of thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"its values are nested in more than {_MAX_DEPTH} levels")
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inside for value in values]
    return value


@contextlib.contextmanager
def report_damage(what: str, path: Path | str) -> Iterator[None]:
    """Report whatever the content of a file makes readers raise as a `ValueError`, in one line.

    A file may be damaged, of another kind, or crafted. An `OSError` passes: the file cannot be read
    at all.

    Args:
        what: Start of the message, for example ``controller 'a.safetensors' is damaged``.
        path: The file; an error that names it already passes, too.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # Wrong values fail wherever they are used first.
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        message = printable(" ".join(str(error).split()))
        raise ValueError(f"{what}: {type(error).__name__}: {message:.1000}") from error


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
        with _reported_as_damage(), safe_open(path, framework="pt") as file:
            metadata = parse_json((file.metadata() or {}).get("metadata", "{}"))
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged, or not written by spangym (its metadata is no table)")
    return metadata


@contextlib.contextmanager
def _reported_as_damage() -> Iterator[None]:
    try:
        yield
    except (SafetensorError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"damaged, or not written by spangym ({error})") from error
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"damaged, or not written by spangym ({describe_error(error)})") from error


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
    if isinstance(value, np.ndarray) and value.dtype.kind in _ARRAY_KINDS:
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
        if not re.fullmatch(rf"[<>|][{_ARRAY_KINDS}]\d+", packed["dtype"]):
            raise ValueError(f"an array has the dtype {packed['dtype']!r}")
        return tensors[packed["array"]].numpy().view(packed["dtype"]).reshape(packed["shape"])
    if "dict" in packed:
        return {_unpack(key, tensors): _unpack(each, tensors) for key, each in packed["dict"]}
    if "list" in packed:
        return [_unpack(each, tensors) for each in packed["list"]]
    return tuple(_unpack(each, tensors) for each in packed["tuple"])
