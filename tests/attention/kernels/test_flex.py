"""FlexAttention: its block mask, its refinement, and how often it is compiled."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import flex, reference
from spangym.attention.kernels.interface import KernelInputs

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method"),
]


def test_refines_as_the_reference_does(generator: torch.Generator):
    q = torch.randn(3, 2, 300, 16, generator=generator)
    q[:, :, 150:] *= 0.01  # These windows converge at once.
    spans = SpanGeometry(torch.tensor([4, 1, 90]), torch.tensor([6, 0, 120]))
    inputs = KernelInputs(q, q, q, spans, steps=10, inverse_temperature=torch.ones(3))
    with torch.compiler.set_stance("force_eager"):
        got = flex.attend(inputs)
    expected = reference.attend(inputs)
    torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.passes, expected.passes)
    assert len(set(got.passes[2].tolist())) > 1


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_block_mask_equals_the_one_found_by_trying_all_pairs(data: st.DataObject):
    queries, keys = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 700))
    batch = data.draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    window = torch.randint(1, 300, (batch,), generator=generator)
    span = window + torch.randint(0, 300, (batch,), generator=generator)
    off = torch.rand(batch, generator=generator) < 0.2
    spans = SpanGeometry(
        window,
        torch.where(off, 0, span),
        causal=data.draw(st.booleans()),
        query_lengths=data.draw(_lengths(batch, queries)),
        key_lengths=data.draw(_lengths(batch, keys)),
    )
    first, end = spans.intervals(queries, keys)
    # Some windows have converged.
    active = torch.rand(batch, queries, generator=generator) < data.draw(st.sampled_from([0.5, 2]))
    first, end = torch.where(active, first, 0), torch.where(active, end, 0)
    got = flex.block_mask(first, end, keys)
    expected = create_block_mask(
        got.mask_mod, batch, 1, queries, keys, device="cpu", BLOCK_SIZE=flex.BLOCK_SIZE
    )
    for kind in ("", "full_"):
        counts = getattr(got, f"{kind}kv_num_blocks")
        assert torch.equal(counts, getattr(expected, f"{kind}kv_num_blocks"))
        indices = getattr(got, f"{kind}kv_indices")
        there = torch.arange(indices.shape[-1]) < counts[..., None]
        other = getattr(expected, f"{kind}kv_indices")
        assert torch.equal(indices.where(there, -1), other.where(there, -1))


def _lengths(batch: int, tokens: int) -> st.SearchStrategy[Tensor | None]:
    each = st.integers(0, tokens)
    return st.none() | st.lists(each, min_size=batch, max_size=batch).map(torch.tensor)


@pytest.mark.parametrize("kind", ["plain", "soft edge and mask"])
def test_compiled_flex_serves_all_spans_with_one_compilation(
    kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
):
    """On the CPU, where the compiled kernel has no log-sum-exp and no gradients."""
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "flex_attention", compiled)
    q = torch.randn(2, 2, 300, 16, generator=generator)
    inverse = torch.tensor([0.9, 1.1])
    mask = None if kind == "plain" else torch.rand(2, 1, 300, 300, generator=generator) < 0.8
    windows_and_spans = [([8, 60], [12, 90]), ([3, 1], [40, 0]), ([100, 50], [150, 80])]
    torch.compiler.reset()
    with torch.no_grad(), torch.compiler.set_stance("default"):
        for number, (window, span) in enumerate(windows_and_spans):
            spans = SpanGeometry(
                torch.tensor(window),
                torch.tensor(span),
                causal=True,
                query_lengths=torch.tensor([300, 100]),
                edge=None if mask is None else SoftEdge(torch.tensor(span) + 0.3, 8),
            )
            inputs = KernelInputs(q, q, q, spans, mask, steps=3, inverse_temperature=inverse)
            with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
                got = flex.attend(inputs)
            expected = reference.attend(inputs)
            torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)
            assert torch.equal(got.passes, expected.passes)


def test_compiled_flex_takes_layers_of_every_kind(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
):
    """One compiled function serves calls that share tensors and calls that do not."""
    compiled = torch.compile(flex_attention, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(flex, "flex_attention", compiled)
    q, k = torch.randn(2, 2, 2, 40, 16, generator=generator)
    mask = torch.rand(40, 40, generator=generator) < 0.8
    hard = SpanGeometry(torch.tensor([8, 5]), torch.tensor([12, 30]))
    soft = SpanGeometry(hard.window, hard.span, edge=SoftEdge(hard.span + 0.3, 4))
    torch.compiler.reset()
    with torch.no_grad(), torch.compiler.set_stance("default"):
        for keys, values, spans, seen in [
            (k, q, soft, None),
            (q, q, hard, mask),
            (k, k, hard, None),
            (q, k, soft, mask),
        ]:
            inputs = KernelInputs(q, keys, values, spans, mask=seen)
            got, expected = flex.attend(inputs), reference.attend(inputs)
            torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)


def test_many_kinds_of_calls_are_compiled(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
):
    eager = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", eager)
    compiled = flex._compiled.__wrapped__()
    monkeypatch.setattr(flex, "flex_attention", compiled)
    spans = SpanGeometry(torch.tensor([8]), torch.tensor([12]))
    torch.compiler.reset()
    with torch.no_grad(), torch.compiler.set_stance("default"):
        for dtype, size, return_lse in itertools.product(
            (torch.float32, torch.bfloat16), (16, 32, 64), (False, True)
        ):
            q = torch.randn(1, 1, 20, size, generator=generator).to(dtype)
            inputs = KernelInputs(q, q, q, spans, return_lse=return_lse)
            expected = reference.attend(inputs).output
            torch.testing.assert_close(flex.attend(inputs).output, expected, rtol=0, atol=3e-2)


def test_unsupported_dtypes_and_head_sizes_are_named():
    assert flex.unsupported_reason(torch.zeros(1, 1, 1, 16, dtype=torch.bfloat16)) is None
    assert "float64" in str(flex.unsupported_reason(torch.zeros(1, 1, 1, 16, dtype=torch.float64)))
    assert "at least 16" in str(flex.unsupported_reason(torch.zeros(1, 1, 1, 8)))
