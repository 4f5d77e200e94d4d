"""Values in the padding of inputs reach neither results nor gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import (
    AdaptiveSpan,
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LayerOutput,
    MultiHeadAttention,
    SlidingWindowAttention,
    SpanConfig,
)
from spangym.attention.features import autocorrelation_buckets, quality, token_moments
from spangym.attention.kernels import cpu, flex, reference
from tests.factories import POLICY_DIMS, SMALL_SPANS, make_exported_policy, make_layer

VALUES = [float("nan"), -float("inf"), 7.0]
LENGTHS = torch.tensor([5, 40, 0, 17])
XA_LENGTHS = torch.tensor([30, 7, 9, 0])
OPTIONS: list[dict[str, Any]] = [
    {"num_refinement_steps": 3},
    {"causal": True, "soft_span": True, "num_refinement_steps": 2},
    {"local_projections": True, "num_induction_heads": 1, "num_refinement_steps": 1},
    {"num_induction_heads": 2, "scale_weights": True, "num_refinement_steps": 2},
    {"num_refinement_steps": 1, "global_path": "pooled", "pool": 4},
    {"causal": True, "num_refinement_steps": 1, "global_path": "pooled"},
    {"num_refinement_steps": 1, "global_path": "none"},
]


def with_padding(x: Tensor, lengths: Tensor, value: float) -> Tensor:
    is_token = torch.arange(x.shape[1]) < lengths[:, None]
    return torch.where(is_token[..., None], x, value).requires_grad_()


def tensors(output: LayerOutput) -> list[Tensor]:
    """All results of a pass that do not require the host."""
    stats, cache = output.stats, output.cache
    assert stats is not None
    found = [output.output, output.local_input, output.local_output, output.span_scale]
    found += [output.reward, output.obs_features, stats.entropy, stats.coverage, stats.qk_pairs]
    found += [cache.global_mean, cache.obs_features]
    if cache.key_value is not None:
        found += [cache.key_value.keys, cache.key_value.values, cache.key_value.mean_token]
    return found


def assert_padding_has_no_effect(run: Any, *inputs: tuple[Tensor, Tensor]) -> None:
    """``run`` maps inputs to tensors; compare results and gradients for all values of padding."""
    expected: list[Tensor] = []
    for value in (0.0, *VALUES):
        padded = [with_padding(x, lengths, value) for x, lengths in inputs]
        results = run(*padded)
        loss = sum(each.square().sum() for each in results if each.requires_grad)
        if isinstance(loss, Tensor):
            gradients = torch.autograd.grad(loss, padded)
            for gradient, (_, lengths) in zip(gradients, inputs, strict=True):
                for row, length in zip(gradient, lengths.tolist(), strict=True):
                    assert row[length:].abs().sum() == 0
            results += gradients
        assert all(each.isfinite().all() for each in results)
        expected = expected or results
        for each, other in zip(results, expected, strict=True):
            assert torch.equal(each, other), value


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention, HybridAttention])
def test_of_layers(
    layer_class: Any, cross: bool, options: dict[str, Any], generator: torch.Generator
):
    layer = make_layer(layer_class, **options)
    paths = ("local",) if layer.attn_global is None else ("local", "global")
    x, xa = (torch.randn(4, tokens, 32, generator=generator) for tokens in (40, 30))

    def run(x: Tensor, xa: Tensor | None = None) -> list[Tensor]:
        padding = {"lengths": LENGTHS} | ({} if xa is None else {"xa_lengths": XA_LENGTHS})
        first = layer.step(x, xa, return_stats=True, **padding)
        second = layer.step(1.5 * x, xa, cache=first.cache, return_stats=True, **padding)
        weights = [layer.attention_weights(x, xa, path=path, **padding) for path in paths]
        features = layer.obs_features(x, lengths=LENGTHS)
        parameters = [each for each in layer.parameters() if each.requires_grad]
        loss = first.output.square().sum() + second.output.square().sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        found = [each for each in gradients if each is not None]
        return [*tensors(first), *tensors(second), *weights, features, *found]

    inputs = [(x, LENGTHS)] + ([(xa, XA_LENGTHS)] if cross else [])
    assert_padding_has_no_effect(run, *inputs)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")
@pytest.mark.parametrize("kernel", [cpu.attend_windows, reference.attend, flex.attend])
@pytest.mark.parametrize("options", OPTIONS[:3])
def test_in_other_kernels(
    kernel: Any,
    options: dict[str, Any],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
):
    for module in ("layers.adaptive_span", "attention_stats"):
        monkeypatch.setattr(f"spangym.attention.{module}.select_kernel", lambda _: kernel)
    layer = make_layer(**options)
    x = torch.randn(4, 40, 32, generator=generator)
    # FlexAttention has no gradients on the CPU.
    has_gradients = torch.set_grad_enabled(kernel is not flex.attend)
    with has_gradients, torch.compiler.set_stance("force_eager"):
        assert_padding_has_no_effect(
            lambda x: tensors(layer.step(x, lengths=LENGTHS, return_stats=True)), (x, LENGTHS)
        )


def test_of_paths(generator: torch.Generator):
    x, xa = (torch.randn(4, tokens, 32, generator=generator) for tokens in (40, 30))
    scale = torch.tensor([0.5, 1.0, 0.7, 0.2])
    span = AdaptiveSpan(4, SpanConfig(**SMALL_SPANS))
    shifted = SpanConfig(**SMALL_SPANS, local_projections=True, num_induction_heads=1)
    sliding = SlidingWindowAttention(32, 4, shifted)
    padding = {"lengths": LENGTHS, "key_lengths": XA_LENGTHS}
    assert_padding_has_no_effect(
        lambda x, xa, v: [span(x, xa, v, scale, **padding).output],
        (x, LENGTHS),
        (xa, XA_LENGTHS),
        (xa.cos(), XA_LENGTHS),
    )
    assert_padding_has_no_effect(
        lambda x, xa: [sliding(x, scale, xa, **padding).output], (x, LENGTHS), (xa, XA_LENGTHS)
    )
    assert_padding_has_no_effect(
        lambda x: [sliding(x, scale, lengths=LENGTHS, key_lengths=LENGTHS).output], (x, LENGTHS)
    )
    whole, cached = MultiHeadAttention(32, 4), AdaptiveUpdateAttention(32, 4)
    assert_padding_has_no_effect(lambda x: [whole(x, key_lengths=LENGTHS)], (x, LENGTHS))
    assert_padding_has_no_effect(
        lambda xa: [whole(x, xa, key_lengths=XA_LENGTHS)], (xa, XA_LENGTHS)
    )
    assert_padding_has_no_effect(
        lambda xa: [cached(x, xa, key_lengths=XA_LENGTHS)[0]], (xa, XA_LENGTHS)
    )


def test_of_features(generator: torch.Generator):
    x = torch.rand(4, 40, 6, generator=generator)
    assert_padding_has_no_effect(lambda x: [token_moments(x, LENGTHS)], (x, LENGTHS))
    assert_padding_has_no_effect(lambda x: [quality(x, LENGTHS).quality], (x, LENGTHS))
    assert_padding_has_no_effect(lambda x: [autocorrelation_buckets(x, 4, LENGTHS)], (x, LENGTHS))


@pytest.mark.parametrize("encoding", ["digits", "features"])
def test_of_controlled_layers(encoding: str, generator: torch.Generator):
    layer = IntegratedAttention(48, POLICY_DIMS, 2, generator=generator)
    layer.refiner = make_exported_policy(encoding)
    x = torch.randn(4, 40, POLICY_DIMS, generator=generator)
    assert_padding_has_no_effect(
        lambda x: [layer.select_actions(x, lengths=LENGTHS), layer(x, lengths=LENGTHS)],
        (x, LENGTHS),
    )
