"""Every kernel against the definition, written out here query by query in float64."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import cpu, flex, reference
from spangym.attention.kernels.interface import Kernel, KernelInputs

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method"),
]

CPU_KERNELS: dict[str, Kernel] = {"cpu": cpu.attend, "windows": cpu.attend_windows}
# FlexAttention has no gradients on the CPU.
DIFFERENTIABLE = {**CPU_KERNELS, "reference": reference.attend}
KERNELS = {**DIFFERENTIABLE, "flex": flex.attend}


@pytest.fixture(autouse=True)
def _eager_flex() -> Iterator[None]:
    """FlexAttention as plain operations; it would be compiled for every case otherwise."""
    with torch.compiler.set_stance("force_eager"):
        yield


def by_definition(case: KernelInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and passes, window by window and query by query, in float64."""
    q, k, v = case.q.double(), case.k.double(), case.v.double()
    batch, heads, queries, size = q.shape
    keys, spans = k.shape[2], case.spans
    inverse = torch.ones(batch) if case.inverse_temperature is None else case.inverse_temperature
    inverse = inverse.double().reshape(batch, -1, 1)
    mask = torch.ones(1, dtype=torch.bool) if case.mask is None else case.mask
    added = torch.zeros(mask.shape, dtype=torch.float64)
    added = added.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask.double()
    added = added.expand(batch, heads, queries, keys)
    nothing = torch.zeros(heads, size, dtype=torch.float64)
    out = [[nothing] * queries for _ in range(batch)]
    lse = torch.zeros(batch, heads, queries, dtype=torch.float64)
    passes = torch.zeros(batch, queries, dtype=torch.int64)
    soft_margin = 0 if spans.edge is None else spans.edge.soft_edge_width
    for index in range(batch):
        window, span = int(spans.window[index]), int(spans.span[index])
        last_query = queries if spans.query_lengths is None else int(spans.query_lengths[index])
        last_key = keys if spans.key_lengths is None else int(spans.key_lengths[index])
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
                {query: inverse[index] * q[index, :, query] for query in rows},
            )
            for step in range(case.steps):
                before = list(out[index])
                for query in sorted(moving):
                    if step:
                        now[query] = now[query] + inverse[index] * before[query]
                    visible = range(first, min(end, query + 1) if spans.causal else end)
                    scores = k[index, :, visible] @ now[query][:, :, None] / size**0.5
                    scores = scores[..., 0] + added[index, :, query, visible]
                    if spans.edge is not None:
                        far = torch.tensor(
                            [max(key - start + 1, start + window - key) for key in visible]
                        )
                        weight = (spans.edge.span[index] - far) / spans.edge.soft_edge_width + 1
                        tiny = torch.finfo(torch.float32).tiny
                        scores = scores + weight.clamp(tiny, 1).log()
                    blind = (scores == -torch.inf).all(-1)
                    scores = scores.masked_fill(blind[:, None], 0.0)
                    seen = (scores.softmax(-1)[:, None] @ v[index, :, visible])[:, 0]
                    out[index][query] = seen.masked_fill(blind[:, None], 0.0)
                    lse[index, :, query] = scores.detach().logsumexp(-1).masked_fill(blind, 0.0)
                    passes[index, query] += 1
                change = {at: (out[index][at] - before[at]).abs().mean() for at in moving}
                if spans.per_query_convergence:
                    moving = {at for at in moving if change[at] >= 1e-4 + 0.1 * change[at]}
                elif moving:
                    mean = torch.stack(list(change.values())).mean()
                    moving = moving if mean >= 1e-4 + 0.1 * mean else set()
    whole = torch.stack([torch.stack(each, dim=1) for each in out])
    return whole, lse, passes


@st.composite
def masked_inputs(
    draw: st.DrawFn, dtype: torch.dtype = torch.float32, steps: tuple[int, ...] = (1,)
) -> KernelInputs:
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    queries, size = draw(st.integers(1, 40)), draw(st.sampled_from([4, 8]))
    keys = draw(st.just(queries) | st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    # Strided views, as a layer gives them: heads innermost; or elements that are not contiguous.
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
    # The temperature of a sequence, or of each of its heads.
    shape = draw(st.sampled_from([(batch,), (batch, heads)]))
    inverse = 0.5 + torch.rand(shape, generator=generator, dtype=dtype)
    return KernelInputs(
        q,
        k,
        k if draw(st.booleans()) else v,
        spans,
        masks[kind],
        draw(st.sampled_from(steps)),
        inverse,
        return_lse=True,
    )


def plain_or_masked(
    dtype: torch.dtype = torch.float32, steps: tuple[int, ...] = (1,)
) -> st.SearchStrategy[KernelInputs]:
    """Half of them with neither mask nor edge, as in the trained environments."""
    return masked_inputs(dtype, steps) | masked_inputs(dtype, steps).map(
        lambda inputs: replace(inputs, mask=None, spans=replace(inputs.spans, edge=None))
    )


def _lengths(batch: int, tokens: int) -> st.SearchStrategy[Tensor]:
    each = st.integers(0, tokens)
    return st.lists(each, min_size=batch, max_size=batch).map(torch.tensor)


def assert_close(name: str, got: Tensor | None, expected: Tensor, rtol: float, atol: float) -> None:
    assert got is not None
    message: Callable[[str], str] = lambda text: f"kernel {name}: {text}"  # noqa: E731
    torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol, msg=message)


@settings(max_examples=60, deadline=None)
@given(inputs=plain_or_masked())
def test_one_pass_equals_the_definition(inputs: KernelInputs):
    out, lse, passes = by_definition(inputs)
    for name, attend in KERNELS.items():
        got = attend(inputs)
        assert_close(name, got.output, out, rtol=1e-5, atol=2e-6)
        assert_close(name, got.log_sum_exp, lse, rtol=1e-5, atol=2e-6)
        assert torch.equal(got.passes, passes), name


@settings(max_examples=40, deadline=None)
@given(inputs=masked_inputs(torch.float64, steps=(2, 10)))
def test_refinement_equals_the_definition(inputs: KernelInputs):
    out, lse, passes = by_definition(inputs)
    for name, attend in DIFFERENTIABLE.items():
        got = attend(inputs)
        assert torch.equal(got.passes, passes), name
        assert_close(name, got.output, out, rtol=1e-5, atol=1e-6)
        assert_close(name, got.log_sum_exp, lse, rtol=1e-5, atol=1e-6)
    # The queries that are returned are those of the last pass.
    last_query = cpu.attend_windows(inputs).last_query
    assert last_query is not None
    last = replace(inputs, q=last_query, steps=1, inverse_temperature=None)
    assert_close("windows", by_definition(last)[0], out, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(inputs=plain_or_masked(torch.float64, steps=(1, 3)))
def test_gradients_equal_those_of_the_definition(inputs: KernelInputs):
    """Those of the soft span and of an additive mask, too."""
    weight = torch.randn(inputs.q.shape, generator=torch.Generator().manual_seed(0))
    definition = gradients(lambda given: by_definition(given)[0], inputs, weight)
    for name, attend in DIFFERENTIABLE.items():
        got = gradients(lambda given, attend=attend: attend(given).output, inputs, weight)
        for leaf, expected in definition.items():
            assert_close(f"{name}, {leaf}", got[leaf], expected, rtol=1e-4, atol=1e-6)


def gradients(
    function: Callable[[KernelInputs], Tensor], inputs: KernelInputs, weight: Tensor
) -> dict[str, Tensor]:
    """Gradients with respect to everything that may require them; keys are values."""
    leaves = {
        name: getattr(inputs, name).clone().requires_grad_()
        for name in ("q", "k", "inverse_temperature")
    }
    inputs = replace(inputs, **leaves, v=leaves["k"])
    if inputs.spans.edge is not None:
        leaves["span"] = inputs.spans.edge.span.double().requires_grad_()
        edge = SoftEdge(leaves["span"], inputs.spans.edge.soft_edge_width)
        inputs = replace(inputs, spans=replace(inputs.spans, edge=edge))
    if inputs.mask is not None and inputs.mask.dtype != torch.bool:
        leaves["mask"] = inputs.mask.double().requires_grad_()
        inputs = replace(inputs, mask=leaves["mask"])
    out = function(inputs)
    if out.requires_grad:  # Otherwise all sequences are off.
        (out * weight).sum().backward()
    found = {name: 0 * leaf if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return {name: each.masked_fill(torch.isneginf(leaves[name]), 0) for name, each in found.items()}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_sequences_that_are_off(
    name: str, dtype: torch.dtype, generator: torch.Generator
):
    q = torch.randn(3, 2, 30, 16, generator=generator, dtype=torch.float64).to(dtype)
    spans = SpanGeometry(torch.tensor([4, 1, 9]), torch.tensor([6, 0, 12]))
    inputs = KernelInputs(q, q, q, spans, return_lse=True)
    got, (out, lse, _) = KERNELS[name](inputs), by_definition(inputs)
    assert got.log_sum_exp is not None
    assert got.output.dtype == dtype
    assert got.log_sum_exp.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 2e-2 if dtype != torch.float64 else 1e-9
    torch.testing.assert_close(got.output.double(), out, rtol=0, atol=tolerance)
    torch.testing.assert_close(got.log_sum_exp.double(), lse, rtol=0, atol=2 * tolerance)


@settings(max_examples=20, deadline=None)
@given(inputs=plain_or_masked(steps=(1, 3)))
def test_a_sequence_gives_the_same_alone(inputs: KernelInputs):
    for name, attend in KERNELS.items():
        batched = attend(inputs)
        for index in range(len(inputs.q)):
            alone = attend(select(inputs, index)).output
            if name in CPU_KERNELS:
                assert torch.equal(batched.output[index], alone[0]), name
            else:  # A batched matrix product may round differently.
                torch.testing.assert_close(batched.output[index], alone[0])


def select(inputs: KernelInputs, index: int) -> KernelInputs:
    one, mask, inverse = slice(index, index + 1), inputs.mask, inputs.inverse_temperature
    k = inputs.k[one]
    return replace(
        inputs,
        q=inputs.q[one],
        k=k,
        v=k if inputs.v is inputs.k else inputs.v[one],
        spans=inputs.spans.select(index),
        mask=mask if mask is None or mask.ndim < 4 or len(mask) == 1 else mask[one],
        inverse_temperature=None if inverse is None else inverse[one],
    )
