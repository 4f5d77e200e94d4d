"""Layers on a CUDA device of fake tensors: shapes, dtypes, devices, and no copy to the host."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import (
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    SpanConfig,
)
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.kernels import flex
from spangym.attention.layers.local_global import LocalGlobalAttention

from ..factories import make_full_observation_spec, make_policy_head
from ..fake_cuda import DEVICE, fake_cuda, to_fake_cuda

BATCH, CTX, DIMS, HEADS = 2, 200, 64, 4

LAYERS: dict[str, type[LocalGlobalAttention]] = {
    "integrated": IntegratedAttention,
    "focus": FocusAttention,
    "hybrid": HybridAttention,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "causal": {"causal": True},
    "soft": {"soft_span": True, "temperature_law": "learned", "local_projections": True},
    "soft causal": {"soft_span": True, "causal": True, "scale_weights": True},
    "pooled": {"global_path": "pooled"},
    "pooled causal": {"global_path": "pooled", "causal": True, "pool": 7},
    "none": {"global_path": "none", "soft_span": True},
    "absolute": {"action_scale": "absolute", "num_induction_heads": 2, "temperature_law": "none"},
}
INPUTS = ("plain", "lengths", "mask", "additive mask", "cross-attention")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Kinds of inputs and dtypes take turns.
CASES = [
    (*layer_and_config, INPUTS[number % len(INPUTS)], DTYPES[number % len(DTYPES)])
    for number, layer_and_config in enumerate(itertools.product(LAYERS, CONFIGS))
]


def test_tensors_are_as_before_afterwards():
    with fake_cuda():
        pass
    assert torch.tensor([[torch.tensor(1.0)]]).tolist() == [[1.0]]


def make_inputs(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=DEVICE)

    inputs: dict[str, Any] = {"x": zeros(BATCH, CTX, DIMS)}
    if kind == "cross-attention":
        inputs["xa"] = zeros(BATCH, 190, DIMS)
        inputs["xa_lengths"] = zeros(BATCH, dtype=torch.int64)
    if kind == "mask":
        inputs["mask"] = zeros(CTX, CTX, dtype=torch.bool)
    if kind == "additive mask":
        inputs["mask"] = zeros(BATCH, HEADS, CTX, CTX)
    if kind in ("lengths", "additive mask"):
        inputs["lengths"] = zeros(BATCH, dtype=torch.int64)
    return inputs


def run_layer(layer: LocalGlobalAttention, kind: str, dtype: torch.dtype) -> None:
    """Two passes over a stream with statistics, under the controller and under actions."""
    with fake_cuda() as transfers:
        to_fake_cuda(layer)
        inputs = make_inputs(kind, dtype)
        inputs["x"].requires_grad_(torch.is_grad_enabled())
        first = layer.step(**inputs, return_stats=True)
        actions = torch.zeros(BATCH, dtype=torch.int64, device=DEVICE)
        second = layer.forward_with_action(**inputs, action=actions, cache=first.cache)
        layer.forward_with_action(**inputs, action=5)
        numbers = [first.qk_pairs, first.reward, second.window, second.obs_features]
        for output in (first.output, second.output):
            assert (output.shape, output.dtype) == ((BATCH, CTX, DIMS), dtype)
            numbers.append(output)
        assert first.stats is not None
        numbers += [each for each in vars(first.stats).values() if isinstance(each, Tensor)]
        assert {each.device for each in numbers} == {DEVICE}
        # The backward pass needs a device.
        assert first.output.requires_grad == second.output.requires_grad == torch.is_grad_enabled()
    assert transfers.to_host == transfers.waiting == []


def make_layer(name: str, options: dict[str, Any]) -> LocalGlobalAttention:
    spans = {"win_size": 48, "max_span": 90, "max_dist": 90, "num_refinement_steps": 2}
    return LAYERS[name](CTX, DIMS, HEADS, SpanConfig(**spans, **options))


@pytest.mark.parametrize(("name", "config", "kind", "dtype"), CASES)
def test_layers(name: str, config: str, kind: str, dtype: torch.dtype):
    with torch.no_grad():
        run_layer(make_layer(name, CONFIGS[config]), kind, dtype)


@pytest.mark.parametrize("config", [each for each in CONFIGS if "causal" in each])
@pytest.mark.parametrize("name", LAYERS)
def test_decoding(name: str, config: str):
    """A block, tokens and another block, under changing actions, without waiting."""
    layer = make_layer(name, {**CONFIGS[config], "num_induction_heads": 1})
    with fake_cuda() as transfers:
        to_fake_cuda(layer)
        x = make_inputs("plain", torch.bfloat16)["x"]
        action, cache = torch.zeros(BATCH, dtype=torch.int64, device=DEVICE), None
        for tokens in x.split([60, 1, 1, CTX - 62], dim=1):
            output, cache = layer.decode(tokens, cache, action)
            assert (output.shape, output.dtype) == (tokens.shape, torch.bfloat16)
            assert output.device == DEVICE
            action = action + 1
    assert transfers.to_host == transfers.waiting == []


@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch is built without CUDA")
@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_gradients(name: str, config: str, kind: str):
    run_layer(make_layer(name, CONFIGS[config]), kind, torch.bfloat16)


@pytest.mark.parametrize(
    ("kind", "encoding", "observation_time", "causal"),
    [
        ("mlp", "box", "current", False),
        ("mlp", "features", "previous", True),
        ("lookup", "state", "previous", False),
        ("kmeans", "digits", "current", True),
    ],
)
def test_controllers(kind: str, encoding: str, observation_time: Any, causal: bool):
    spec = make_full_observation_spec(DIMS, encoding)
    layer = make_layer("integrated", {"causal": causal, "use_refresh_predictors": True})
    head = make_policy_head(spec, kind)
    layer.refiner = ExportedPolicy(spec, head, layer=1, observation_time=observation_time)
    with torch.no_grad():
        run_layer(layer, "lengths", torch.float32)


def test_the_kernel_of_accelerators_is_chosen(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(flex, "attend", lambda inputs: calls.append(inputs) or 1 / 0)
    layer = make_layer("hybrid", {})
    with pytest.raises(ZeroDivisionError):
        run_layer(layer, "plain", torch.bfloat16)
    assert len(calls) == 1


def test_faults_are_found():
    with fake_cuda() as transfers:
        on_device, on_host = torch.zeros(3, device=DEVICE), torch.zeros(3)
        with pytest.raises(RuntimeError, match="device"):
            torch.add(on_device, on_host)
        for read in (lambda: on_device.sum().item(), on_device.nonzero, lambda: bool(on_device[0])):
            with pytest.raises(RuntimeError):
                read()
        torch.tensor([1.0], device=DEVICE)
        on_host.to(DEVICE)
        on_host.to(DEVICE, non_blocking=True)
        on_device.cpu()
    assert len(transfers.waiting) == 2
    assert len(transfers.to_host) == 1
