"""An episode's content: drawn from its source, and looked at before anything runs on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spangym.envs.data.dataset import Source, Stream, check_stream, check_targets, next_tokens
from spangym.envs.env_config import Settings
from spangym.envs.state import Episode


def read_episode(
    settings: Settings,
    generators: Sequence[np.random.Generator],
    source: Source,
    classes: int,
    needs_task: bool,
) -> tuple[list[tuple[str, ...]], Episode]:
    """Draw the lanes' streams, and look whether they are what they are to be.

    Args:
        settings: What is run.
        generators: Source of each lane's randomness.
        source: What the streams are drawn from.
        classes: What the stack tells apart.
        needs_task: Whether there have to be targets.

    Returns:
        The kinds of each lane's chunks, and the content, on the host.

    Raises:
        ValueError: A stream is not what its source was asked for.
    """
    # One chunk more than is decided on: the episode is truncated, and its last observation is
    # what the next decision would have seen.
    chunks = settings.chunks + 1
    streams = [source.stream(each, chunks, settings.ctx) for each in generators]
    for stream in streams:
        if not isinstance(stream, Stream):
            raise ValueError(
                f"source {type(source).__name__} must give a Stream, it gave a "
                f"{type(stream).__name__}"
            )
        try:
            check_stream(stream, chunks, settings.ctx, source.channels)
            if needs_task:
                check_targets(stream, classes)
        except ValueError as error:
            raise ValueError(f"source {type(source).__name__}: {error}") from error
    stacked = np.stack([stream.content for stream in streams])
    content = torch.from_numpy(stacked.astype(np.float32 if source.channels else np.int64))
    targets = None
    if needs_task:
        given = [stream.targets for stream in streams if stream.targets is not None]
        targets = torch.from_numpy(np.stack(given)) if given else next_tokens(content)
    return [stream.kinds for stream in streams], Episode(content, targets)
