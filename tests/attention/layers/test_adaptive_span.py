from typing import Any

import torch
from torch import Tensor

from spangym.attention import AdaptiveSpan, SpanConfig

SPANS: dict[str, Any] = {"win_size": 8, "max_span": 20}


def test_masked_keys_have_no_influence(x: Tensor, generator: torch.Generator):
    span, scale = AdaptiveSpan(4, SpanConfig(**SPANS)), torch.tensor([0.4, 1.0, 0.7])
    mask = torch.rand(3, 1, 70, 70, generator=generator) < 0.5
    hidden = ~mask.any(2)[:, 0]
    hidden[:, ::7] = True
    mask = mask & ~hidden[:, None, None]
    changed = torch.where(hidden[..., None], torch.randn(x.shape, generator=generator), x)
    output = span(x, x, x, scale, mask=mask).output
    assert torch.equal(output, span(x, changed, changed, scale, mask=mask).output)
    assert not torch.equal(output, span(x, x, x, scale).output)


def test_soft_edge_of_one_token_is_the_hard_edge(x: Tensor):
    soft = AdaptiveSpan(4, SpanConfig(**SPANS, soft_span=True, soft_edge_width=1))
    hard = AdaptiveSpan(4, SpanConfig(**SPANS))
    outputs = [each(x, x, x, torch.ones(3)).output for each in (soft, hard)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_scaled_weights(x: Tensor):
    plain, scaled = (
        AdaptiveSpan(4, SpanConfig(**SPANS, scale_weights=each)) for each in (False, True)
    )
    scale = torch.tensor([0.5, 0.0, 1.0])
    expected = plain(x, x, x, scale).output * torch.tensor([2.0, 0.0, 1.0])[:, None, None]
    torch.testing.assert_close(scaled(x, x, x, scale).output, expected)


def test_scaled_weights_of_the_smallest_spans_have_finite_gradients(x: Tensor):
    span = AdaptiveSpan(4, SpanConfig(**SPANS, scale_weights=True))
    x.requires_grad_()
    span(x, x, x, torch.tensor([1e-42, 1e-5, 0.0])).output.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_coverage_is_the_share_of_full_attention(x: Tensor):
    """One pass: full attention's weights, summed over the interval."""
    span = AdaptiveSpan(4, SpanConfig(win_size=16, max_span=24, temp_scale=0.3))
    scale = torch.tensor([0.2, 0.6, 1.0])
    local = span(x, x, x, scale, return_stats=True, return_weights=True)
    full_span = AdaptiveSpan(4, SpanConfig(win_size=96, max_span=96, temp_scale=0.0))
    q = x / span.temperature(scale)[:, None, None]
    full = full_span(q, x, x, torch.ones(3), return_weights=True)
    assert local.stats is not None
    assert local.weights is not None
    expected = torch.where(local.weights > 0, full.weights, 0).sum(-1).mean((1, 2))
    torch.testing.assert_close(local.stats.coverage, expected, rtol=1e-5, atol=1e-6)
