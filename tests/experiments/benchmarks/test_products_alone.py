"""The bound of refinement does the work of the kernel, no more and no less."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from spangym.attention import SpanGeometry
from spangym.attention.kernels import cpu
from spangym.attention.kernels.interface import KernelInputs
from spangym.experiments.benchmarks.products_alone import products_alone


def test_it_multiplies_for_each_query_key_pair_and_pass(generator: torch.Generator):
    q = torch.randn(3, 2, 140, 8, generator=generator)
    q[:, :, 40:120] = 0.0  # Windows that converge early.
    spans = SpanGeometry(torch.tensor([20, 1, 90]), torch.tensor([30, 0, 120]))
    inputs = KernelInputs(q, q, q, spans, steps=10)
    first, end = spans.intervals(140)
    passes = cpu.attend(inputs).passes
    assert len(passes.unique()) > 2
    multiply = products_alone(inputs)
    with FlopCounterMode(display=False) as counter:
        multiply()
    pairs = ((end - first) * passes).sum().item()
    # Two products of two operations for each pair, head and dimension.
    assert counter.get_total_flops() == 4 * pairs * 2 * 8
