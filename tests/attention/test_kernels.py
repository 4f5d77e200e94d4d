"""Every kernel against a dense float64 softmax, written out here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.attention import Spans
from spangym.attention.kernels import Kernel, cpu, reference

KERNELS = pytest.mark.parametrize(
    "attend", [cpu.attend, reference.attend], ids=["cpu", "reference"]
)


def dense(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Query by query, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    out, lse = torch.zeros_like(q), torch.zeros(q.shape[:-1], dtype=torch.float64)
    first, end = spans.intervals(q.shape[-2])
    for lane in range(q.shape[0]):
        for query in range(q.shape[2]):
            keys = slice(first[lane, query], end[lane, query])
            if keys.start == keys.stop:
                continue
            scores = k[lane, :, keys] @ q[lane, :, query, :, None] / q.shape[-1] ** 0.5
            lse[lane, :, query] = scores[..., 0].logsumexp(-1)
            out[lane, :, query] = (scores[..., 0].softmax(-1)[:, None] @ v[lane, :, keys])[:, 0]
    return out, lse


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Spans]:
    lanes, heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    tokens, size = draw(st.integers(1, 40)), draw(st.sampled_from([4, 8]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    # Laid out as a layer does: heads innermost, so that the views are strided.
    q, k, v = (
        torch.randn(lanes, tokens, heads, size, generator=generator).transpose(1, 2)
        for _ in range(3)
    )
    window = torch.randint(1, 20, (lanes,), generator=generator)
    span = window + torch.randint(0, 30, (lanes,), generator=generator)
    off = torch.rand(lanes, generator=generator) < 0.2
    return q, k, v, Spans(window, torch.where(off, 0, span))


@KERNELS
@settings(max_examples=60, deadline=None)
@given(case=cases(), shared=st.booleans())
def test_equals_dense_softmax(
    attend: Kernel, case: tuple[Tensor, Tensor, Tensor, Spans], shared: bool
):
    q, k, v, spans = case
    v = k if shared else v
    out, lse = attend(q, k, v, spans, None)
    expected_out, expected_lse = dense(q, k, v, spans)
    torch.testing.assert_close(out.double(), expected_out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-6)


@KERNELS
@settings(max_examples=40, deadline=None)
@given(case=cases(), seed=st.integers(0, 1000))
def test_inactive_windows_are_zero_and_others_unchanged(
    attend: Kernel, case: tuple[Tensor, Tensor, Tensor, Spans], seed: int
):
    q, k, v, spans = case
    lanes, tokens = q.shape[0], q.shape[2]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(lanes, tokens, generator=generator) < 0.5
    active = chosen.gather(1, spans.window_index(tokens))
    out, lse = attend(q, k, v, spans, active)
    full_out, full_lse = attend(q, k, v, spans, None)
    torch.testing.assert_close(out, full_out * active[:, None, :, None])
    torch.testing.assert_close(lse, full_lse * active[:, None])


@KERNELS
def test_gradients_equal_those_of_the_dense_softmax(attend: Kernel, generator: torch.Generator):
    shape = (2, 2, 30, 4)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    spans = Spans(torch.tensor([4, 7]), torch.tensor([6, 12]))
    gradients = []
    for function in (attend, lambda q, k, v, spans, _: dense(q, k, v, spans)):
        leaves = [each.clone().requires_grad_() for each in inputs]
        q, k, v = leaves
        (function(q, k, v, spans, None)[0] * weight).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_lanes_that_are_off(
    attend: Kernel, dtype: torch.dtype, generator: torch.Generator
):
    q = torch.randn(3, 2, 30, 8, generator=generator, dtype=torch.float64).to(dtype)
    spans = Spans(torch.tensor([4, 1, 9]), torch.tensor([6, 0, 12]))
    active = torch.ones(3, 30, dtype=torch.bool)
    active[0, 4:8] = False
    out, lse = attend(q, q, q, spans, active)
    expected, expected_lse = dense(q, q, q, spans)
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 2e-2 if dtype != torch.float64 else 1e-9
    torch.testing.assert_close(
        out.double(), expected * active[:, None, :, None], rtol=0, atol=tolerance
    )
    torch.testing.assert_close(
        lse.double(), expected_lse * active[:, None], rtol=0, atol=2 * tolerance
    )


def test_a_lane_has_the_same_bits_alone(generator: torch.Generator):
    q = torch.randn(3, 2, 50, 8, generator=generator)
    spans = Spans(torch.tensor([3, 10, 25]), torch.tensor([5, 15, 40]))
    out, lse = cpu.attend(q, q, q, spans)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = Spans(spans.window[one], spans.span[one])
        alone_out, alone_lse = cpu.attend(q[one], q[one], q[one], alone)
        assert torch.equal(out[one], alone_out)
        assert torch.equal(lse[one], alone_lse)
