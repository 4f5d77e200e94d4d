"""Trained layers in files: safetensors that carry a metadata of how they were made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.utils import serialization
from spangym.utils.serialization import SUFFIX, load_state, to_bytes
from spangym.utils.suggestions import did_you_mean
from spangym.utils.text import collapse_whitespace


def builtin_checkpoints() -> dict[str, Path]:
    """Files of trained layers that come with the package, by name."""
    with resources.as_file(resources.files("spangym.envs") / "weights") as folder:
        return {each.stem: each for each in sorted(folder.glob(f"*{SUFFIX}"))}


def serialize(stack: TransformerStack, metadata: dict[str, Any]) -> bytes:
    """A stack's weights, with its sizes and metadata, as the content of a file.

    Args:
        stack: The stack.
        metadata: How it was made, ready for JSON.
    """
    return to_bytes(stack.state_dict(), {"model": dataclasses.asdict(stack.config), **metadata})


def load_metadata(name: str) -> dict[str, Any]:
    """How trained layers were made.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    return _read(_find(name))


def load_config(name: str) -> TransformerConfig:
    """Sizes of trained layers.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    try:
        return TransformerConfig(**load_metadata(name)["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"weights {name!r} are none that `spangym pretrain` wrote: they lack their sizes"
        ) from error


def load_stack(name: str) -> TransformerStack:
    """Trained layers, on the CPU, in eval mode and without gradients.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    path = _find(name)
    stack = TransformerStack(load_config(name), torch.Generator())
    try:
        stack.load_state_dict(load_state(path))
    except (RuntimeError, ValueError) as error:
        message = collapse_whitespace(str(error))
        raise ValueError(f"weights {str(path)!r} are damaged: {message}") from error
    return stack.eval().requires_grad_(False)


def weights_sha256(name: str) -> str:
    """SHA-256 of a file of trained layers."""
    return hashlib.sha256(_find(name).read_bytes()).hexdigest()


def _find(name: str) -> Path:
    shipped = builtin_checkpoints()
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"weights {name!r} are neither shipped nor a file{did_you_mean(name, shipped)}"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return _read_version(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=32)
def _read_version(path: Path, *_: int) -> dict[str, Any]:
    """The metadata; of a file that was written anew it is read anew."""
    try:
        return serialization.load_metadata(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights {str(path)!r} are none that `spangym pretrain` wrote") from error
