"""Kernels of a CUDA device against the float64 reference on the CPU."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import flex, reference
from spangym.attention.kernels.interface import Kernel, KernelInputs

from ...factories import relative_error

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("exact_products")]

DEVICE = "cuda"
BATCH, HEADS, TOKENS = 4, 2, 400
KINDS = ("plain", "causal", "lengths", "mask", "soft", "soft causal", "cross")
SIZES = (16, 64, 128)
ERRORS = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}
"""Largest relative error of the outputs; of the gradients three times as much."""
# Each is compiled, which takes seconds: dtypes and head sizes take turns.
CASES = [
    (torch.float64, "mask", 64),
    *((torch.bfloat16, "plain", size) for size in SIZES),
    *(([*ERRORS][number % 3], kind, SIZES[number // 2 % 3]) for number, kind in enumerate(KINDS)),
]


def make_case(kind: str, dtype: torch.dtype, size: int) -> KernelInputs:
    """Inputs of a kernel on the CPU, in float64, that the dtype represents exactly."""
    generator = torch.Generator().manual_seed(size)
    keys = 250 if kind == "cross" else TOKENS

    def draw(tokens: int) -> Tensor:
        drawn = torch.randn(BATCH, HEADS, tokens, size, generator=generator)
        return drawn.to(dtype).double()

    window, span = torch.tensor([1, 40, 128, 400]), torch.tensor([3, 90, 128, 0])
    lengths = torch.tensor([400, 77, 128, 0])
    spans = SpanGeometry(
        window,
        span,
        causal="causal" in kind,
        query_lengths=lengths if kind == "lengths" else None,
        key_lengths=lengths if kind == "lengths" else None,
        edge=SoftEdge(span + 0.25, 32) if "soft" in kind else None,
    )
    mask = None
    if kind == "mask":
        mask = torch.rand(BATCH, 1, TOKENS, keys, generator=generator) < 0.7
    return KernelInputs(draw(TOKENS), draw(keys), draw(keys), spans, mask)


def on_device(case: KernelInputs, dtype: torch.dtype) -> KernelInputs:
    def optional(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(DEVICE)

    spans, edge = case.spans, case.spans.edge
    return KernelInputs(
        case.q.to(DEVICE, dtype),
        case.k.to(DEVICE, dtype),
        case.v.to(DEVICE, dtype),
        replace(
            spans,
            window=spans.window.to(DEVICE),
            span=spans.span.to(DEVICE),
            query_lengths=optional(spans.query_lengths),
            key_lengths=optional(spans.key_lengths),
            edge=None if edge is None else replace(edge, span=edge.span.to(DEVICE)),
        ),
        optional(case.mask),
        case.steps,
        optional(case.inverse_temperature),
        case.return_lse,
    )


def kernel_of(dtype: torch.dtype) -> Kernel:
    return reference.attend if dtype == torch.float64 else flex.attend


def with_gradients(case: KernelInputs, kernel: Kernel) -> list[Tensor]:
    """Output and gradients, in float64 on the CPU."""
    q, k, v = (each.detach().requires_grad_() for each in (case.q, case.k, case.v))
    spans = case.spans
    edge = []
    if spans.edge is not None:
        edge = [spans.edge.span.detach().requires_grad_()]
        spans = replace(spans, edge=replace(spans.edge, span=edge[0]))
    output = kernel(KernelInputs(q, k, v, spans, case.mask)).output
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((output * weights.to(output)).sum(), [q, k, v, *edge])
    return [each.detach().cpu().double() for each in (output, *gradients)]


@pytest.mark.parametrize(("dtype", "kind", "size"), CASES)
def test_output_and_gradients(dtype: torch.dtype, kind: str, size: int):
    case = make_case(kind, dtype, size)
    expected = with_gradients(case, reference.attend)
    found = with_gradients(on_device(case, dtype), kernel_of(dtype))
    errors = [relative_error(*each) for each in zip(found, expected, strict=True)]
    assert errors[0] < ERRORS[dtype]
    assert max(errors[1:]) < 3 * ERRORS[dtype]


@pytest.mark.parametrize("kind", ["plain", "causal", "lengths"])
def test_refinement(kind: str):
    case = replace(
        make_case(kind, torch.float32, 32), steps=10, inverse_temperature=torch.ones(BATCH)
    )
    case.q[:, :, 200:] *= 0.01  # These windows converge at once.
    expected, found = reference.attend(case), flex.attend(on_device(case, torch.float32))
    assert torch.equal(found.passes.cpu(), expected.passes)
    assert relative_error(found.output.cpu().double(), expected.output) < 1e-4


def test_log_sum_exp():
    case = replace(make_case("lengths", torch.float32, 64), return_lse=True)
    expected, found = reference.attend(case), flex.attend(on_device(case, torch.float32))
    assert expected.log_sum_exp is not None
    assert found.log_sum_exp is not None
    torch.testing.assert_close(
        found.log_sum_exp.cpu().double(), expected.log_sum_exp, rtol=1e-5, atol=1e-5
    )


def test_one_compilation_serves_all_spans_and_nothing_waits_for_the_device():
    case = on_device(make_case("plain", torch.bfloat16, 64), torch.bfloat16)
    drawn = torch.rand(6, BATCH, device=DEVICE).unbind()
    spans = [SpanGeometry.from_scale(each, win_size=128, max_span=192) for each in drawn]
    flex.attend(replace(case, spans=spans[0]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.compiler.set_stance("fail_on_recompile"):
            for each in spans[1:]:
                flex.attend(replace(case, spans=each))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_sequence_does_not_depend_on_its_batch():
    case = on_device(make_case("lengths", torch.float32, 64), torch.float32)
    together = flex.attend(case).output
    for index in range(BATCH):
        one = slice(index, index + 1)
        alone = KernelInputs(case.q[one], case.k[one], case.v[one], case.spans.select(index))
        torch.testing.assert_close(flex.attend(alone).output, together[one], rtol=1e-5, atol=1e-6)
