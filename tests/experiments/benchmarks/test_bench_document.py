"""`spangym bench document`: what a document costs with and without control."""

from pathlib import Path

import pytest
import torch

from spangym.attention import ExportedPolicy, ObservationSpec
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.experiments.benchmarks import bench_document
from tests.attention.transformers.tiny_llama import save_tiny_llama

SPANS = [4, 16, "full"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


def values(model: Path, agent: Path | None) -> dict[str, float | None]:
    rows = bench_document.run(agent, str(model), num_bytes=200, ctx=64, rounds=1)
    return {row.name: row.value for row in rows}


def test_every_span_is_measured_and_longer_ones_score_more_pairs(model: Path):
    found = values(model, None)
    spans = ("span 16", "span 32", bench_document.FULL)
    pairs = [found[f"share of query-key pairs, {name}"] or 0.0 for name in spans]
    assert pairs == sorted(pairs)
    assert pairs[-1] == 1.0
    # Spans of a chunk or more are full span.
    assert found["bits a byte, span 64"] == found[f"bits a byte, {bench_document.FULL}"]
    assert found["seconds, span 16"]


def test_an_agent_chooses_among_its_own_spans(model: Path, tmp_path: Path):
    spec = ObservationSpec(dims=32, encoding="features", pool_groups=2, autocorrelation=True)
    bias = torch.tensor([0.0, 1.0, 0.0])
    head = MLPPolicy(spec, [torch.zeros(3, spec.num_features)], [bias], num_actions=3)
    metadata = {"name": "always", "spans": SPANS, "sinks": 2}
    path = tmp_path / "always.safetensors"
    ExportedPolicy(spec, head, metadata=metadata).save(path)
    found = values(model, path)
    assert found["share of query-key pairs, agent always"] == pytest.approx(
        # 64 tokens: 16 keys and 2 sinks, fewer at the start.
        (sum(range(1, 19)) + 46 * 18) / (64 * 65 / 2)
    )
    assert found["bits a byte, agent always"] != found["bits a byte, full span"]
    assert "bits a byte, span 4" in found
