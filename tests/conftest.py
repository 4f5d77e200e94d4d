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

Golden = Callable[..., Any]
"""Opens a recording of the original code by its name, and a key that it must hold."""

# All recordings beside the project, a small part of them within it.
FOLDERS = (Path(__file__).parents[2] / "shared" / "golden", Path(__file__).parent / "golden")


@pytest.fixture
def golden() -> Golden:
    """What the original code computes, recorded."""

    def load(name: str, key: str | None = None) -> Any:
        for path in (folder / f"{name}.npz" for folder in FOLDERS):
            if path.is_file() and (key is None or key in np.load(path)):
                return np.load(path)
        pytest.skip(f"this recording of the original lies only in {FOLDERS[0]}: {name} {key or ''}")

    return load


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
