"""The original of `FocusAttention`: a plain global path, and states of an early kind.

It differs from the layer of `spangym.attention.original.layer` as follows:

1. attention is not fused: scores of the local path are ``q·k / (sqrt(head_size) · T)``, and no path
   is causal;
2. the global path is `OriginalMultiHeadAttention`, without a cache;
3. features have unbiased variances, and a state is the string of their digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import NUM_STATES, discretize
from spangym.attention.original.layer import OriginalLayerOutput, OriginalPlainDefects
from spangym.attention.original.truncation import OriginalSpanConfig
from spangym.utils.readable_repr import readable_repr


def digit_strings(features: Tensor) -> list[str]:
    """Digits of each row of features as one string, the early state; copies to the host.

    Example:
        >>> digit_strings(torch.tensor([[-2.0, 0.0, 1.0]]))
        ['0510']
    """
    return ["".join(map(str, row)) for row in discretize(features).tolist()]


@dataclass(frozen=True)
class FocusLayerOutput(OriginalLayerOutput):
    """Results of one pass, with the early state."""

    __repr__ = readable_repr

    @staticmethod
    def moments(x: Tensor) -> Tensor:
        """Means and unbiased variances over all tokens of the batch, shape (1, 2 * dims)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.cat([x.mean((0, 1)), x.var((0, 1))])[None]

    @staticmethod
    def state_ids(features: Tensor, num_states: int = NUM_STATES) -> list[int]:
        """The early state of each row of features as a number, modulo ``num_states - 1``."""
        return [_modulo(digits, num_states - 1) for digits in digit_strings(features)]


def _modulo(number: str, modulus: int) -> int:
    """A decimal number modulo another; Python itself does not read more than 4300 digits."""
    state = 0
    for digit in number:
        state = (10 * state + int(digit)) % modulus
    return state


class FocusDefects(OriginalPlainDefects):
    """Mixin that gives `FocusAttention` the original's paths and states."""

    default_config = OriginalSpanConfig(fused=False, score_exponent=-0.5)
    _output_class = FocusLayerOutput
