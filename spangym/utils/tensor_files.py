"""What tables are stored as: flat tensors by name, in a file without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.utils.atomic_io import with_ending, written_whole


def generator_to_tensor(generator: np.random.Generator) -> Tensor:
    """A generator's state as the bytes of a JSON text."""
    text = json.dumps(generator.bit_generator.state)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def set_generator(generator: np.random.Generator, state: Tensor) -> None:
    """Have a generator go on from where `generator_to_tensor` was called.

    Raises:
        ValueError: It is of another kind of generator, or none.
    """
    generator.bit_generator.state = json.loads(bytes(state.tolist()))


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to ``path`` with the ending ``.npz``, all of them or nothing."""
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    with written_whole(with_ending(path, ".npz")) as aside:
        np.savez_compressed(aside, **arrays)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote; needs no pickle."""
    with np.load(with_ending(path, ".npz"), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
