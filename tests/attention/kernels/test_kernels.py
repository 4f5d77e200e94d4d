"""Every kernel against the definition, written out here query by query in float64."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import cpu, cpu_dense, flex, reference
from spangym.attention.kernels.refinement import KernelOutput
from spangym.attention.kernels.select import Kernel

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method"),
]


@pytest.fixture(autouse=True)
def _eager_flex() -> Iterator[None]:
    """FlexAttention as plain operations; it would trace itself anew for every case."""
    with torch.compiler.set_stance("force_eager"):
        yield


def windows(*tensors: Any, **others: Any) -> KernelOutput:
    """The CPU kernel, its windows cut however short the sequence is."""
    with mock.patch.multiple(cpu_dense, MAX_QK_PAIRS=0, MAX_QK_PAIRS_ITERATIVE=0):
        return cpu.attend(*tensors, **others)


KERNELS = pytest.mark.parametrize(
    "attend",
    [cpu.attend, windows, reference.attend, flex.attend],
    ids=["cpu", "windows", "reference", "flex"],
)
# FlexAttention has no gradients on the CPU.
DIFFERENTIABLE = pytest.mark.parametrize(
    "attend", [cpu.attend, windows, reference.attend], ids=["cpu", "windows", "reference"]
)


@dataclass(frozen=True)
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    spans: SpanGeometry
    mask: Tensor | None
    inverse: Tensor


def by_definition(case: Case, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and passes, window by window and query by query."""
    q, k, v = case.q.double(), case.k.double(), case.v.double()
    batch, heads, queries, size = q.shape
    keys, spans = k.shape[2], case.spans
    mask = torch.ones(1, dtype=torch.bool) if case.mask is None else case.mask
    added = torch.zeros(mask.shape, dtype=torch.float64)
    added = added.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask.double()
    added = added.expand(batch, heads, queries, keys)
    nothing = torch.zeros(heads, size, dtype=torch.float64)
    out = [[nothing] * queries for _ in range(batch)]
    lse = torch.zeros(batch, heads, queries, dtype=torch.float64)
    passes = torch.zeros(batch, queries, dtype=torch.int64)
    soft_margin = 0 if spans.edge is None else spans.edge.soft_edge_width
    for lane in range(batch):
        window, span = int(spans.window[lane]), int(spans.span[lane])
        last_query = queries if spans.query_lengths is None else int(spans.query_lengths[lane])
        last_key = keys if spans.key_lengths is None else int(spans.key_lengths[lane])
        for start in range(0, last_query if span else 0, window):
            first = max(0, start - (span - window) - soft_margin)
            end = min(start + span + soft_margin, last_key)
            rows = [
                query
                for query in range(start, min(start + window, last_query))
                if first < (min(end, query + 1) if spans.causal else end)
            ]
            moving, now = (
                set(rows),
                {query: case.inverse[lane].double() * q[lane, :, query] for query in rows},
            )
            for step in range(steps):
                before = list(out[lane])
                for query in sorted(moving):
                    if step:
                        now[query] = now[query] + case.inverse[lane].double() * before[query]
                    visible = range(first, min(end, query + 1) if spans.causal else end)
                    scores = k[lane, :, visible] @ now[query][:, :, None] / size**0.5
                    scores = scores[..., 0] + added[lane, :, query, visible]
                    if spans.edge is not None:
                        far = torch.tensor(
                            [max(key - start + 1, start + window - key) for key in visible]
                        )
                        weight = (spans.edge.span[lane] - far) / spans.edge.soft_edge_width + 1
                        tiny = torch.finfo(torch.float32).tiny
                        scores = scores + weight.clamp(tiny, 1).log()
                    blind = (scores == -torch.inf).all(-1)
                    scores = scores.masked_fill(blind[:, None], 0.0)
                    seen = (scores.softmax(-1)[:, None] @ v[lane, :, visible])[:, 0]
                    out[lane][query] = seen.masked_fill(blind[:, None], 0.0)
                    lse[lane, :, query] = scores.detach().logsumexp(-1).masked_fill(blind, 0.0)
                    passes[lane, query] += 1
                change = {at: (out[lane][at] - before[at]).abs().mean() for at in moving}
                if spans.per_query_convergence:
                    moving = {at for at in moving if change[at] >= 1e-4 + 0.1 * change[at]}
                elif moving:
                    mean = torch.stack(list(change.values())).mean()
                    moving = moving if mean >= 1e-4 + 0.1 * mean else set()
    whole = torch.stack([torch.stack(each, dim=1) for each in out])
    return whole, lse, passes


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Case:
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    queries, size = draw(st.integers(1, 40)), draw(st.sampled_from([4, 8]))
    keys = draw(st.just(queries) | st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    # Laid out as a layer does: heads innermost, so that the views are strided; or any other way.
    step = draw(st.sampled_from([1, 1, 2]))
    q, k, v = (
        torch.randn(batch, tokens, heads, step * size, generator=generator, dtype=dtype).transpose(
            1, 2
        )[..., ::step]
        for tokens in (queries, keys, keys)
    )
    window = torch.randint(1, 20, (batch,), generator=generator)
    span = window + torch.randint(0, 30, (batch,), generator=generator)
    off = torch.rand(batch, generator=generator) < 0.2
    fraction = torch.rand(batch, generator=generator)
    spans = SpanGeometry(
        window,
        torch.where(off, 0, span),
        causal=draw(st.booleans()),
        per_query_convergence=draw(st.booleans()),
        query_lengths=draw(st.none() | _lengths(batch, queries)),
        key_lengths=draw(st.none() | _lengths(batch, keys)),
        edge=draw(st.none() | st.just(SoftEdge(span + fraction, draw(st.integers(1, 9))))),
    )
    shape = tuple(draw(st.sampled_from([1, size])) for size in (batch, heads, queries, keys))
    shape = shape[draw(st.integers(0, 3)) :]
    mask = torch.randn(shape, generator=generator)
    kind = draw(st.sampled_from(["none", "boolean", "additive"]))
    masks = {
        "none": None,
        "boolean": mask > -1,
        "additive": mask.masked_fill(mask < -1, -torch.inf),
    }
    inverse = 0.5 + torch.rand(batch, generator=generator, dtype=dtype)
    return Case(q, k, k if draw(st.booleans()) else v, spans, masks[kind], inverse)


def plain_or_not(dtype: torch.dtype = torch.float32) -> st.SearchStrategy[Case]:
    """Half of them with neither mask nor edge: so the trained environments are."""
    return cases(dtype) | cases(dtype).map(
        lambda case: replace(case, mask=None, spans=replace(case.spans, edge=None))
    )


def _lengths(batch: int, tokens: int) -> st.SearchStrategy[Tensor]:
    each = st.integers(0, tokens)
    return st.lists(each, min_size=batch, max_size=batch).map(torch.tensor)


@KERNELS
@settings(max_examples=60, deadline=None)
@given(case=plain_or_not())
def test_one_pass_equals_the_definition(attend: Kernel, case: Case):
    got = attend(
        case.q,
        case.k,
        case.v,
        case.spans,
        mask=case.mask,
        inverse_temperature=case.inverse,
        return_lse=True,
    )
    out, lse, passes = by_definition(case, steps=1)
    torch.testing.assert_close(got.output.double(), out, rtol=1e-5, atol=2e-6)
    assert got.log_sum_exp is not None
    torch.testing.assert_close(got.log_sum_exp.double(), lse, rtol=1e-5, atol=2e-6)
    assert torch.equal(got.passes, passes)


@DIFFERENTIABLE
@settings(max_examples=40, deadline=None)
@given(case=cases(torch.float64), steps=st.sampled_from([2, 10]))
def test_focus_equals_the_definition(attend: Kernel, case: Case, steps: int):
    got = attend(
        case.q,
        case.k,
        case.v,
        case.spans,
        mask=case.mask,
        steps=steps,
        inverse_temperature=case.inverse,
        return_lse=True,
    )
    out, lse, passes = by_definition(case, steps)
    assert torch.equal(got.passes, passes)
    torch.testing.assert_close(got.output, out, rtol=1e-5, atol=1e-6)
    assert got.log_sum_exp is not None
    assert got.last_query is not None
    torch.testing.assert_close(got.log_sum_exp, lse, rtol=1e-5, atol=1e-6)
    # The queries that are handed back are those that the output came from.
    ones = torch.ones(len(case.q))
    last = Case(got.last_query, case.k, case.v, case.spans, case.mask, ones)
    torch.testing.assert_close(by_definition(last, 1)[0], out, rtol=1e-5, atol=1e-6)


def test_flex_focuses_as_the_reference_does(generator: torch.Generator):
    q = torch.randn(3, 2, 300, 16, generator=generator)
    q[:, :, 150:] *= 0.01  # Windows that settle at once, beside others that do not.
    spans = SpanGeometry(torch.tensor([4, 1, 90]), torch.tensor([6, 0, 120]))
    inverse = torch.ones(3)
    got = flex.attend(q, q, q, spans, steps=10, inverse_temperature=inverse)
    expected = reference.attend(q, q, q, spans, steps=10, inverse_temperature=inverse)
    torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.passes, expected.passes)
    assert len(set(got.passes[2].tolist())) > 1


def test_blocks_of_windows_are_joined_in_order(generator: torch.Generator):
    """Long enough that a lane has several blocks, some of whose windows settle early."""
    q = torch.randn(2, 1, 1500, 4, generator=generator, dtype=torch.float64)
    q[:, :, torch.rand(1500, generator=generator) < 0.5] *= 1e-3
    spans = SpanGeometry(torch.tensor([7, 100]), torch.tensor([20, 130]))
    inverse = torch.ones(2, dtype=torch.float64)
    got = cpu.attend(q, q, q, spans, steps=10, inverse_temperature=inverse)
    expected = reference.attend(q, q, q, spans, steps=10, inverse_temperature=inverse)
    torch.testing.assert_close(got.output, expected.output)
    assert torch.equal(got.passes, expected.passes)
    assert len(set(got.passes[0].tolist())) > 1


@DIFFERENTIABLE
@settings(max_examples=25, deadline=None)
@given(case=plain_or_not(torch.float64), steps=st.sampled_from([1, 3]))
def test_gradients_equal_those_of_the_definition(attend: Kernel, case: Case, steps: int):
    """The soft span's and an additive mask's among them."""
    weight = torch.randn(case.q.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for function in ("kernel", "definition"):
        leaves = {
            name: getattr(case, name).clone().requires_grad_() for name in ("q", "k", "inverse")
        }
        spans, mask = case.spans, case.mask
        if spans.edge is not None:
            leaves["span"] = spans.edge.span.double().requires_grad_()
            edge = SoftEdge(leaves["span"], spans.edge.soft_edge_width)
            spans = replace(spans, edge=edge)
        if mask is not None and mask.dtype != torch.bool:
            leaves["mask"] = mask = mask.double().requires_grad_()
        q, k, inverse = leaves["q"], leaves["k"], leaves["inverse"]
        if function == "kernel":
            out = attend(q, k, k, spans, mask=mask, steps=steps, inverse_temperature=inverse).output
        else:
            out = by_definition(Case(q, k, k, spans, mask, inverse), steps)[0]
        if not out.requires_grad:
            return  # Every lane is off.
        (out * weight).sum().backward()
        gradients.append(
            {name: 0 * leaf if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
        )
    got, expected = gradients
    for name in expected:
        hidden = torch.isneginf(leaves[name])
        torch.testing.assert_close(
            got[name].masked_fill(hidden, 0),
            expected[name].masked_fill(hidden, 0),
            rtol=1e-4,
            atol=1e-6,
        )


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_lanes_that_are_off(
    attend: Kernel, dtype: torch.dtype, generator: torch.Generator
):
    q = torch.randn(3, 2, 30, 16, generator=generator, dtype=torch.float64).to(dtype)
    spans = SpanGeometry(torch.tensor([4, 1, 9]), torch.tensor([6, 0, 12]))
    got = attend(q, q, q, spans, return_lse=True)
    out, lse, _ = by_definition(Case(q, q, q, spans, None, torch.ones(3)), 1)
    assert got.log_sum_exp is not None
    assert got.output.dtype == dtype
    assert got.log_sum_exp.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 2e-2 if dtype != torch.float64 else 1e-9
    torch.testing.assert_close(got.output.double(), out, rtol=0, atol=tolerance)
    torch.testing.assert_close(got.log_sum_exp.double(), lse, rtol=0, atol=2 * tolerance)


@KERNELS
@settings(max_examples=20, deadline=None)
@given(case=plain_or_not(), steps=st.sampled_from([1, 3]))
def test_a_lane_has_the_same_bits_alone(attend: Kernel, case: Case, steps: int):
    arguments = {"steps": steps, "inverse_temperature": case.inverse}
    batched = attend(case.q, case.k, case.v, case.spans, mask=case.mask, **arguments)
    for lane in range(len(case.q)):
        one = slice(lane, lane + 1)
        mask = case.mask
        if mask is not None and mask.ndim == 4 and len(mask) > 1:
            mask = mask[one]
        alone = attend(
            case.q[one],
            case.k[one],
            case.k[one] if case.v is case.k else case.v[one],
            case.spans.select(lane),
            mask=mask,
            steps=steps,
            inverse_temperature=case.inverse[one],
        )
        if attend in (cpu.attend, windows):
            assert torch.equal(batched.output[one], alone.output)
        else:  # A batched matrix product may round otherwise.
            torch.testing.assert_close(batched.output[one], alone.output)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "steps"), [(256, 256, 1), (257, 256, 1), (128, 128, 4), (129, 128, 4)]
)
def test_the_ways_of_the_cpu_agree_where_they_meet(
    queries: int,
    keys: int,
    steps: int,
    causal: bool,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
):
    whole = mock.Mock(wraps=cpu_dense.attend)
    monkeypatch.setattr(cpu_dense, "attend", whole)
    q = torch.randn(3, 2, queries, 8, generator=generator)
    k = torch.randn(3, 2, keys, 8, generator=generator)
    spans = SpanGeometry(torch.tensor([4, 1, 90]), torch.tensor([6, 0, 120]), causal=causal)
    inverse = torch.tensor([0.5, 1.0, 1.5])
    got = cpu.attend(q, k, k, spans, steps=steps, inverse_temperature=inverse)
    assert whole.called == (queries == keys)
    for other in (windows, reference.attend):
        expected = other(q, k, k, spans, steps=steps, inverse_temperature=inverse)
        torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.passes, expected.passes)


def test_sequences_are_scored_whole_where_it_is_possible_and_faster():
    q, spans = torch.zeros(2, 1, 8, 4), SpanGeometry(torch.tensor([4, 4]), torch.tensor([4, 4]))
    long = torch.zeros(2, 1, cpu_dense.MAX_QK_PAIRS // 8 + 1, 4)
    longish = torch.zeros(2, 1, cpu_dense.MAX_QK_PAIRS_ITERATIVE // 8 + 1, 4)
    edge = replace(spans, edge=SoftEdge(spans.span, 2))
    assert cpu_dense.is_supported(q, q, spans, None, 1)
    assert not cpu_dense.is_supported(q, long, spans, None, 1)
    assert not cpu_dense.is_supported(q, q[:, :, :0], spans, None, 1)
    for steps, these in ((2, spans), (1, edge)):
        assert cpu_dense.is_supported(q, q, these, None, steps)
        assert cpu_dense.is_supported(q, longish, spans, None, 1)
        assert not cpu_dense.is_supported(q, longish, these, None, steps)
    padded = replace(spans, key_lengths=torch.tensor([8, 3]))
    assert not cpu_dense.is_supported(q, q, padded, None, 1)
    assert not cpu_dense.is_supported(q, q, spans, torch.ones(8, 8, dtype=torch.bool), 1)
    assert not cpu_dense.is_supported(q.bfloat16(), q.bfloat16(), spans, None, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lane_among_many_has_the_same_bits_alone(threads: int, generator: torch.Generator):
    """So many that they are masked block by block, at the size of trained environments."""
    batch, before = 100, torch.get_num_threads()
    q, k, v = torch.randn(3, batch, 128, 4, 8, generator=generator).transpose(2, 3)
    scale = torch.rand(batch, generator=generator).where(torch.arange(batch) % 7 > 0, 0)
    spans = replace(SpanGeometry.from_scale(scale, win_size=16, max_span=144), causal=True)
    inverse = 0.5 + torch.rand(batch, generator=generator)
    torch.set_num_threads(threads)
    try:
        many = cpu.attend(q, k, v, spans, inverse_temperature=inverse)
        for lane in range(batch):
            one = slice(lane, lane + 1)
            alone = cpu.attend(
                q[one], k[one], v[one], spans.select(lane), inverse_temperature=inverse[one]
            )
            assert torch.equal(many.output[one], alone.output)
            assert (scale[lane] > 0) == alone.output.any()
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
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
        query_lengths=data.draw(st.none() | _lengths(batch, queries)),
        key_lengths=data.draw(st.none() | _lengths(batch, keys)),
    )
    first, end = spans.intervals(queries, keys)
    # Some windows have settled.
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


@pytest.mark.parametrize("kind", ["plain", "soft edge and mask"])
def test_compiled_flex_serves_all_spans_with_one_compilation(
    kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
):
    """On the CPU, whose compiled kernel gives no log-sum-exp and no gradients."""
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
            arguments = {"mask": mask, "steps": 3, "inverse_temperature": inverse}
            with torch._dynamo.config.patch(error_on_recompile=number > 0):
                got = flex.attend(q, q, q, spans, **arguments)
            expected = reference.attend(q, q, q, spans, **arguments)
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
            got = flex.attend(q, keys, values, spans, mask=seen).output
            expected = reference.attend(q, keys, values, spans, mask=seen).output
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_kernel_is_chosen_by_device_type_and_head_size():
    assert flex.unsupported_reason(torch.zeros(1, 1, 1, 16, dtype=torch.bfloat16)) is None
    assert "float64" in str(flex.unsupported_reason(torch.zeros(1, 1, 1, 16, dtype=torch.float64)))
    assert "16 dimensions" in str(flex.unsupported_reason(torch.zeros(1, 1, 1, 8)))
