"""States of random generators."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.utils.scalars import as_int

Seed = int | np.random.Generator | None
"""Seed of a generator, or the generator itself; None for the system's entropy."""


def make_generator(seed: Seed) -> np.random.Generator:
    """Make a generator; a seed that is no integer raises a TypeError."""
    if not isinstance(seed, np.random.Generator | None):
        seed = as_int("seed", seed, 0)
    return np.random.default_rng(seed)


def get_global_rng_state() -> dict[str, Any]:
    """States of the global generators of Python, NumPy and PyTorch."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (libraries draw from it)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_global_rng_state(states: dict[str, Any]) -> None:
    """Restore the states that `get_global_rng_state` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def rng_to_tensor(generator: np.random.Generator) -> Tensor:
    """The state of a generator as the bytes of a JSON text, uint8."""
    text = json.dumps(generator.bit_generator.state)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def rng_from_tensor(generator: np.random.Generator, state: Tensor) -> None:
    """Restore the state that `rng_to_tensor` returned.

    Raises:
        ValueError: The state is damaged, or of another kind of generator.
    """
    generator.bit_generator.state = json.loads(bytes(state.tolist()))
