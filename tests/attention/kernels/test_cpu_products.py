"""Refinement by matrix products: exact for every shape, and used where it is faster."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import cpu, cpu_products, reference
from spangym.attention.kernels.cpu_blocks import Block, blocks
from spangym.attention.kernels.interface import KernelInputs, KernelOutput

from .test_kernels import select

FUSED_SIZE = cpu_products.MAX_HEAD_SIZE + 4


def of_all(window: int, span: int, batch: int = 1) -> SpanGeometry:
    """Equal windows and spans."""
    return SpanGeometry(torch.full((batch,), window), torch.full((batch,), span))


def self_attention(
    tokens: int, size: int, batch: int, generator: torch.Generator, steps: int
) -> KernelInputs:
    x: Tensor = torch.randn(batch, tokens, 2, size, generator=generator).transpose(1, 2)
    return KernelInputs(x, x, x, of_all(20, 30, batch), None, steps, return_lse=True)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> KernelInputs:
    """Shapes from one token to several blocks; windows and spans from one token to all."""
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    tokens = draw(st.sampled_from([1, 2, 65, 300, 521]) | st.integers(1, 300))
    size = draw(st.sampled_from([2, 8, 16, 32, 64]))
    keys = draw(st.just(tokens) | st.integers(1, 2 * tokens))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    q, k, v = (
        torch.randn(batch, each, heads, size, generator=generator, dtype=dtype).transpose(1, 2)
        for each in (tokens, keys, keys)
    )
    # Parts of the sequence converge early.
    q[:, :, torch.rand(tokens, generator=generator) < draw(st.sampled_from([0.0, 0.7]))] *= 1e-3
    spans_of = st.lists(st.integers(0, 2 * tokens), min_size=batch, max_size=batch)
    reach = torch.tensor(draw(spans_of))
    window = torch.tensor(draw(spans_of)).clamp_min(1)
    spans = SpanGeometry(
        window,
        torch.where(torch.tensor(draw(spans_of)) % 5 > 0, window + reach, 0),
        causal=draw(st.booleans() if tokens < 100 else st.just(False)),
        query_lengths=draw(st.none() | spans_of.map(lambda n: torch.tensor(n).clamp_max(tokens))),
        key_lengths=draw(st.none() | spans_of.map(lambda n: torch.tensor(n).clamp_max(keys))),
    )
    mask = torch.rand(tokens, keys, generator=generator) > 0.2
    inverse = torch.rand(batch, heads, generator=generator, dtype=dtype) + 0.5
    return KernelInputs(
        q,
        k,
        draw(st.sampled_from([k, v])),
        spans,
        draw(st.sampled_from([None, None, None, mask])),
        draw(st.sampled_from([2, 3, 10])),
        draw(st.sampled_from([None, inverse[:, 0], inverse])),
        return_lse=True,
    )


def assert_equal(got: KernelOutput, expected: KernelOutput, tolerance: float) -> None:
    """Compare everything but queries that see no key."""
    seen = expected.passes > 0
    assert torch.equal(got.passes, expected.passes)
    for one, other in zip(got, expected, strict=True):
        assert one is not None
        assert other is not None
        if one.ndim > 2:
            one, other = (each.transpose(1, 2)[seen] for each in (one, other))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(inputs=cases())
def test_it_equals_the_reference(inputs: KernelInputs):
    expected = reference.attend(inputs)
    got = cpu.attend_windows(inputs)
    assert_equal(got, expected, 1e-7)
    assert not got.output.transpose(1, 2)[expected.passes == 0].any()


@settings(max_examples=20, deadline=None)
@given(inputs=cases(torch.float32))
@example(inputs=self_attention(4, 2, 1, torch.Generator(), steps=10))
def test_a_sequence_gives_the_same_alone(inputs: KernelInputs):
    batched = cpu.attend_windows(inputs)
    for index in range(len(inputs.q)):
        alone = cpu.attend_windows(select(inputs, index))
        for one, other in zip(batched, alone, strict=True):
            if one is not None and other is not None:
                assert torch.equal(one[index], other[0])


@pytest.mark.parametrize(
    ("tokens", "steps", "windows"),
    [(256, 4, [(26, 53), (65, 131), (113, 169)]), (1100, 1, [(13, 29), (28, 42), (67, 101)])],
    ids=["refinement", "a single pass"],
)
def test_results_do_not_depend_on_the_number_of_threads(
    tokens: int, steps: int, windows: list[tuple[int, int]], generator: torch.Generator
):
    before = torch.get_num_threads()
    inputs = self_attention(tokens, 16, 1, generator, steps)
    try:
        for window, span in windows:
            spanned, results = replace(inputs, spans=of_all(window, span)), []
            # Products of two matrices: MKL on Intel splits a matrix if there are more threads.
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(cpu.attend_windows(spanned))
            for result in results[1:]:
                for one, other in zip(result, results[0], strict=True):
                    assert one is not None
                    assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_sequence_of_a_batch(threads: int, generator: torch.Generator):
    before = torch.get_num_threads()
    inputs = self_attention(130, 16, 3, generator, steps=3)
    spans = SpanGeometry(torch.tensor([5, 64, 100]), torch.tensor([7, 90, 150]))
    inputs = replace(inputs, spans=spans)
    torch.set_num_threads(threads)
    try:
        many = cpu.attend_windows(inputs)
        for index in range(3):
            alone = cpu.attend_windows(select(inputs, index))
            assert torch.equal(many.output[index], alone.output[0])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [-30.0, 5.0, 30.0, 300.0])
def test_scores_that_overflow_without_an_offset(
    factor: float, dtype: torch.dtype, generator: torch.Generator
):
    """Of both signs, and in some of the rows only."""
    inputs = self_attention(70, 16, 2, generator, steps=3)
    q = inputs.q.to(dtype) * factor
    q[:, :, ::3] *= 1e-2
    k = inputs.k.to(dtype) + (3.0 if factor < 0 else 0.0)
    inputs = replace(inputs, q=q, k=k, v=inputs.k.to(dtype))
    # Weights are far from uniform: the largest decides, and rounding of the scores with it.
    precise = replace(inputs, **{name: getattr(inputs, name).double() for name in "qkv"})
    expected, got = reference.attend(precise), cpu.attend_windows(inputs)
    assert got.log_sum_exp is not None
    assert expected.log_sum_exp is not None
    largest = expected.log_sum_exp.abs().max().item()
    assert largest > 64 * 0.69
    tolerance = 20 * largest * torch.finfo(dtype).eps
    assert torch.equal(got.passes, expected.passes)
    torch.testing.assert_close(got.output.double(), expected.output, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        got.log_sum_exp.double(), expected.log_sum_exp, rtol=0, atol=tolerance
    )


def test_what_is_not_a_number_stays_in_its_window(generator: torch.Generator):
    inputs = self_attention(64, 8, 1, generator, steps=4)
    inputs = replace(inputs, spans=of_all(16, 16))
    expected = cpu.attend_windows(inputs)
    inputs.q[0, 0, 3] = torch.nan
    got = cpu.attend_windows(inputs)
    assert got.output[:, :, 3].isnan().any()
    assert torch.equal(got.passes[:, 16:], expected.passes[:, 16:])
    torch.testing.assert_close(got.output[:, :, 16:], expected.output[:, :, 16:])


@pytest.mark.parametrize("window", [4, 50, 128])
def test_gradients_are_those_of_a_forward_that_differs_by_rounding(
    window: int, generator: torch.Generator
):
    inputs = self_attention(256, 16, 1, generator, steps=10)
    inputs = replace(inputs, spans=of_all(window, window * 3 // 2))
    tracked = inputs.q.clone().requires_grad_()
    expected = cpu.attend_windows(replace(inputs, q=tracked))
    with torch.no_grad():
        got = cpu.attend_windows(inputs)
    assert expected.output.requires_grad
    assert torch.equal(got.passes, expected.passes)
    torch.testing.assert_close(got.output, expected.output.detach(), rtol=1e-4, atol=1e-4)


def test_windows_of_a_sequence_are_joined_where_products_are_faster():
    inputs = self_attention(600, 16, 2, torch.Generator().manual_seed(0), steps=10)
    inputs = replace(inputs, spans=of_all(32, 48, 2))
    found = joined(inputs)
    # The sequences have 256 tokens or more in a block, their last tokens less.
    assert [sum(each.count * each.queries for each in block) for block in found] == [
        288,
        256,
        56,
    ] * 2
    assert all(len({each.sequence.index for each in block}) == 1 for block in found)
    long = torch.zeros(2, 1, 2000, 16)
    spans = inputs.spans
    for other in (
        replace(inputs, steps=1),
        replace(inputs, mask=torch.ones(600, 600, dtype=torch.bool)),
        replace(inputs, spans=replace(spans, causal=True)),
        replace(inputs, spans=replace(spans, per_query_convergence=True)),
        replace(inputs, spans=replace(spans, edge=SoftEdge(spans.span, 3))),
        replace(inputs, spans=of_all(2, 3, 2)),
        replace(inputs, q=long, k=long, v=long, spans=of_all(500, 500, 2)),
        replace(inputs, q=inputs.q.bfloat16(), k=inputs.k.bfloat16(), v=inputs.k.bfloat16()),
        self_attention(600, FUSED_SIZE, 2, torch.Generator().manual_seed(0), steps=10),
    ):
        assert not joined(other)


def joined(inputs: KernelInputs) -> list[list[Block]]:
    parts = cpu_products.join(blocks(inputs), inputs.steps)
    return [part for part in parts if isinstance(part, list)]
