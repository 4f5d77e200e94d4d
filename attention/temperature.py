"""Temperature laws: how much sharper attention is for longer or shorter spans.

Scores are divided by a temperature ``T`` that depends on the span scale ``m`` of a sequence and on the
strength ``temp_scale``. ``temperature_law`` names the law:

| ``temperature_law`` | temperature | |
|---|---|---|
| ``"longer"`` | ``1 + temp_scale·(1 - m)`` | sharper for longer spans |
| ``"shorter"`` | ``0.5 + temp_scale·m`` | sharper for shorter spans |
| ``"legacy"`` | ``1 - temp_scale·m`` | an early law: sharper for longer spans |
| ``"legacy_unscaled"`` | ``1 - m`` | the first law, of no strength of its own |
| ``"none"`` | ``1`` | |

Temperatures are floored at 0.01.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from spangym.utils.suggestions import did_you_mean

TemperatureLaw = Literal["longer", "shorter", "legacy", "legacy_unscaled", "none"]

MIN_TEMPERATURE = 0.01
"""Least temperature."""

_LAWS: dict[TemperatureLaw, Callable[[Tensor, float], Tensor]] = {
    "longer": lambda m, strength: 1.0 + strength * (1.0 - m),
    "shorter": lambda m, strength: 0.5 + strength * m,
    "legacy": lambda m, strength: 1.0 - strength * m,
    "legacy_unscaled": lambda m, _: 1.0 - m,
    "none": lambda m, _: torch.ones_like(m),
}


def temperature(scale: Tensor, temperature_law: TemperatureLaw, temp_scale: float) -> Tensor:
    """Temperature of each sequence.

    Args:
        scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1].
        temperature_law: The law.
        temp_scale: Its strength.

    Returns:
        Shape (batch,), at least 0.01.

    Example:
        >>> temperature(torch.tensor([0.0, 1.0]), "longer", 0.5).tolist()
        [1.5, 1.0]
    """
    return _LAWS[temperature_law](scale, temp_scale).clamp_min(MIN_TEMPERATURE)


def check_temperature_law(temperature_law: object) -> None:
    """Refuse what names no law.

    Raises:
        ValueError: The message names the laws.
    """
    if not isinstance(temperature_law, str) or temperature_law not in _LAWS:
        raise ValueError(
            f"temperature_law must be one of {', '.join(_LAWS)}, got {temperature_law!r}"
            f"{did_you_mean(str(temperature_law), _LAWS)}"
        )
