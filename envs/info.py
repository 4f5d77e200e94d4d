"""What a step reports beside observations and rewards: measured on the device, named on the host.

The two halves stand apart so that one copy a step carries everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spangym.attention import LayerOutput

_OUTPUT_FIELDS = ("span_scale", "window", "span", "qk_pairs", "num_refinement_steps")
"""Fields of an `LayerOutput`, each one number per environment."""
_RECOMPUTE_METRICS = ("recomputed_keys", "recomputed_values", "key_staleness", "value_staleness")


def collect_metrics(
    outcome: LayerOutput, index: int, staleness: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Measure what a layer did.

    Args:
        outcome: What it did.
        index: Of the layer.
        staleness: Chunks since keys, and values, of each layer were computed anew, int64 of shape
            (num_envs, layers, 2); None if that is not decided.

    Returns:
        Measures, float64 of shape (num_envs, metrics), and the staleness after the pass.
    """
    norm = outcome.output.flatten(1).norm(dim=1)
    metrics = [*(getattr(outcome, name) for name in _OUTPUT_FIELDS), norm]
    if staleness is not None:
        assert outcome.cache.key_value is not None
        kept = outcome.cache.key_value
        recomputed = torch.stack([kept.recomputed_keys, kept.recomputed_values], dim=-1)
        staleness = staleness.clone()
        staleness[:, index] = torch.where(recomputed, 0, staleness[:, index] + 1)
        metrics += [*recomputed.unbind(-1), *staleness[:, index].unbind(-1)]
    return torch.stack([each.double() for each in metrics], dim=-1), staleness


def metrics_to_info(row: Sequence[float], ctx: int) -> dict[str, Any]:
    """One environment's metrics by name, as they stand in ``info``.

    Args:
        row: A row of what `collect_metrics` gave.
        ctx: Tokens in a chunk.

    Example:
        >>> metrics_to_info([0.5, 8.0, 12.0, 64.0, 1.0, 2.5], ctx=16)["span"]
        12
    """
    span_scale, window, span, qk_pairs, num_refinement_steps, output_norm, *recompute_metrics = row
    named: dict[str, Any] = {
        "span_scale": span_scale,
        "window": int(window),
        "span": int(span),
        "qk_pairs": int(qk_pairs),
        "num_refinement_steps": int(num_refinement_steps),
        "output_norm": output_norm,
    }
    if recompute_metrics:
        named |= dict(zip(_RECOMPUTE_METRICS, map(int, recompute_metrics), strict=True))
        recomputed = named["recomputed_keys"] + named["recomputed_values"]
        named["recompute_cost"] = recomputed * ctx
    return named
