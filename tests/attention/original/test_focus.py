"""`FocusAttention.original` against recorded results."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import FocusAttention
from spangym.attention.features import discretize
from spangym.attention.original.focus import FocusLayerOutput, digit_strings
from tests.factories import RecordingController, relative_error

from ...conftest import Golden

SIZES = ("ctx", "dims", "head", "max_dist", "win_size", "max_span", "temp_scale")
CASES = pytest.mark.parametrize("case", range(4))


def make_recorded(recorded: Any, case: int) -> FocusAttention:
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    law = "longer" if meta["sharpen"] else "shorter"
    return FocusAttention.original(**{name: meta[name] for name in SIZES}, temperature_law=law)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 60, 32, generator=torch.Generator().manual_seed(1))


@CASES
@torch.no_grad()
def test_local_path_reproduces_the_original(golden: Golden, case: int):
    recorded = golden("focus")
    attn_local = make_recorded(recorded, case).attn_local
    x = torch.from_numpy(recorded[f"case{case}.x"])
    for index in range(4):
        scale, expected = (
            torch.from_numpy(recorded[f"case{case}.local{index}.{name}"])
            for name in ("span_scale", "out")
        )
        local = attn_local(x, scale.expand(len(x)))
        assert relative_error(local.output, expected) < 1e-5
        assert local.spans.window[0] == recorded[f"case{case}.local{index}.win_size"]
        assert local.spans.span[0] == recorded[f"case{case}.local{index}.span_len"]


@CASES
@torch.no_grad()
def test_state_reproduces_the_original(golden: Golden, case: int):
    """With an input that normalization leaves as it is, the state is that of the recording."""
    recorded = golden("focus")
    layer = make_recorded(recorded, case)
    x, expected = (
        torch.from_numpy(recorded[f"case{case}.{name}"]) for name in ("x", "features_unbiased")
    )
    layer.ln_a = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    features = layer.obs_features(x)
    assert relative_error(features, expected[None]) < 1e-5
    assert discretize(features)[0].tolist() == recorded[f"case{case}.digits"].tolist()
    assert digit_strings(features) == [str(recorded[f"case{case}.digit_string"])]
    number = int(str(recorded[f"case{case}.digit_string"]))
    output = layer.forward_with_action(x, 3)
    assert output.state == [number % 9999]


def test_refiner_learns_from_the_early_states(x: Tensor):
    layer, refiner = FocusAttention.original(64, 32, 4), RecordingController(7)
    layer.refiner = refiner
    output = layer.step(x)
    joined = output.local_output.flatten(0, 1)
    features = torch.cat([joined.mean(0), joined.var(0)])[None]
    next_state = int(digit_strings(features)[0]) % 9999
    assert refiner.states == output.state
    assert refiner.updates == [(output.state[0], 7, output.reward.item(), next_state)]


def test_states_of_wide_layers():
    """Python itself does not read numbers of more than 4300 digits."""
    features = torch.zeros(1, 5000)
    assert FocusLayerOutput.state_ids(features) == [5 * (10**5000 - 1) // 9 % 9999]
