"""Trained layers in safetensors files with a JSON header of how they were trained."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from spangym.envs.model.cache_transformer import CacheTransformer
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.utils import serialization
from spangym.utils.serialization import SUFFIX, load_state, report_damage, to_bytes
from spangym.utils.suggestions import did_you_mean

T = TypeVar("T", bound=nn.Module)

_BYTES_PER_WEIGHT = 2
"""Fewest bytes of a stored weight."""


def builtin_checkpoints() -> dict[str, Path]:
    """Return the files of the shipped layers by name."""
    with resources.as_file(resources.files("spangym.envs") / "weights") as folder:
        return {each.stem: each for each in sorted(folder.glob(f"*{SUFFIX}"))}


def serialize(stack: TransformerStack | CacheTransformer, metadata: dict[str, Any]) -> bytes:
    """Return a model's weights, sizes and metadata (JSON values) as the content of a file."""
    return to_bytes(stack.state_dict(), {"model": dataclasses.asdict(stack.config), **metadata})


def load_metadata(name: str) -> dict[str, Any]:
    """Read how layers were trained.

    Args:
        name: A shipped name, or a file.

    Raises:
        ValueError: There is no such file, or ``spangym pretrain`` did not write it.
    """
    path = _find(name)
    stat = path.stat()
    return _read_metadata(path, stat.st_mtime_ns, stat.st_size)


def load_config(name: str) -> TransformerConfig | CacheTransformerConfig:
    """Read the sizes of trained layers; see `load_metadata`."""
    metadata = load_metadata(name)
    try:
        sizes = metadata["model"]
        cls = CacheTransformerConfig if "block" in sizes else TransformerConfig
        config = cls(**sizes)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {name!r} lacks the model's sizes: make it with `spangym pretrain`"
        ) from error
    # Sizes that are not those of the weights could ask for any amount of memory.
    least = config.dims * max(config.dims, config.hidden, config.num_classes)
    if isinstance(config, TransformerConfig):
        least = config.dims * max(config.ctx, config.num_layers * config.dims, least // config.dims)
    size = _find(name).stat().st_size
    if _BYTES_PER_WEIGHT * least > size:
        rule = f"its {size} bytes hold fewer weights than its sizes say"
        raise ValueError(f"checkpoint {name!r} is damaged: {rule}")
    return config


def load_stack(name: str, **laws: Any) -> TransformerStack:
    """Load trained layers on the CPU, in eval mode and without gradients; see `load_metadata`.

    ``laws`` may replace the ``temperature_law`` and ``temp_scale`` of the training.
    """
    config = load_config(name)
    if not isinstance(config, TransformerConfig):
        raise ValueError(f"checkpoint {name!r} reads in blocks: its layers have no spans")
    config = dataclasses.replace(config, **laws)
    return _load_weights(name, lambda: TransformerStack(config, torch.Generator()))


def load_cache_transformer(name: str) -> CacheTransformer:
    """Load a trained model that reads in blocks, like `load_stack`."""
    config = load_config(name)
    if not isinstance(config, CacheTransformerConfig):
        raise ValueError(f"checkpoint {name!r} does not read in blocks: use load_stack()")
    return _load_weights(name, lambda: CacheTransformer(config, torch.Generator()))


def _load_weights(name: str, make: Callable[[], T]) -> T:
    path = _find(name)
    with report_damage(f"checkpoint {str(path)!r} is damaged", path):
        model = make()
        model.load_state_dict(load_state(path))
    return model.eval().requires_grad_(False)


def weights_sha256(name: str) -> str:
    """Return the SHA-256 of a file of trained layers."""
    return hashlib.sha256(_find(name).read_bytes()).hexdigest()


def _find(name: str) -> Path:
    shipped = builtin_checkpoints()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        hint = did_you_mean(name, shipped)
        raise ValueError(f"checkpoint {name!r} is neither shipped nor a file{hint}")
    return path


@functools.lru_cache(maxsize=32)
def _read_metadata(path: Path, *_version: int) -> dict[str, Any]:
    try:
        return serialization.load_metadata(path)
    except (OSError, ValueError) as error:
        message = f"checkpoint {str(path)!r} was not written by `spangym pretrain`"
        raise ValueError(message) from error
