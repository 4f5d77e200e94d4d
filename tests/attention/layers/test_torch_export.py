"""`torch.export` of layers, for all lengths and batches at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from spangym.agents import Refiner
from spangym.attention import FocusAttention, HybridAttention, IntegratedAttention, SpanConfig
from tests.factories import POLICY_DIMS, make_exported_policy

CTX = 300
SPANS = {"win_size": 32, "max_span": 80, "max_dist": 80, "temp_scale": 0.3}
BATCH, TOKENS, KEYS = Dim("batch", max=64), Dim("tokens", max=CTX), Dim("keys", max=CTX)
SIZES = [(1, 1), (2, 2), (3, 31), (2, 129), (1, 257), (2, CTX)]
"""Batch and tokens: on both sides of the sizes at which the eager kernels change."""


def export(layer: torch.nn.Module, dynamic: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    return torch.export.export(layer, args, kwargs, dynamic_shapes=dynamic).module()


@pytest.mark.parametrize(
    ("layer_class", "options"),
    [
        (IntegratedAttention, {}),
        (FocusAttention, {"causal": True, "soft_span": True}),
        (
            HybridAttention,
            {"temperature_law": "learned", "local_projections": True, "num_induction_heads": 2},
        ),
        (IntegratedAttention, {"global_path": "pooled"}),
        (FocusAttention, {"global_path": "pooled", "pool": 5, "causal": True}),
        (HybridAttention, {"global_path": "none"}),
    ],
)
def test_equals_the_layer_at_every_length(
    layer_class: Any, options: dict[str, Any], generator: torch.Generator
):
    config = SpanConfig(**SPANS, num_refinement_steps=2, **options)
    layer = layer_class(CTX, 16, 2, config, generator=generator).eval()
    x = torch.randn(2, 140, 16, generator=generator)
    exported = export(layer, {"x": {0: BATCH, 1: TOKENS}}, x)
    for batch, tokens in SIZES:
        x = torch.randn(batch, tokens, 16, generator=generator)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-4, atol=1e-4)


def test_with_padding_mask_and_cross_attention(generator: torch.Generator):
    config = SpanConfig(**SPANS, num_refinement_steps=2)
    layer = IntegratedAttention(CTX, 16, 2, config, generator=generator).eval()

    def inputs(batch: int, tokens: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = torch.randn(batch, tokens, 16, generator=generator)
        xa = torch.randn(batch, keys, 16, generator=generator)
        mask = torch.rand(batch, 1, tokens, keys, generator=generator) < 0.9
        return x, xa, mask, torch.randint(0, tokens + 1, (batch,), generator=generator)

    dynamic = {
        "x": {0: BATCH, 1: TOKENS},
        "xa": {0: BATCH, 1: KEYS},
        "mask": {0: BATCH, 2: TOKENS, 3: KEYS},
        "lengths": {0: BATCH},
    }
    *args, lengths = inputs(2, 140, 90)
    exported = export(layer, dynamic, *args, lengths=lengths)
    for batch, tokens in SIZES:
        *args, lengths = inputs(batch, tokens, tokens // 2 + 1)
        got, expected = (run(*args, lengths=lengths) for run in (exported, layer))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("layer_class", "encoding", "kind"),
    [
        (IntegratedAttention, "features", "mlp"),
        pytest.param(FocusAttention, "box", "mlp", marks=SLOW),
        pytest.param(IntegratedAttention, "box", "kmeans", marks=SLOW),
        pytest.param(IntegratedAttention, "state", "lookup", marks=SLOW),
    ],
)
def test_with_a_controller(
    layer_class: type[IntegratedAttention], encoding: str, kind: str, generator: torch.Generator
):
    config = SpanConfig(**SPANS, num_refinement_steps=1)
    layer = layer_class(CTX, POLICY_DIMS, 2, config, generator=generator).eval()
    layer.refiner = make_exported_policy(encoding, kind)
    x = torch.randn(2, 140, POLICY_DIMS, generator=generator)
    exported = export(layer, {"x": {0: BATCH, 1: TOKENS}}, x)
    # Without control flow; one operator is not PyTorch's.
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    own = {target for target in targets if target.startswith("spangym")}
    assert own == ({"spangym.tuple_hash_states.default"} if encoding == "state" else set())
    assert not any("cond" in target or "while" in target for target in targets)
    for batch, tokens in SIZES[2:]:
        x = torch.randn(batch, tokens, POLICY_DIMS, generator=generator)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("original", [False, True])
def test_the_host_cannot_be_recorded(original: bool):
    if original:
        layer = IntegratedAttention.original(CTX, 16, 2)
    else:
        layer = IntegratedAttention(CTX, 16, 2, refiner=Refiner())
    message = "loops over windows" if original else "assign the result to layer.refiner"
    with pytest.raises(RuntimeError, match=message):
        export(layer.eval(), {"x": {0: BATCH, 1: TOKENS}}, torch.randn(2, 140, 16))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled(backend: str, generator: torch.Generator):
    torch.compiler.reset()
    layer = IntegratedAttention(CTX, POLICY_DIMS, 2, SpanConfig(**SPANS), generator=generator)
    layer.eval().refiner = make_exported_policy()
    x = torch.randn(2, 140, POLICY_DIMS, generator=generator)
    compiled = torch.compile(layer, backend=backend)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)
