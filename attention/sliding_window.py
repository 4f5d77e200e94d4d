"""The local path: windows that attend to their interval of keys, focused over several passes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import kernels
from .adaptive_update import join_heads, split_heads
from .spans import Spans

FOCUS_STEPS = 10
"""Most passes of iterative focus."""


class LocalPass(NamedTuple):
    """What the local path did.

    Attributes:
        output: Shape (lanes, tokens, dims); zero where a lane is off.
        spans: Window and span of each lane.
        visited_keys: Query-key pairs scored, over all passes, shape (lanes,), int64.
        focus_steps: Passes that the slowest window of each lane took, shape (lanes,), int64.
    """

    output: Tensor
    spans: Spans
    visited_keys: Tensor
    focus_steps: Tensor


class SlidingWindowAttention(nn.Module):
    """Local attention of sliding windows with iterative focus; it has no parameters.

    Queries, keys and values are the input itself, split in heads. Scores are
    ``q·k / (sqrt(head size) · T)`` with the temperature ``T = 1 + temp_scale·(1 - m)`` (sharper for
    longer spans) or ``T = 0.5 + temp_scale·m`` (sharper for shorter spans).

    A pass is repeated with ``q <- q + out``, keys and values fixed, at most 10 times. A window
    stops by itself when ``d < 1e-4 + 0.1·d``, ``d`` the mean absolute change of its output, and
    keeps the output it stopped at.

    Args:
        head: Number of heads.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens.
        max_dist: Upper bound on the span, in tokens.
        temp_scale: Strength of the temperature law.
        sharpen: Sharper for longer spans (True) or for shorter ones (False).
    """

    def __init__(
        self,
        head: int,
        *,
        win_size: int,
        max_span: int,
        max_dist: int,
        temp_scale: float = 0.01,
        sharpen: bool = True,
    ) -> None:
        super().__init__()
        self.head = head
        self.win_size = win_size
        self.max_span = max_span
        self.max_dist = max_dist
        self.temp_scale = temp_scale
        self.sharpen = sharpen

    def temperature(self, scale: Tensor) -> Tensor:
        """Temperature of each lane at its span scale, shape (lanes,)."""
        if self.sharpen:
            return 1.0 + self.temp_scale * (1.0 - scale)
        return 0.5 + self.temp_scale * scale

    def forward(self, x: Tensor, scale: Tensor) -> LocalPass:
        """Attend within the intervals that the span scales give.

        Args:
            x: Normalised input, shape (lanes, tokens, dims).
            scale: Span scale of each lane, shape (lanes,), in [0, 1]; 0 turns a lane off.

        Returns:
            The output with its spans and its price.
        """
        tokens = x.shape[1]
        attend = kernels.for_device(x.device)
        spans = Spans.from_scale(
            scale, win_size=self.win_size, max_span=self.max_span, max_dist=self.max_dist
        )
        window = spans.window_index(tokens)
        first, end = spans.intervals(tokens)
        keys = end - first
        # Queries over T give scores over T: exact on every kernel.
        inverse_temperature = self.temperature(scale).reciprocal()[:, None, None, None]
        k = v = split_heads(x, self.head)
        q = k * inverse_temperature
        out = torch.zeros_like(k)
        active = keys > 0
        visited, steps = torch.zeros_like(spans.span), torch.zeros_like(spans.span)
        for step in range(FOCUS_STEPS):
            # On the CPU this reads no device; elsewhere all passes run, their rows masked.
            if x.device.type == "cpu" and not active.any():
                break
            new, _ = attend(q, k, v, spans, active if step else None)
            change = _window_mean((new - out).detach().abs().mean((1, 3)), window)
            out = torch.where(active[:, None, :, None], new, out)
            visited = visited + torch.where(active, keys, 0).sum(-1)
            steps = steps + active.any(-1)
            active = active & (change >= 1e-4 + 0.1 * change)
            q = torch.addcmul(q, out, inverse_temperature)
        return LocalPass(join_heads(out), spans, visited, steps)


def _window_mean(values: Tensor, window: Tensor) -> Tensor:
    """Mean over each token's window; both of shape (lanes, tokens)."""
    sums = torch.zeros_like(values).scatter_add(1, window, values)
    counts = torch.zeros_like(values).scatter_add(1, window, torch.ones_like(values))
    return (sums / counts).gather(1, window)
