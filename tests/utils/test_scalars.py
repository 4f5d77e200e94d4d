"""Numbers, truth values and names of any library become plain Python values."""

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spangym.utils.scalars import as_bool, as_float, as_int, as_str, describe, plain

INTEGERS = [2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)]
REALS = [0.5, np.float32(0.5), np.float16(0.5), np.longdouble(0.5), np.array(0.5)]
REALS += [torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16), Fraction(1, 2)]


@pytest.mark.parametrize("value", INTEGERS, ids=describe)
def test_integers(value: Any):
    assert as_int("n", value) == 2
    assert type(as_int("n", value)) is int
    assert type(as_float("n", value)) is float


@pytest.mark.parametrize("value", REALS, ids=describe)
def test_reals(value: Any):
    assert as_float("x", value) == 0.5
    assert type(as_float("x", value)) is float
    with pytest.raises(TypeError, match="n must be an integer"):
        as_int("n", value)


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.True_, torch.tensor(True), 2.0, np.float64(2), "2", None, [2]),
        *(np.array([2]), torch.tensor([2]), Decimal(2), 2j, int),
    ],
    ids=describe,
)
def test_what_is_no_integer(value: Any):
    with pytest.raises(TypeError, match=r"num_layers must be an integer, got"):
        as_int("num_layers", value)


@pytest.mark.parametrize("value", [False, np.False_, torch.tensor(False), "0.5", None, 1j, [0.5]])
def test_what_is_no_real(value: Any):
    with pytest.raises(TypeError, match=r"cost_coef must be a number, got"):
        as_float("cost_coef", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32(-np.inf), 10**400])
def test_reals_are_finite(value: Any):
    with pytest.raises(ValueError, match="x must be finite"):
        as_float("x", value)


def test_truth_values():
    for value in (True, np.True_, np.array(True), torch.tensor(True)):
        assert as_bool("flag", value) is True
    for value in (1, 0.0, "yes", None, np.int64(1)):
        with pytest.raises(TypeError, match="flag must be true or false, got"):
            as_bool("flag", value)


def test_texts():
    for value in ("cpu", np.str_("cpu"), Path("cpu"), torch.device("cpu")):
        assert type(as_str("device", value)) is str
        assert as_str("device", value) == "cpu"
    for value in (0, None, b"cpu"):
        with pytest.raises(TypeError, match="device must be a string, got"):
            as_str("device", value)


def test_numbers_out_of_bounds_are_shown_at_bounded_length():
    for value, shown in ((10**5000, "4300"), (10**100, "characters"), (0, "got 0")):
        with pytest.raises(ValueError, match=r"n must be in 1\.\.9, got") as caught:
            as_int("n", value, 1, 9)
        assert shown in str(caught.value)
        assert len(str(caught.value)) < 120


def test_nested_values():
    nested = {"a": [np.int64(1), {"b": (np.float64(0.5), Path("c"))}], "d": torch.ones(2)}
    result = plain(nested)
    assert result["a"] == [1, {"b": (0.5, "c")}]
    assert type(result["a"][0]) is int
    assert result["d"] is nested["d"]
