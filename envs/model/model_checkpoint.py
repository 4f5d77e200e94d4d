"""Trained layers in files: safetensors that carry a manifest of how they were made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from spangym.envs.model.stack import BlockSizes, BlockStack
from spangym.utils.suggestions import did_you_mean

ENDING = ".safetensors"
_MANIFEST = "manifest"


def shipped_weights() -> dict[str, Path]:
    """Files of trained layers that come with the package, by name."""
    with resources.as_file(resources.files("spangym.envs") / "weights") as folder:
        return {each.stem: each for each in sorted(folder.glob(f"*{ENDING}"))}


def to_bytes(stack: BlockStack, manifest: dict[str, Any]) -> bytes:
    """A stack's weights, with its sizes and a manifest, as the content of a file.

    Args:
        stack: The stack.
        manifest: How it was made, ready for JSON.
    """
    content = {"sizes": dataclasses.asdict(stack.sizes), **manifest}
    tensors = {name: each.detach().cpu() for name, each in stack.state_dict().items()}
    return save(tensors, metadata={_MANIFEST: json.dumps(content)})


def read_manifest(name: str) -> dict[str, Any]:
    """How trained layers were made.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    return _read(_find(name))


def read_sizes(name: str) -> BlockSizes:
    """Sizes of trained layers.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    try:
        return BlockSizes(**read_manifest(name)["sizes"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"weights {name!r} are none that `spangym pretrain` wrote: they lack their sizes"
        ) from error


def load_stack(name: str) -> BlockStack:
    """Trained layers, on the CPU, in eval mode and without gradients.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or it is none of trained layers.
    """
    path = _find(name)
    stack = BlockStack(read_sizes(name), torch.Generator())
    try:
        with safe_open(path, framework="pt") as file:
            stack.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"weights {str(path)!r} are damaged: {_in_a_line(error)}") from error
    return stack.eval().requires_grad_(False)


def weights_sha256(name: str) -> str:
    """SHA-256 of a file of trained layers."""
    return hashlib.sha256(_find(name).read_bytes()).hexdigest()


def _find(name: str) -> Path:
    shipped = shipped_weights()
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
    """The manifest; of a file that was written anew it is read anew."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()[_MANIFEST])
    except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"weights {str(path)!r} are none that `spangym pretrain` wrote") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
