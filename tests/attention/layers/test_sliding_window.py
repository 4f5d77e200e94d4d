from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import SlidingWindowAttention, SpanConfig
from spangym.attention.layers.modules import merge_heads, split_heads
from tests.factories import make_layer


def test_refinement_equals_its_definition(generator: torch.Generator):
    """One sequence, window by window, in plain tensor operations."""
    config = SpanConfig(win_size=12, max_span=20, max_dist=20, temp_scale=0.4)
    x = torch.randn(1, 50, 8, generator=generator, dtype=torch.float64) * 0.3
    local = SlidingWindowAttention(8, 2, config)(x, torch.tensor([0.6], dtype=torch.float64))
    window, span = int(12 * 0.6), int(20 * 0.6)
    temperature = 1 + 0.4 * (1 - 0.6)
    heads = x[0].view(50, 2, 4).transpose(0, 1)
    expected, qk_pairs, most_steps = torch.zeros_like(heads), 0, 0
    for start in range(0, 50, window):
        keys = heads[:, max(0, start - span + window) : start + span]
        q = heads[:, start : start + window]
        previous = torch.zeros_like(q)
        for step in range(1, 11):
            out = (q @ keys.transpose(1, 2) / (4**0.5 * temperature)).softmax(-1) @ keys
            qk_pairs += q.shape[1] * keys.shape[1]
            most_steps = max(most_steps, step)
            change = (out - previous).abs().mean()
            previous = out
            if change < 1e-4 + 0.1 * change:
                break
            q = q + out
        expected[:, start : start + window] = previous
    torch.testing.assert_close(local.output[0], expected.transpose(0, 1).reshape(50, 8))
    assert local.qk_pairs.item() == qk_pairs
    assert local.num_refinement_steps.item() == most_steps


def test_converged_windows_stop_and_cost_nothing_more():
    local = SlidingWindowAttention(4, 1, SpanConfig(win_size=4, max_span=4, max_dist=4))
    x = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(1))
    x[:, 4:] = 0.0  # A window of zeros converges in its first pass.
    result = local(x, torch.ones(1))
    assert result.num_refinement_steps.item() > 1
    assert result.qk_pairs.item() == 16 * result.num_refinement_steps.item() + 16


@pytest.mark.parametrize("causal", [False, True])
def test_later_queries_affect_convergence_only_without_causality(
    causal: bool, generator: torch.Generator
):
    x, xa = torch.randn(2, 3, 64, 32, generator=generator)
    xa = xa * 2  # Keys far enough apart that windows converge at different times.
    later = torch.arange(64) % 16 >= 8
    config = SpanConfig(win_size=16, max_span=24, causal=causal)
    local = SlidingWindowAttention(32, 1, config)
    one, other = (local(each, torch.ones(3), xa).output for each in (x, x * ~later[:, None]))
    assert torch.equal(one[:, ~later], other[:, ~later]) == causal


def test_gradient_is_right(generator: torch.Generator):
    local = SlidingWindowAttention(4, 2, SpanConfig(win_size=4, max_span=6, max_dist=6))
    x = torch.randn(1, 9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: local(x, torch.tensor([0.9])).output, (x,), fast_mode=True
    )


def test_soft_span_gradient_is_the_slope(generator: torch.Generator):
    config = SpanConfig(win_size=8, max_span=20, temp_scale=0.2, soft_span=True, soft_edge_width=4)
    local = SlidingWindowAttention(8, 2, config)
    x = torch.randn(1, 30, 8, generator=generator, dtype=torch.float64)

    def loss(scale: Tensor) -> Tensor:
        return (local(x, scale).output * x.cos()).sum()

    # Between the scales at which the integer window or span changes.
    scale = torch.tensor([0.57], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(scale), scale)
    with torch.no_grad():
        difference = (loss(scale + 1e-3) - loss(scale - 1e-3)) / 2e-3
    assert slope.item() == pytest.approx(difference.item(), rel=2e-2)


def test_windows_after_the_last_key_attend_to_nothing(x: Tensor):
    local = SlidingWindowAttention(32, 4, SpanConfig(win_size=8, max_span=8))
    output = local(x, torch.ones(3), x[:, :20]).output
    assert output[:, 24:].abs().sum() == 0
    assert output[:, 16:24].abs().sum() > 0


def test_learned_projections_have_gradients(x: Tensor):
    local = SlidingWindowAttention(32, 4, SpanConfig(local_projections=True))
    local(x, torch.ones(3)).output.sum().backward()
    assert local.projections is not None
    assert set(local.projections) == {"query", "key", "value"}
    # A bias of the keys shifts all scores of a query equally.
    for name, parameter in local.named_parameters():
        assert parameter.grad is not None
        assert "key.proj.bias" in name or parameter.grad.abs().max() > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_number_of_refinement_steps(steps: int, x: Tensor):
    local = SlidingWindowAttention(32, 4, SpanConfig(num_refinement_steps=steps))
    assert local(x, torch.ones(3)).num_refinement_steps.tolist() == [steps] * 3


class TestInductionHeads:
    def test_keys_are_those_of_the_previous_token(self, x: Tensor):
        config: dict[str, Any] = {"win_size": 16, "max_span": 24, "num_refinement_steps": 1}
        config["temperature_law"] = "none"
        plain, shifted = (
            SlidingWindowAttention(32, 4, SpanConfig(**config, num_induction_heads=each))(
                x, torch.ones(3), return_weights=True
            ).weights
            for each in (0, 2)
        )
        torch.testing.assert_close(shifted[:, 2:], plain[:, 2:])
        key = split_heads(x, 4)[:, :2]
        moved = torch.cat([torch.zeros_like(key[:, :, :1]), key[:, :, :-1]], dim=2)
        scores = key @ moved.transpose(-1, -2) * key.shape[-1] ** -0.5
        visible = plain[:, :2] > 0
        expected = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        torch.testing.assert_close(shifted[:, :2], expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("causal", [False, True])
    def test_causality(self, causal: bool, x: Tensor):
        layer = make_layer(num_induction_heads=2, causal=causal, local_projections=True)
        cut = x.clone()
        cut[:, 30:] = 0
        assert torch.allclose(layer(x)[:, :30], layer(cut)[:, :30], atol=1e-6) == causal


def test_weights_of_one_pass_make_the_output(x: Tensor):
    config = SpanConfig(win_size=16, max_span=24, num_refinement_steps=1, temperature_law="none")
    local = SlidingWindowAttention(32, 4, config)(
        x, torch.tensor([0.3, 0.7, 1.0]), return_weights=True
    )
    torch.testing.assert_close(local.output, merge_heads(local.weights @ split_heads(x, 4)))
