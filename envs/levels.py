"""Levels: a fixed set of numbered chunks, from which the episodes of a training are drawn.

After Cobbe et al., Leveraging Procedural Generation to Benchmark Reinforcement Learning, 2020. The
content of a level depends on its number, the dataset and the size of the chunk alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.data.dataset import Dataset, sample_streams

MAX_LEVEL = 2**31 - 1
"""Upper bound of the number of a level."""


def draw_levels(
    generators: Sequence[np.random.Generator], start_level: int, num_levels: int, chunks: int
) -> NDArray[np.int64]:
    """Draw the levels of an episode in every environment, each with equal probability.

    Args:
        generators: Random generator of each environment.
        start_level: First level.
        num_levels: Number of levels.
        chunks: Chunks of an episode.

    Returns:
        Shape (num_envs, chunks).
    """
    end = start_level + num_levels
    return np.stack([each.integers(start_level, end, size=chunks) for each in generators])


def sample_levels(
    dataset: Dataset, levels: NDArray[np.int64], ctx: int, num_classes: int | None
) -> tuple[list[tuple[str, ...]], Tensor, Tensor | None]:
    """Sample the content of levels; results and errors as of `sample_streams`.

    Args:
        dataset: The dataset.
        levels: Levels of each environment, shape (num_envs, chunks).
        ctx: Tokens in a chunk.
        num_classes: Classes of the task; None if no targets are needed.

    Example:
        >>> from spangym.envs.data.dataset import NoiseDataset
        >>> _, content, _ = sample_levels(NoiseDataset(), np.array([[7, 3], [3, 7]]), 4, None)
        >>> content.shape, bool((content[0, 0] == content[1, 1]).all())
        (torch.Size([2, 2, 4]), True)
    """
    generators = [_level_generator(level) for level in levels.ravel().tolist()]
    content_types, content, targets = sample_streams(dataset, generators, 1, ctx, num_classes)
    flat = [only for (only,) in content_types]
    chunks = levels.shape[1]
    return (
        [tuple(flat[start : start + chunks]) for start in range(0, len(flat), chunks)],
        content.view(*levels.shape, *content.shape[2:]),
        None if targets is None else targets.view(*levels.shape, ctx),
    )


def _level_generator(level: int) -> np.random.Generator:
    # The key separates levels from the streams of environments with the same seed.
    return np.random.default_rng(np.random.SeedSequence(level, spawn_key=(1,)))
