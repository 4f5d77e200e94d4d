import pytest
import torch
from torch import Tensor


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    """Three sequences of 70 tokens for the layers of `tests.factories.make_layer`."""
    return torch.randn(3, 70, 32, generator=generator)
