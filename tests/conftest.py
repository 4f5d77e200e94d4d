"""One thread per process, reproducible hypothesis examples, a cache folder, the golden data."""

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests, so that the user's stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SPANGYM_CACHE", str(folder))
        yield folder


@pytest.fixture
def golden() -> Golden:
    """Recordings of the original code."""
    folder = Path(__file__).parent / "golden"
    return lambda name: np.load(folder / f"{name}.npz")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
