from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.torch import load_file, save_file

from spangym.utils.serialization import (
    from_bytes,
    is_serializable,
    load_metadata,
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
STATES = st.recursive(
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
        return one.dtype == other.dtype and same(one.numpy(), other.numpy())
    if isinstance(one, np.ndarray):
        metadata = one.dtype, one.shape, one.tobytes()
        return metadata == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, dict):
        # The order of a flat dict of tensors is not stored.
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(state=STATES)
def test_states_are_restored(state: Any):
    content = to_bytes(state)
    assert same(from_bytes(content), state)
    assert content == to_bytes(from_bytes(content))


def test_keys_with_dots_do_not_collide():
    state = {"a": {"b": np.zeros(1)}, "a.b": np.ones(1)}
    assert same(from_bytes(to_bytes(state)), state)


@pytest.mark.parametrize("state", [{"b": torch.ones(2), "a.c": torch.zeros(1, 3)}, {}])
def test_flat_dicts_of_tensors_are_plain_safetensors_files(
    state: dict[str, torch.Tensor], tmp_path: Path
):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    save_state(ours, state, {"seed": 3})
    save_file(state, theirs)
    assert same(load_file(ours), state)
    assert same(load_state(ours), state)
    assert same(load_state(theirs), state)
    assert (load_metadata(ours), load_metadata(theirs)) == ({"seed": 3}, {})


@pytest.mark.parametrize("value", [print, {1, 2}, b"bytes", np.array(["text"]), object()])
def test_values_that_need_pickle_are_refused(value: Any):
    assert not is_serializable([value])
    with pytest.raises(TypeError, match=r"a\.0 is a"):
        to_bytes({"a": [value]})


@pytest.mark.parametrize("length", [0, 4, 20, -1])
def test_a_damaged_file_is_named(tmp_path: Path, length: int):
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": np.arange(3)})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:length])
    for read in (load_state, load_metadata):
        with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
            read(path)
    with pytest.raises(FileNotFoundError):
        load_metadata(tmp_path / "nowhere.safetensors")
