"""Batches of streams for the training of models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spangym.envs.data.dataset import Dataset, next_token_targets


def sample_batch(
    dataset: Dataset, generators: Sequence[np.random.Generator], chunks: int, ctx: int
) -> tuple[Tensor, Tensor]:
    """Draw one stream from each generator: content and targets, shape (batch, chunks, ctx).

    Content of frames has shape (batch, chunks, ctx, channels).
    """
    streams = [dataset.sample(each, chunks, ctx) for each in generators]
    dtype = np.float32 if dataset.channels else np.int64
    content = torch.from_numpy(np.stack([each.content for each in streams]).astype(dtype))
    targets = [each.targets for each in streams if each.targets is not None]
    return content, torch.from_numpy(np.stack(targets)) if targets else next_token_targets(content)
