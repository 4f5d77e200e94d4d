"""Both ways of the CPU kernel, dense and windowed, and the work that they do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spangym.attention import SpanGeometry
from spangym.attention.geometry import SoftEdge
from spangym.attention.kernels import cpu, cpu_dense, cpu_products, reference
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.kernels.refinement import convergence_threshold, not_converged

from .test_kernels import select


class CountQKPairs(TorchDispatchMode):
    """Counts the query-key pairs of each fused call, or of each product with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.is_product: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "scaled_dot_product" in str(func):
            q, k = args[:2]
            self.calls.append(q.shape[0] * q.shape[2] * k.shape[2])
            self.is_product.append(False)
        elif "baddbmm" in str(func):
            q, k = args[1:3]
            self.calls.append(q.shape[0] * q.shape[1] * k.shape[2])
            self.is_product.append(True)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [4, cpu_products.MAX_HEAD_SIZE + 4])
def test_windows_score_their_intervals_and_stop_when_they_have_converged(size: int):
    q = torch.randn(2, 1, 8, size, generator=torch.Generator().manual_seed(1))
    q[:, :, 4:] = 0.0  # A window of zeros converges at once.
    spans = SpanGeometry(torch.tensor([4, 4]), torch.tensor([4, 4]))
    with CountQKPairs() as counter:
        got = cpu.attend_windows(KernelInputs(q, q, q, spans, steps=10))
    first, end = spans.intervals(8)
    assert sum(counter.calls) == ((end - first) * got.passes).sum().item()
    assert counter.calls[0] > counter.calls[1]


def test_blocks_of_windows_are_joined_in_order(generator: torch.Generator):
    """Long enough for several blocks, some of whose windows converge early."""
    q = torch.randn(2, 1, 1000, 4, generator=generator, dtype=torch.float64)
    q[:, :, torch.rand(1000, generator=generator) < 0.5] *= 1e-3
    spans = SpanGeometry(torch.tensor([7, 100]), torch.tensor([20, 130]))
    inverse = torch.ones(2, dtype=torch.float64)
    inputs = KernelInputs(q, q, q, spans, steps=10, inverse_temperature=inverse)
    got, expected = cpu.attend(inputs), reference.attend(inputs)
    torch.testing.assert_close(got.output, expected.output)
    assert torch.equal(got.passes, expected.passes)
    assert len(set(got.passes[0].tolist())) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_temperature", [False, True])
def test_without_gradients_every_bit_is_the_same(
    dtype: torch.dtype, with_temperature: bool, generator: torch.Generator
):
    """The queries of all passes are kept or not, with heads of this size."""
    q = torch.randn(2, 2, 300, cpu_products.MAX_HEAD_SIZE + 8, generator=generator).to(dtype)
    q[:, :, 100:170] = 0.0  # Windows of zeros converge at once.
    spans = SpanGeometry(torch.tensor([7, 100]), torch.tensor([20, 130]))
    inverse = torch.tensor([0.9, 1.1], dtype=dtype) if with_temperature else None
    inputs = KernelInputs(q, q, q, spans, None, 10, inverse, return_lse=True)
    expected = cpu.attend_windows(replace(inputs, q=q.clone().requires_grad_()))
    got = cpu.attend_windows(inputs)
    for one, other in zip(got, expected, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert len(set(got.passes[0].tolist())) > 1


@pytest.mark.parametrize("count", [1, 37, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_of_a_sum_is_exact(count: int, dtype: torch.dtype):
    threshold = torch.tensor(convergence_threshold(count, dtype), dtype=dtype)
    ulp = torch.nextafter(threshold, torch.ones((), dtype=dtype)) - threshold
    sums = threshold + torch.arange(-100, 101) * ulp
    assert torch.equal(not_converged(sums / count), torch.arange(-100, 101) >= 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "steps"), [(256, 256, 1), (257, 256, 1), (128, 128, 4), (129, 128, 4)]
)
def test_dense_and_windowed_agree_where_they_meet(
    queries: int, keys: int, steps: int, causal: bool, generator: torch.Generator
):
    q = torch.randn(3, 2, queries, 8, generator=generator)
    k = torch.randn(3, 2, keys, 8, generator=generator)
    spans = SpanGeometry(torch.tensor([4, 1, 90]), torch.tensor([6, 0, 120]), causal=causal)
    inverse = torch.tensor([0.5, 1.0, 1.5])
    inputs = KernelInputs(q, k, k, spans, steps=steps, inverse_temperature=inverse)
    with CountQKPairs() as counter:
        got = cpu.attend(inputs)
    assert (counter.calls[0] == 3 * queries * keys) == (queries == keys)
    for other in (cpu.attend_windows, reference.attend):
        expected = other(inputs)
        torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.passes, expected.passes)


def test_the_dense_kernel_takes_short_sequences_without_mask_and_padding():
    q, spans = torch.zeros(2, 1, 8, 4), SpanGeometry(torch.tensor([4, 4]), torch.tensor([4, 4]))
    inputs = KernelInputs(q, q, q, spans)
    long = torch.zeros(2, 1, cpu_dense.MAX_QK_PAIRS // 8 + 1, 4)
    longish = torch.zeros(2, 1, cpu_dense.MAX_QK_PAIRS_ITERATIVE // 8 + 1, 4)
    edge = replace(spans, edge=SoftEdge(spans.span, 2))
    supported = [
        inputs,
        replace(inputs, k=longish),
        replace(inputs, steps=2),
        replace(inputs, spans=edge),
    ]
    refused = [
        replace(inputs, k=long),
        replace(inputs, k=q[:, :, :0]),
        replace(inputs, k=longish, steps=2),
        replace(inputs, k=longish, spans=edge),
        replace(inputs, spans=replace(spans, key_lengths=torch.tensor([8, 3]))),
        replace(inputs, mask=torch.ones(8, 8, dtype=torch.bool)),
        replace(inputs, q=q.bfloat16(), k=q.bfloat16()),
    ]
    assert all(map(cpu_dense.is_supported, supported))
    assert not any(map(cpu_dense.is_supported, refused))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sequence_of_a_large_batch_has_the_same_bits_alone(
    threads: int, generator: torch.Generator
):
    """So many that they are masked chunk by chunk, at the size of the trained environments."""
    batch, before = 100, torch.get_num_threads()
    q, k, v = torch.randn(3, batch, 128, 4, 8, generator=generator).transpose(2, 3)
    scale = torch.rand(batch, generator=generator).where(torch.arange(batch) % 7 > 0, 0)
    spans = replace(SpanGeometry.from_scale(scale, win_size=16, max_span=144), causal=True)
    inverse = 0.5 + torch.rand(batch, generator=generator)
    inputs = KernelInputs(q, k, v, spans, inverse_temperature=inverse)
    torch.set_num_threads(threads)
    try:
        many = cpu.attend(inputs)
        for index in range(0, batch, 3):
            alone = cpu.attend(select(inputs, index))
            assert torch.equal(many.output[index], alone.output[0])
            assert (scale[index] > 0) == alone.output.any()
    finally:
        torch.set_num_threads(before)
