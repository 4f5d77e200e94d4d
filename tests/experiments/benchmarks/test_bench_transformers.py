"""The bench of pretrained models, with a tiny one: its rows, and what does not depend on time."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from spangym.attention.transformers.control import control
from spangym.experiments.benchmarks.attention_only import AttentionOnlyModel
from spangym.experiments.benchmarks.bench_transformers import (
    SPAN,
    TransformersBench,
    cache_nbytes,
    run,
)

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=8192,
)


@pytest.fixture(scope="module")
def bench() -> TransformersBench:
    return TransformersBench(LlamaForCausalLM(CONFIG).eval(), "tiny", rounds=1, min_seconds=0)


def test_rows_of_a_quick_run(bench: TransformersBench) -> None:
    rows = {row.name: row for row in run(quick=True, bench=bench)}
    assert all(row.value is not None and row.value > 0 for row in rows.values())
    assert "attention of tiny, time over the model's own, ctx 1024, window 256" in rows
    assert "prefill of tiny, time over that without control, full span, ctx 1024" in rows
    sizes = "batch elements 1, ctx 2048"
    memory = "decoding with tiny, memory over the model's own cache"
    trimmed = rows[f"{memory}, trim, window {SPAN}, {sizes}"].value
    kept = rows[f"{memory}, read, window {SPAN}, {sizes}"].value
    assert trimmed is not None
    assert kept is not None
    assert trimmed <= 0.13
    assert 1 <= kept <= 1.1


@torch.inference_mode()
def test_attention_alone_is_under_control() -> None:
    model = AttentionOnlyModel(CONFIG, tokens=40).eval()
    expected = model()[0]
    with control(model, "full", example={}) as handle:
        assert torch.equal(model()[0], expected)
    with control(model, 8, sinks=0, example={}) as handle:
        model()
        assert handle.qk_pairs.tolist() == [8 * 9 // 2 + 32 * 8]


def test_memory_of_a_cache() -> None:
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 10, 8), torch.zeros(2, 1, 10, 8), 0)
    assert cache_nbytes(cache) == 2 * 2 * 10 * 8 * 4
