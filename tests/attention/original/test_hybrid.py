"""`HybridAttention.original` against recorded results."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import HybridAttention
from tests.factories import recorded_parameters, relative_error

from ...conftest import Golden

SIZES = ("ctx", "dims", "head", "max_dist", "win_size", "max_span", "temp_scale")
CASES = pytest.mark.parametrize("case", range(4))


def make_recorded(recorded: Any, case: int) -> HybridAttention:
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    law = "longer" if meta["sharpen_longer"] else "shorter"
    sizes = {name: meta[name] for name in SIZES}
    layer = HybridAttention.original(**sizes, temperature_law=law)
    layer.load_state_dict(recorded_parameters(recorded, f"case{case}.param."))
    return layer


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 60, 32, generator=torch.Generator().manual_seed(1))


@CASES
@torch.no_grad()
def test_layer_reproduces_the_original(golden: Golden, case: int):
    recorded = golden("hybrid")
    x, expected, scales = (
        torch.from_numpy(recorded[f"case{case}.{name}"]) for name in ("x", "out", "span_scale")
    )
    output = make_recorded(recorded, case).step(x)
    assert relative_error(output.output, expected) < 1e-5
    # The batch shares the mean of its predictions.
    assert relative_error(output.span_scale, scales.mean().expand(len(x))) < 1e-5


@CASES
@torch.no_grad()
def test_local_path_reproduces_the_original(golden: Golden, case: int):
    recorded = golden("hybrid")
    attn_local = make_recorded(recorded, case).attn_local
    for index in range(4):
        x, scale, expected = (
            torch.from_numpy(recorded[f"case{case}.local{index}.{name}"])
            for name in ("x", "span_scale", "out")
        )
        local = attn_local(x, scale.expand(len(x)))
        assert relative_error(local.output, expected) < 1e-5
        assert local.spans.window[0] == recorded[f"case{case}.local{index}.win_size"]
        assert local.spans.span[0] == recorded[f"case{case}.local{index}.span_len"]


@torch.no_grad()
def test_weights_equal_those_of_the_default(x: Tensor):
    """Same seed, same weights, so that one difference is measured at a time."""
    default, original = (
        make(64, 32, 4, generator=torch.Generator().manual_seed(0))
        for make in (HybridAttention, HybridAttention.original)
    )
    assert torch.equal(default.span_pred.linear.weight, original.span_pred.linear.weight)
    assert torch.equal(default.projection.weight, original.projection.weight)
    assert default.attn_global is not None
    assert original.attn_global is not None
    torch.testing.assert_close(default.attn_global(x), original.attn_global(x))


def test_unused_parameters_have_no_influence(x: Tensor):
    layer = HybridAttention.original(64, 32, 4)
    layer(x).square().mean().backward()
    without_gradient = {name for name, each in layer.named_parameters() if each.grad is None}
    unused = {name for name, _ in layer.attn_local.named_parameters(prefix="attn_local")}
    assert without_gradient == unused | {"span_pred.linear.weight", "span_pred.linear.bias"}
    assert len(unused) == 9
