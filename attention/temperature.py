"""Temperature laws: how much sharper attention is for longer or shorter spans.

Scores are divided by a temperature ``T`` that depends on the span scale ``m`` of a lane and on the
strength ``temp_scale``. The toggle ``sharpen`` names the law:

| ``sharpen`` | temperature | |
|---|---|---|
| ``True`` | ``1 + temp_scale·(1 - m)`` | sharper for longer spans |
| ``False`` | ``0.5 + temp_scale·m`` | sharper for shorter spans |
| ``"early"`` | ``1 - temp_scale·m`` | an early law: sharper for longer spans |
| ``"early-unscaled"`` | ``1 - m`` | the first law, of no strength of its own |
| ``"none"`` | ``1`` | |

Temperatures are floored at 0.01.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from spangym.utils.suggestions import did_you_mean

Sharpen = bool | Literal["early", "early-unscaled", "none"]

FLOOR = 0.01
"""Least temperature."""

_LAWS: dict[Sharpen, Callable[[Tensor, float], Tensor]] = {
    True: lambda m, strength: 1.0 + strength * (1.0 - m),
    False: lambda m, strength: 0.5 + strength * m,
    "early": lambda m, strength: 1.0 - strength * m,
    "early-unscaled": lambda m, _: 1.0 - m,
    "none": lambda m, _: torch.ones_like(m),
}


def temperature(scale: Tensor, sharpen: Sharpen, temp_scale: float) -> Tensor:
    """Temperature of each lane.

    Args:
        scale: Span scale ``m`` of each lane, shape (lanes,), in [0, 1].
        sharpen: The law.
        temp_scale: Its strength.

    Returns:
        Shape (lanes,), at least 0.01.

    Example:
        >>> temperature(torch.tensor([0.0, 1.0]), True, 0.5).tolist()
        [1.5, 1.0]
    """
    return _LAWS[sharpen](scale, temp_scale).clamp_min(FLOOR)


def check_sharpen(sharpen: object) -> None:
    """Refuse what names no law.

    Raises:
        ValueError: The message names the laws.
    """
    if isinstance(sharpen, str) and sharpen not in _LAWS:
        names = [law for law in _LAWS if isinstance(law, str)]
        raise ValueError(
            f"sharpen must be True, False or a law's name, got {sharpen!r}"
            f"{did_you_mean(sharpen, names)}"
        )
    if not isinstance(sharpen, bool | str):
        raise ValueError(f"sharpen must be True, False or a law's name, got {sharpen!r}")
