"""One thread a process: what trials run with, and what keeps the tests deterministic."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


@pytest.fixture
def golden() -> Path:
    """Folder of what the original code computes."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the recorded original is not beside the project ({GOLDEN})")
    return GOLDEN


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
