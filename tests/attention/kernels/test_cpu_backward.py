"""Gradients of the windowed kernel against those of the reference kernel, and their cost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import cpu, cpu_backward, reference
from spangym.attention.kernels.interface import Kernel, KernelInputs

from .test_kernels import plain_or_masked, select


def gradients(
    attend: Kernel, inputs: KernelInputs, names: tuple[str, ...] = ("output", "last_query")
) -> dict[str, Tensor]:
    """Gradients of a weighted sum of results with respect to all inputs that may require them."""
    leaves = {
        name: getattr(inputs, name).detach().clone().requires_grad_()
        for name in ("q", "k", "v", "inverse_temperature")
        if getattr(inputs, name) is not None
    }
    if inputs.v is inputs.k:
        del leaves["v"]
    given = replace(inputs, **{"v": leaves["k"], **leaves})
    edge, mask = inputs.spans.edge, inputs.mask
    if edge is not None:
        leaves["edge"] = edge.span.detach().to(inputs.q.dtype).requires_grad_()
        soft_edge = SoftEdge(leaves["edge"], edge.soft_edge_width)
        given = replace(given, spans=replace(given.spans, edge=soft_edge))
    if mask is not None and mask.dtype != torch.bool:
        # The gradient of -inf is not a number in the reference.
        leaves["mask"] = mask.detach().clamp_min(-30).to(inputs.q.dtype).requires_grad_()
        given = replace(given, mask=leaves["mask"])
    result = attend(given)
    generator = torch.Generator().manual_seed(0)
    has_keys = (result.passes > 0)[:, None, :, None]
    total = torch.zeros((), dtype=inputs.q.dtype)
    for name in names:
        values = getattr(result, name)
        weight = torch.randn(values.shape, generator=generator).to(values.dtype)
        total = total + (values * weight * has_keys).sum()
    if not total.requires_grad:  # All sequences are off.
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


@settings(max_examples=40, deadline=None)
@given(
    inputs=plain_or_masked(torch.float64, steps=(1, 2, 10)),
    chunk_scores=st.sampled_from([1, 500, 1 << 16]),
    transposed_keys=st.sampled_from([1, 1000]),
)
def test_gradients_equal_those_of_the_reference(
    inputs: KernelInputs, chunk_scores: int, transposed_keys: int
):
    """However the work is divided; keys are values or not; of the last queries too."""
    expected = gradients(reference.attend, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_backward, "_CHUNK_SCORES", chunk_scores)
        patch.setattr(cpu_backward, "_TRANSPOSED_KEYS", transposed_keys)
        got = gradients(cpu.attend_windows, inputs)
    assert got.keys() == expected.keys()
    for name, grad in got.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("causal", [False, True])
def test_windows_of_several_blocks_that_converge_at_different_passes(
    causal: bool, generator: torch.Generator
):
    q = torch.randn(2, 2, 600, 4, generator=generator, dtype=torch.float64)
    # Small inputs converge at once, large ones in a few passes.
    q[:, :, 100:250] *= 1e-5
    q[:, :, 300:500] *= 5
    spans = SpanGeometry(torch.tensor([7, 100]), torch.tensor([20, 130]), causal=causal)
    inverse = torch.tensor([[0.7, 1.2], [1.0, 0.9]], dtype=torch.float64)
    inputs = KernelInputs(q, q, q, spans, None, 10, inverse, return_lse=True)
    assert len(cpu.attend_windows(inputs).passes.unique()) > 2
    got, expected = (gradients(each, inputs) for each in (cpu.attend_windows, reference.attend))
    for name, grad in got.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_gradients_are_the_slopes_of_the_output(generator: torch.Generator):
    tensors = torch.randn(3, 1, 2, 12, 4, generator=generator, dtype=torch.float64).unbind()
    inverse = torch.tensor([[0.7, 1.2]], dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (*tensors, inverse)]
    spans = SpanGeometry(torch.tensor([4]), torch.tensor([6]))

    def output(q: Tensor, k: Tensor, v: Tensor, inverse: Tensor) -> Tensor:
        inputs = KernelInputs(q, k, v, spans, None, 3, inverse)
        return cpu.attend_windows(inputs).output

    assert gradcheck(output, leaves)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float32, 1e-5)]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_lower_precision(
    dtype: torch.dtype, tolerance: float, steps: int, generator: torch.Generator
):
    q = torch.randn(2, 2, 90, 16, generator=generator).to(dtype)
    spans = SpanGeometry(torch.tensor([8, 30]), torch.tensor([16, 50]))
    inputs = KernelInputs(q, q, q, spans, None, steps, torch.tensor([0.9, 1.1], dtype=dtype))
    precise = replace(inputs, q=q.double(), k=(k := q.double()), v=k)
    precise = replace(precise, inverse_temperature=torch.tensor([0.9, 1.1]).to(dtype).double())
    got = gradients(cpu.attend_windows, inputs, ("output",))
    expected = gradients(reference.attend, precise, ("output",))
    for name, grad in got.items():
        assert grad.dtype == dtype
        error = (grad.double() - expected[name]).norm() / expected[name].norm()
        assert error < tolerance, name


class CountElements(TorchDispatchMode):
    """Counts the elements that operations write, views excepted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [each.alias_info for each in func._schema.returns]
        if isinstance(result, Tensor) and (aliases[0] is None or aliases[0].is_write):
            self.written += result.numel()
        return result


def training_step(inputs: KernelInputs) -> None:
    q = inputs.q.detach().requires_grad_()
    cpu.attend_windows(replace(inputs, q=q, k=q, v=q)).output.sum().backward()


OPTIONS: dict[str, Callable[[Tensor, SpanGeometry], KernelInputs]] = {
    "refinement": lambda q, spans: KernelInputs(q, q, q, spans, steps=10),
    "causal": lambda q, spans: KernelInputs(q, q, q, replace(spans, causal=True), steps=10),
    "soft edge": lambda q, spans: KernelInputs(
        q, q, q, replace(spans, edge=SoftEdge(torch.tensor([30.0], requires_grad=True), 4))
    ),
    "mask": lambda q, spans: KernelInputs(
        q, q, q, spans, torch.zeros(q.shape[2], requires_grad=True)
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_step_writes_and_keeps_memory_in_proportion_to_the_length(
    option: str, generator: torch.Generator
):
    spans = SpanGeometry(torch.tensor([16]), torch.tensor([24]))
    written, kept = [], []
    for tokens in (1024, 2048):
        q = torch.randn(1, 2, tokens, 8, generator=generator)
        inputs = OPTIONS[option](q, spans)
        sizes: list[int] = []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with (
            CountElements() as counter,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        ):
            training_step(inputs)
        written.append(counter.written)
        kept.append(sum(sizes) / q.numel())
    # Gradients of the whole sequence for every block would nearly double the ratio.
    assert written[1] < 2.1 * written[0]
    # Queries, keys, the output that is multiplied, and the queries of nine passes.
    assert max(kept) < 13


@settings(max_examples=15, deadline=None)
@given(inputs=plain_or_masked(steps=(1, 3)))
def test_gradients_of_a_sequence_are_the_same_alone_and_every_time(inputs: KernelInputs):
    inputs = replace(inputs, mask=None)
    names = ("q", "k", "v", "inverse_temperature")

    def run(inputs: KernelInputs) -> list[Tensor]:
        weight = torch.ones(inputs.q.shape[1:])
        found = {name: getattr(inputs, name).detach().clone().requires_grad_() for name in names}
        output = cpu.attend_windows(replace(inputs, **found)).output
        if not output.requires_grad:
            return []
        return list(torch.autograd.grad((output * weight).sum(), list(found.values())))

    batch, again = run(inputs), run(inputs)
    assert all(map(torch.equal, batch, again))
    for index in range(len(inputs.q)):
        for grad, alone in zip(batch, run(select(inputs, index)), strict=True):
            assert torch.equal(grad[index], alone[0])


def test_checkpointing_gives_the_same_gradients(generator: torch.Generator):
    spans = SpanGeometry(torch.tensor([8]), torch.tensor([12]))
    x = torch.randn(1, 2, 100, 8, generator=generator).requires_grad_()

    def output(x: Tensor) -> Tensor:
        return cpu.attend_windows(KernelInputs(x, x, x, spans, steps=5)).output.square().sum()

    plain, saved = (
        torch.autograd.grad(each, x)[0]
        for each in (output(x), checkpoint(output, x, use_reentrant=False))
    )
    assert torch.equal(plain, saved)
    assert torch.equal(torch.func.grad(output)(x.detach()), plain)


def test_autocast_does_not_change_gradients(generator: torch.Generator):
    """Of a backward pass within it; its forward pass casts the inputs of the kernel."""
    spans = SpanGeometry(torch.tensor([8]), torch.tensor([12]))
    q = torch.randn(1, 2, 40, 8, generator=generator)
    inputs = KernelInputs(q, q, q, spans, None, 3, torch.tensor([[0.8, 1.2]]), return_lse=True)
    expected = gradients(cpu.attend_windows, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(cpu.attend_windows, inputs)
    for name, grad in got.items():
        assert torch.equal(grad, expected[name]), name


def test_second_derivatives_are_an_error():
    spans = SpanGeometry(torch.tensor([8]), torch.tensor([12]))
    x = torch.ones(1, 1, 20, 4, requires_grad=True)
    output = cpu.attend_windows(KernelInputs(x, x, x, spans)).output
    (grad,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
