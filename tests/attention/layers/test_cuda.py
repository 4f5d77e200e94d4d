"""Layers and controllers on a CUDA device against float64 on the CPU."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import FocusAttention, HybridAttention, IntegratedAttention, SpanConfig
from spangym.attention.controllers.exported import ExportedPolicy

from ...factories import make_full_observation_spec, make_policy_head, relative_error

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("exact_products")]

DEVICE = "cuda"
BATCH, CTX, DIMS, HEADS = 3, 300, 64, 4
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "causal": {"causal": True},
    "soft": {"soft_span": True, "temperature_law": "learned", "local_projections": True},
    "pooled": {"global_path": "pooled", "causal": True},
    "none": {"global_path": "none"},
}


def make_layer(layer_class: Any, **options: Any) -> Any:
    # Stopping depends on rounding: a single pass is compared.
    spans = {"win_size": 48, "max_span": 90, "max_dist": 90, "num_refinement_steps": 1}
    generator = torch.Generator().manual_seed(0)
    return layer_class(CTX, DIMS, HEADS, SpanConfig(**spans, **options), generator=generator)


def with_gradients(layer: Any, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and all gradients in one vector, in float64 on the CPU."""
    x = x.detach().requires_grad_()
    output = layer(x, lengths=lengths)
    used = [each for each in layer.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(output.square().sum(), [x, *used], allow_unused=True)
    gradient = torch.cat([each.flatten() for each in gradients if each is not None])
    return output.detach().cpu().double(), gradient.cpu().double()


@pytest.mark.parametrize(
    ("layer_class", "config", "padded"),
    [
        *((IntegratedAttention, config, padded) for config in CONFIGS for padded in (False, True)),
        (FocusAttention, "soft", True),
        (HybridAttention, "causal", True),
    ],
)
def test_output_and_gradients(layer_class: Any, config: str, padded: bool):
    layer = make_layer(layer_class, **CONFIGS[config])
    x = torch.randn(BATCH, CTX, DIMS, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([300, 131, 1]) if padded else None
    expected = with_gradients(copy.deepcopy(layer).double(), x.double(), lengths)
    on_device = None if lengths is None else lengths.to(DEVICE)
    found = with_gradients(layer.to(DEVICE), x.to(DEVICE), on_device)
    assert relative_error(found[0], expected[0]) < 1e-4
    assert relative_error(found[1], expected[1]) < 1e-3


@pytest.mark.parametrize(
    ("kind", "encoding", "observation_time"),
    [
        ("mlp", "box", "current"),
        ("mlp", "features", "previous"),
        ("lookup", "state", "current"),
        ("kmeans", "digits", "previous"),
    ],
)
def test_controllers_decide_on_the_device(kind: str, encoding: str, observation_time: Any):
    spec = make_full_observation_spec(DIMS, encoding)
    layer = make_layer(IntegratedAttention).eval()
    head = make_policy_head(spec, kind)
    layer.refiner = ExportedPolicy(spec, head, layer=1, observation_time=observation_time)
    x = torch.randn(16, CTX, DIMS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = layer.select_actions(x)
        layer, x = layer.to(DEVICE), x.to(DEVICE)
        cache = layer.step(x).cache
        layer.step(x, cache=cache)
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = layer.select_actions(x)
            layer.step(x, cache=cache)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Rounding may turn a digit of one sequence.
    assert (found.cpu() == expected).float().mean() >= 15 / 16


@pytest.mark.parametrize("config", CONFIGS)
def test_a_training_step_does_not_wait_for_the_device(config: str):
    layer = make_layer(IntegratedAttention, **CONFIGS[config]).to(DEVICE)
    x = torch.randn(BATCH, CTX, DIMS, device=DEVICE)
    action = torch.tensor([0, 4, 9], device=DEVICE)
    lengths = torch.tensor([300, 131, 1], device=DEVICE)

    def train() -> None:
        output = layer.forward_with_action(x, action, lengths=lengths).output
        output.square().sum().backward()

    train()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
