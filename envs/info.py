"""What a step reports beside observations and rewards: measured on the device, named on the host.

The two halves stand apart so that one copy a step carries everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spangym.attention import Outcome

_OUTCOMES = ("scale", "window", "span", "visited_keys", "focus_steps")
"""Fields of an `Outcome`, each one number a lane."""
_REFRESHES = ("refreshed_keys", "refreshed_values", "key_staleness", "value_staleness")


def measure(outcome: Outcome, index: int, staleness: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Measure what a layer did.

    Args:
        outcome: What it did.
        index: Of the layer.
        staleness: Chunks since keys, and values, of each layer were computed anew, int64 of shape
            (lanes, layers, 2); None if that is not decided.

    Returns:
        Measures, float64 of shape (lanes, measures), and the staleness after the pass.
    """
    norm = outcome.output.flatten(1).norm(dim=1)
    measures = [*(getattr(outcome, name) for name in _OUTCOMES), norm]
    if staleness is not None:
        assert outcome.cache.key_value is not None
        kept = outcome.cache.key_value
        anew = torch.stack([kept.refreshed_keys, kept.refreshed_values], dim=-1)
        staleness = staleness.clone()
        staleness[:, index] = torch.where(anew, 0, staleness[:, index] + 1)
        measures += [*anew.unbind(-1), *staleness[:, index].unbind(-1)]
    return torch.stack([each.double() for each in measures], dim=-1), staleness


def name_measures(row: Sequence[float], ctx: int) -> dict[str, Any]:
    """One lane's measures by name, as they stand in ``info``.

    Args:
        row: A row of what `measure` gave.
        ctx: Tokens in a chunk.

    Example:
        >>> name_measures([0.5, 8.0, 12.0, 64.0, 1.0, 2.5], ctx=16)["span"]
        12
    """
    scale, window, span, visited_keys, focus_steps, output_norm, *refreshes = row
    named: dict[str, Any] = {
        "scale": scale,
        "window": int(window),
        "span": int(span),
        "visited_keys": int(visited_keys),
        "focus_steps": int(focus_steps),
        "output_norm": output_norm,
    }
    if refreshes:
        named |= dict(zip(_REFRESHES, map(int, refreshes), strict=True))
        anew = named["refreshed_keys"] + named["refreshed_values"]
        named["refresh_cost"] = anew * ctx
    return named
