import pytest
import torch

from spangym.attention.features import tuple_hash_id
from spangym.attention.hashing import cpython_tuple_hash, tuple_hash_states


@pytest.mark.parametrize("numbers", [1, 2, 3, 8, 33, 130, 769])
def test_the_hash_of_the_device_is_that_of_python(numbers: int, generator: torch.Generator):
    digits = torch.randint(11, (100, numbers), generator=generator)
    digits[0], digits[1] = 0, 10
    expected = [tuple_hash_id(row) for row in digits.tolist()]
    assert cpython_tuple_hash(digits).tolist() == expected
    assert tuple_hash_states(digits).tolist() == expected
