"""One thread per process, reproducible hypothesis examples, and the golden data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# The same examples in every run, whatever the load of the machine.
settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")

Golden = Callable[[str], Any]
"""Opens a recording of what the original code computes, by its name."""


@pytest.fixture
def golden() -> Golden:
    """Recordings of the original code."""
    folder = Path(__file__).parent / "golden"
    return lambda name: np.load(folder / f"{name}.npz")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
