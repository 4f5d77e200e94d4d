"""An episode's content: drawn from its dataset, and looked at before anything runs on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spangym.envs.data.dataset import (
    Dataset,
    Stream,
    check_stream,
    check_targets,
    next_token_targets,
)
from spangym.envs.env_config import EnvConfig
from spangym.envs.state import Episode


def sample_episode(
    config: EnvConfig,
    generators: Sequence[np.random.Generator],
    dataset: Dataset,
    num_classes: int,
    needs_task: bool,
) -> tuple[list[tuple[str, ...]], Episode]:
    """Draw the environments' streams, and look whether they are what they are to be.

    Args:
        config: What is run.
        generators: Source of each environment's randomness.
        dataset: What the streams are drawn from.
        num_classes: What the stack tells apart.
        needs_task: Whether there have to be targets.

    Returns:
        The content types of each environment's chunks, and the content, on the host.

    Raises:
        ValueError: A stream is not what its dataset was asked for.
    """
    # One chunk more than is decided on: the episode is truncated, and its last observation is
    # what the next decision would have seen.
    chunks = config.chunks_per_episode + 1
    streams = [dataset.sample(each, chunks, config.ctx) for each in generators]
    for stream in streams:
        if not isinstance(stream, Stream):
            raise ValueError(
                f"dataset {type(dataset).__name__} must give a Stream, it gave a "
                f"{type(stream).__name__}"
            )
        try:
            check_stream(stream, chunks, config.ctx, dataset.channels)
            if needs_task:
                check_targets(stream, num_classes)
        except ValueError as error:
            raise ValueError(f"dataset {type(dataset).__name__}: {error}") from error
    stacked = np.stack([stream.content for stream in streams])
    content = torch.from_numpy(stacked.astype(np.float32 if dataset.channels else np.int64))
    targets = None
    if needs_task:
        given = [stream.targets for stream in streams if stream.targets is not None]
        targets = torch.from_numpy(np.stack(given)) if given else next_token_targets(content)
    return [stream.content_types for stream in streams], Episode(content, targets)
