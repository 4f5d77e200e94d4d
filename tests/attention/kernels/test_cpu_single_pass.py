"""One pass by matrix products: exact for every shape, and used where it is faster."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spangym.attention import SpanGeometry
from spangym.attention.kernels import cpu, cpu_single_pass, reference
from spangym.attention.kernels.interface import KernelInputs

from .test_cpu import CountQKPairs
from .test_cpu_products import assert_equal
from .test_kernels import select

LONG = cpu_single_pass.MIN_TOKENS + 300


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> KernelInputs:
    """Sequences whose interior windows fill a block, and some that do not."""
    batch, heads = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    tokens, size = draw(st.integers(LONG - 150, LONG)), draw(st.sampled_from([2, 8, 16, 64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    q, k, v = torch.randn(
        3, batch, tokens, heads, size, generator=generator, dtype=dtype
    ).transpose(2, 3)
    window = torch.randint(1, draw(st.sampled_from([10, 150])), (batch,), generator=generator)
    reach = torch.randint(0, 100, (batch,), generator=generator)
    lengths = torch.randint(tokens - 100, tokens + 1, (batch,), generator=generator)
    spans = SpanGeometry(
        window,
        window + reach,
        causal=draw(st.booleans()),
        query_lengths=draw(st.sampled_from([None, lengths])),
        key_lengths=draw(st.sampled_from([None, lengths, lengths // 2])),
    )
    inverse = torch.rand(batch, heads, generator=generator, dtype=dtype) + 0.5
    factor = draw(st.sampled_from([None, inverse[:, 0], inverse]))
    v = draw(st.sampled_from([k, v]))
    return KernelInputs(q, k, v, spans, inverse_temperature=factor, return_lse=True)


@settings(max_examples=25, deadline=None)
@given(inputs=cases())
def test_it_equals_the_reference(inputs: KernelInputs):
    expected, got = reference.attend(inputs), cpu.attend_windows(inputs)
    assert_equal(got, expected, 1e-10)
    seen = expected.passes > 0
    assert not got.output.transpose(1, 2)[~seen].any()


@settings(max_examples=10, deadline=None)
@given(inputs=cases(torch.float32))
def test_a_sequence_gives_the_same_alone_and_with_gradients(inputs: KernelInputs):
    batched = cpu.attend_windows(inputs)
    q = inputs.q.clone().requires_grad_()
    tracked = cpu.attend_windows(replace(inputs, q=q)).output
    assert tracked.requires_grad
    assert torch.equal(tracked, batched.output)
    for index in range(len(q)):
        alone = cpu.attend_windows(select(inputs, index))
        assert torch.equal(batched.output[index], alone.output[0])


@pytest.mark.parametrize("factor", [-300.0, 30.0])
def test_scores_that_overflow_are_left_to_the_fused_call(factor: float, generator: torch.Generator):
    q, k, v = torch.randn(3, 1, LONG, 2, 16, generator=generator).transpose(2, 3)
    k = k + 2.0 if factor < 0 else k
    spans = SpanGeometry(torch.tensor([32]), torch.tensor([48]))
    inputs = KernelInputs(q.abs() * factor, k, v, spans)
    with CountQKPairs() as counter:
        got = cpu.attend_windows(inputs)
    assert sum(counter.calls) >= spans.qk_pairs(LONG).item()
    precise = replace(inputs, **{name: getattr(inputs, name).double() for name in "qkv"})
    expected = reference.attend(precise).output
    torch.testing.assert_close(got.output.double(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("tokens", "window", "products"),
    [(LONG, 32, True), (LONG, 4, True), (LONG, 3, False), (LONG, 300, False), (600, 32, False)],
)
def test_products_are_used_where_they_are_faster(tokens: int, window: int, products: bool):
    q = torch.zeros(1, 1, tokens, 8)
    spans = SpanGeometry(torch.tensor([window]), torch.tensor([window]))
    with CountQKPairs() as counter:
        cpu.attend_windows(KernelInputs(q, q, q, spans))
    assert sum(counter.calls) == spans.qk_pairs(tokens).item()
    # The first call is the block of windows inside the sequence: all of them, with this span.
    assert counter.is_product[0] == products
