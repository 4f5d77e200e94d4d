"""Temperature laws: how attention sharpens with the span.

Scores are divided by a temperature ``T`` that depends on the span scale ``m`` of a sequence and
on the strength ``temp_scale``. ``temperature_law`` names the law:

| ``temperature_law`` | temperature | |
|---|---|---|
| ``"longer"`` | ``1 + temp_scale·(1 - m)`` | sharper for longer spans |
| ``"shorter"`` | ``0.5 + temp_scale·m`` | sharper for shorter spans |
| ``"legacy"`` | ``1 - temp_scale·m`` | an early law: sharper for longer spans |
| ``"legacy_unscaled"`` | ``1 - m`` | the first law; ignores ``temp_scale`` |
| ``"none"`` | ``1`` | |
| ``"learned"`` | a positive parameter of each head, at first 1 | ignores ``temp_scale`` and ``m`` |

Temperatures are at least 0.01. A learned one is ``exp(log_temperature)``, within 0.01 and 100, with
the parameter ``log_temperature`` of `spangym.attention.AdaptiveSpan`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TemperatureLaw = Literal["longer", "shorter", "legacy", "legacy_unscaled", "none", "learned"]

MIN_TEMPERATURE = 0.01


def temperature(scale: Tensor, temperature_law: TemperatureLaw, temp_scale: float) -> Tensor:
    """Temperature of each sequence.

    Args:
        scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1].
        temperature_law: Name of the law, except ``learned``.
        temp_scale: Strength of the law.

    Returns:
        Shape (batch,), at least 0.01.

    Raises:
        ValueError: The law is ``learned``, which is a parameter.

    Example:
        >>> temperature(torch.tensor([0.0, 1.0]), "longer", 0.5).tolist()
        [1.5, 1.0]
    """
    match temperature_law:
        case "longer":
            raw = 1.0 + temp_scale * (1.0 - scale)
        case "shorter":
            raw = 0.5 + temp_scale * scale
        case "legacy":
            raw = 1.0 - temp_scale * scale
        case "legacy_unscaled":
            raw = 1.0 - scale
        case "none":
            raw = torch.ones_like(scale)
        case "learned":
            raise ValueError("a learned temperature is a parameter of the layer, not a law")
    return raw.clamp_min(MIN_TEMPERATURE)
