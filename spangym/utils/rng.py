"""The global generators of Python, NumPy and PyTorch, from which libraries' agents draw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def get_global_rng_state() -> dict[str, Any]:
    """States of the global generators."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (theirs, not ours)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_global_rng_state(states: dict[str, Any]) -> None:
    """Put the global generators back where `get_global_rng_state` found them."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
