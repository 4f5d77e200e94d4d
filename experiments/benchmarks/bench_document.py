"""A document of mixed content read by a pretrained model, with and without span control."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spangym.attention import ExportedPolicy, load_controller
from spangym.attention.transformers.control import SpanControl, control
from spangym.attention.transformers.load_model import load_model, token_bytes
from spangym.attention.transformers.span_choosers import DEFAULT_SPANS
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.token_dataset import TokenDataset
from spangym.experiments.benchmarks.measure import BenchRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATASET = "pretrained-mixture"
BYTES = 64 * 1024
FULL = "full span"


@dataclass(frozen=True)
class Document:
    """Chunks of token ids.

    Attributes:
        chunks: Token ids, int64 of shape (chunks, tokens).
        bytes_of: Number of bytes of each token, of the same shape.
    """

    chunks: Tensor
    bytes_of: Tensor

    @classmethod
    def mixed(cls, tokenizer: Any, ctx: int, num_bytes: int) -> Document:
        """Chunks of the evaluation split, until they have so many bytes."""
        dataset = TokenDataset(make_dataset(DATASET, "evaluation"), tokenizer)
        sizes, generator = token_bytes(tokenizer), np.random.default_rng(0)
        chunks: list[Tensor] = []
        while sum(int(sizes[each].sum()) for each in chunks) < num_bytes:
            chunks.append(torch.from_numpy(dataset.sample(generator, 1, ctx).content[0]))
        ids = torch.stack(chunks)
        return cls(ids, sizes[ids])


def run(
    agent: Path | None, model: str, *, num_bytes: int = BYTES, ctx: int = 512, rounds: int = 3
) -> Iterator[BenchRow]:
    """Bits a byte, query-key pairs and seconds of a document with every fixed span and an agent.

    Args:
        agent: File of an exported agent; None for fixed spans only.
        model: Name, folder or hub id of the model.
        num_bytes: Least number of bytes of the document.
        ctx: Tokens of a chunk, which is one pass and one decision for each group of layers.
        rounds: Passes over the document with each, in turns; the median is reported.
    """
    pretrained, tokenizer = load_model(model)
    document = Document.mixed(tokenizer, ctx, num_bytes)
    controls = _make_controls(pretrained, agent)
    seconds: dict[str, list[float]] = {name: [] for name in controls}
    for number in range(rounds):
        for name, handle in controls.items():
            bits, pairs, taken = _read(pretrained, document, handle)
            seconds[name].append(taken)
            if number == 0:
                yield BenchRow(f"bits a byte, {name}", bits, None, "lower")
                yield BenchRow(f"share of query-key pairs, {name}", pairs, None, "lower")
    for name, own in seconds.items():
        yield BenchRow(f"seconds, {name}", statistics.median(own), None, "lower")


def _make_controls(model: PreTrainedModel, agent: Path | None) -> dict[str, SpanControl]:
    spans: Sequence[Any] = DEFAULT_SPANS
    controls: dict[str, SpanControl] = {}
    if agent is not None:
        policy = load_controller(agent, layer=0)
        spans = policy.metadata.get("spans", spans)
        groups = policy.observation.num_layers
        name = f"agent {policy.metadata.get('name', agent.stem)}"
        controls[name] = control(model, agent, groups=groups, sinks=_sinks(policy))
    for span in reversed(spans):
        name = FULL if span == "full" else f"span {span}"
        controls[name] = control(model, span)
    return controls


def _sinks(policy: ExportedPolicy) -> int:
    return policy.metadata.get("sinks", 4)


@torch.inference_mode()
def _read(
    model: PreTrainedModel, document: Document, handle: SpanControl
) -> tuple[float, float, float]:
    """Bits a byte, share of full attention's query-key pairs, and seconds."""
    bits, pairs, full_pairs = 0.0, 0, 0
    start = time.perf_counter()
    with handle:
        for ids in document.chunks:
            bits += next_token_bits(model(ids[None], use_cache=False).logits[0], ids)
            pairs += int(handle.qk_pairs)
            full_pairs += int(handle.full_qk_pairs)
    seconds = time.perf_counter() - start
    # The first token of a chunk is not predicted.
    num_bytes = int(document.bytes_of[:, 1:].sum())
    return bits / num_bytes, pairs / full_pairs, seconds


def next_token_bits(logits: Tensor, ids: Tensor) -> float:
    """Bits of all tokens but the first.

    Args:
        logits: Shape (tokens, vocabulary).
        ids: The tokens, int64 of shape (tokens,).
    """
    nats = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
    return nats.item() / math.log(2)
