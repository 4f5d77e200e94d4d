"""Decisions of a group of layers while the sequences of a cache grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spangym.utils.readable_repr import readable_repr


@dataclass
class StreamState:
    """Spans of the sequences that a cache holds, and inputs since they were decided.

    It belongs to the cache layer of the first attention module of a group, so that it is reordered
    and copied with the sequences, as beam search does.

    Attributes:
        owner: What decided; another owner decides again.
        spans: Span of each sequence, shape (batch,), int64.
        decided_at: Number of tokens when the spans were decided.
        inputs: Inputs of later passes, each of shape (batch, tokens, dims).
    """

    __repr__ = readable_repr

    owner: object
    spans: Tensor
    decided_at: int
    inputs: list[Tensor] = field(default_factory=list)

    def last_inputs(self, count: int) -> Tensor:
        """The last inputs, at most ``count``, shape (batch, tokens, dims)."""
        return torch.cat(self.inputs, dim=1)[:, -count:]

    def select(self, index: Tensor) -> StreamState:
        """The state of the sequences of these indices."""
        spans = self.spans.index_select(0, index.to(self.spans.device))
        inputs = [each.index_select(0, index.to(each.device)) for each in self.inputs]
        return StreamState(self.owner, spans, self.decided_at, inputs)
