"""What tables are stored as: flat tensors by name, in a file without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.utils.atomic_io import atomic_write, ensure_suffix


def rng_to_tensor(generator: np.random.Generator) -> Tensor:
    """A generator's state as the bytes of a JSON text."""
    text = json.dumps(generator.bit_generator.state)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def rng_from_tensor(generator: np.random.Generator, state: Tensor) -> None:
    """Have a generator go on from where `rng_to_tensor` was called.

    Raises:
        ValueError: It is of another kind of generator, or none.
    """
    generator.bit_generator.state = json.loads(bytes(state.tolist()))


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to ``path`` with the ending ``.npz``, all of them or nothing."""
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    with atomic_write(ensure_suffix(path, ".npz")) as tmp:
        np.savez_compressed(tmp, **arrays)


def load_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote; needs no pickle."""
    with np.load(ensure_suffix(path, ".npz"), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
