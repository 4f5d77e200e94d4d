"""Span control against the presses of kvpress, on key-value caches of equal size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from spangym.attention.transformers.control import control
from spangym.attention.transformers.load_model import load_model, token_bytes
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.token_dataset import TokenDataset
from spangym.experiments.benchmarks.bench_document import DATASET, next_token_bits
from spangym.experiments.benchmarks.measure import BenchRow

KEPT = (64, 128, 256)
"""Numbers of keys that a layer keeps of the context."""

SINKS = 4
CONTROL = "span control"


def run(
    model: str, *, documents: int = 24, context: int = 448, scored: int = 64
) -> Iterator[BenchRow]:
    """Excess bits a byte at the end of documents, over those with the full cache.

    The context is read with full attention. Then a press keeps some keys of each layer, to which
    those of the last tokens are added; under span control there are never more than that.

    Args:
        model: Name, folder or hub id of the model.
        documents: Number of documents, of the evaluation split.
        context: Tokens before the compression.
        scored: Tokens after it.

    Raises:
        ValueError: kvpress is not installed.
    """
    presses = _presses()
    pretrained, tokenizer = load_model(model)
    dataset = TokenDataset(make_dataset(DATASET, "evaluation"), tokenizer)
    sizes, generator = token_bytes(tokenizer), np.random.default_rng(0)
    excess: dict[str, list[float]] = {}
    for _ in range(documents):
        ids = torch.from_numpy(dataset.sample(generator, 1, context + scored).content)
        num_bytes = int(sizes[ids[0, context + 1 :]].sum())
        full = _bits(pretrained, ids, context)
        for kept in KEPT:
            window = control(pretrained, kept - SINKS, sinks=SINKS, cache="trim")
            found = {CONTROL: _bits(pretrained, ids, context, after=window)}
            for name, press in presses.items():
                own = press(compression_ratio=1 - kept / context)
                found[name] = _bits(pretrained, ids, context, during=own(pretrained))
            for name, bits in found.items():
                row = f"excess bits a byte, {name}, {kept} keys"
                excess.setdefault(row, []).append((bits - full) / num_bytes)
    for row, own in excess.items():
        yield BenchRow(row, fmean(own), None, "lower")


def _presses() -> dict[str, Any]:
    try:
        from kvpress import (  # pyright: ignore[reportMissingImports]
            KnormPress,
            SnapKVPress,
            StreamingLLMPress,
        )
    except ImportError as error:
        raise ValueError(
            "bench kvpress needs the extra kvpress: pip install 'spangym[kvpress]', which has an "
            "older version of transformers"
        ) from error
    return {"StreamingLLM": StreamingLLMPress, "Knorm": KnormPress, "SnapKV": SnapKVPress}


@torch.inference_mode()
def _bits(
    model: PreTrainedModel,
    ids: Tensor,
    context: int,
    during: contextlib.AbstractContextManager[Any] | None = None,
    after: contextlib.AbstractContextManager[Any] | None = None,
) -> float:
    """Bits of the tokens after the context, but the first, with something around either pass."""
    cache = DynamicCache()
    with during or contextlib.nullcontext():
        model(ids[:, :context], past_key_values=cache, use_cache=True)
    # A press shortens the cache, but later tokens keep their positions.
    positions = torch.arange(context, ids.shape[1])[None]
    with after or contextlib.nullcontext():
        output = model(ids[:, context:], past_key_values=cache, position_ids=positions)
    return next_token_bits(output.logits[0], ids[0, context:])
