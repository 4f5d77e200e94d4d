import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spangym.agents.tabular.schedules import LinearSchedule


@settings(derandomize=True, deadline=None)
@given(
    start=st.floats(-5, 5), end=st.floats(-5, 5), steps=st.integers(1, 50), step=st.integers(0, 99)
)
def test_linear_then_constant(start: float, end: float, steps: int, step: int):
    schedule = LinearSchedule(start, end, steps)
    assert schedule(0) == start
    expected = np.interp(step, [0, steps], [start, end])
    assert schedule(step) == pytest.approx(expected, abs=1e-9)
    assert schedule(steps) == schedule(10**9) == end
