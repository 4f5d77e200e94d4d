from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from spangym.utils.serialization import (
    from_bytes,
    is_serializable,
    load_state,
    save_state,
    to_bytes,
)

ARRAYS = npst.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.bool_, np.uint8]),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**130), 2**130)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | ARRAYS
    | ARRAYS.filter(lambda each: each.dtype != np.uint32).map(lambda each: torch.from_numpy(each))
)
TREES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.lists(inside, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inside, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        # The order of a flat dict of tensors is not stored.
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(tree=TREES)
def test_what_is_stored_comes_back(tree: Any):
    # Equal floats and arrays that hold NaN are not equal to themselves.
    content = to_bytes(tree)
    assert content == to_bytes(from_bytes(content))
    if not any(isinstance(each, float) for each in [tree]):
        assert same(from_bytes(content), tree) or "nan" in repr(tree)


def test_keys_with_dots_do_not_collide():
    tree = {"a": {"b": np.zeros(1)}, "a.b": np.ones(1)}
    assert same(from_bytes(to_bytes(tree)), tree)


@pytest.mark.parametrize("value", [print, {1, 2}, b"bytes", np.array(["text"]), object()])
def test_what_needs_a_pickle_is_refused(value: Any):
    assert not is_serializable([value])
    with pytest.raises(TypeError, match=r"a\.0 is a"):
        to_bytes({"a": [value]})


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_a_damaged_file_is_named(tmp_path: Path, cut: int):
    path = tmp_path / "tree.safetensors"
    save_state(path, {"a": np.arange(3)})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"tree\.safetensors is damaged"):
        load_state(path)
