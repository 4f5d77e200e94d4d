"""Features of a layer's input and quality of its output.

Arguments ``x`` have shape (batch, tokens, dims). ``lengths`` is the number of unpadded tokens of
each sequence, shape (batch,); None for no padding. Padding may hold any value: it reaches neither
results nor gradients. Results are at least float32 unless stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUM_BINS = 11
"""Number of values of a digit, which counts the edges below a number."""

NUM_STATES = 10_000
"""The original's number of states; ids are taken modulo ``NUM_STATES - 1``."""

MAX_STATES = 1_000_000
"""Largest number of states: a table of actions has one entry for each id."""

_DIMS_AT_ONCE = 64
"""Number of dimensions whose spectra are computed at once."""


class Quality(NamedTuple):
    """Quality of a local output and its components, each of shape (batch,).

    Attributes:
        coverage: Fraction of entries above 0.01.
        entropy: Mean over tokens of ``-sum(o * log(o))`` over the dimensions, in nats.
        quality: ``coverage_weight * coverage - entropy_weight * entropy``.
    """

    coverage: Tensor
    entropy: Tensor
    quality: Tensor


def sequence_mask(tokens: int, lengths: Tensor) -> Tensor:
    """Which tokens are not padding, boolean (batch, tokens)."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x`` with 0 in the padding, which then has no gradient; ``x`` itself without lengths."""
    if lengths is None:
        return x
    return torch.where(sequence_mask(x.shape[-2], lengths)[..., None], x, 0)


def token_mean(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean over the tokens, (batch, dims), in the dtype of ``x``; 0 for a sequence of padding."""
    if lengths is None:
        return x.mean(-2)
    total = zero_padding(x, lengths).sum(-2, dtype=_accumulation_dtype(x))
    return (total / lengths.clamp_min(1)[:, None]).to(x.dtype)


def token_moments(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Means of all dimensions over the tokens, then population variances: (batch, 2 * dims)."""
    x = x.to(_accumulation_dtype(x))
    if lengths is None:
        # A tenth of the time of `torch.var_mean`.
        mean = x.mean(-2)
        variance = (x - mean[..., None, :]).square().mean(-2)
    else:
        mean = token_mean(x, lengths)
        deviation = zero_padding(x - mean[:, None], lengths)
        variance = deviation.square().sum(-2) / lengths.clamp_min(1)[:, None]
    return torch.cat([mean, variance], dim=-1)


def pool_dims(features: Tensor, groups: int) -> Tensor:
    """Average `token_moments` over groups of neighboring dimensions: (batch, 2 * groups).

    Example:
        >>> pool_dims(torch.tensor([[1.0, 3.0, 0.0, 2.0]]), groups=1).tolist()
        [[2.0, 1.0]]
    """
    return features.unflatten(-1, (2 * groups, -1)).mean(-1)


def autocorrelation_buckets(x: Tensor, buckets: int, lengths: Tensor | None = None) -> Tensor:
    """Largest autocorrelation of the tokens in each bucket of lags.

    The correlation at lag ``k`` is the mean cosine of ``x_t`` and ``x_(t-k)``. Bucket 0 is lag 1,
    bucket ``j`` the lags in ``(2^(j-1), 2^j]``; the last bucket includes all longer lags. All lags
    are computed from the spectrum.

    Returns:
        Shape (batch, buckets), in [-1, 1]; 0 for a bucket beyond the sequence.

    Example:
        >>> x = torch.eye(4).repeat(1, 3, 1)  # four tokens, three times
        >>> autocorrelation_buckets(x, 4).round(decimals=3).abs().tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    tokens = x.shape[-2]
    x = zero_padding(x, lengths).to(_accumulation_dtype(x))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
    power = torch.zeros((), dtype=x.dtype, device=x.device)
    # Blocks, whose spectra fit in a cache and in memory that the allocator keeps.
    for block in x.split(_DIMS_AT_ONCE, dim=-1):
        unit = (block / norm).transpose(-1, -2)
        # Twice the length, so that the end is not correlated with the beginning.
        spectrum = torch.view_as_real(torch.fft.rfft(unit, n=2 * tokens))
        power = power + spectrum.square_().sum(-3)
    # Last the sum over pairs of numbers, which takes ten times as long as over dimensions.
    power = power.sum(-1)
    # Two copies: with several threads, MKL rounds a single short transform differently from many.
    sums = torch.fft.irfft(torch.stack([power, power]), n=2 * tokens)[0, ..., :tokens]
    pairs = torch.arange(tokens, 0, -1, device=x.device)
    if lengths is None:
        means = sums / pairs
    else:
        pairs = pairs - tokens + lengths[:, None]
        means = torch.where(pairs > 0, sums / pairs.clamp_min(1), -torch.inf)
    lag = torch.arange(tokens, device=x.device)
    bucket_of = torch.bucketize(lag, 2 ** torch.arange(buckets - 1, device=x.device))
    bucket_of = bucket_of.masked_fill(lag == 0, -1)
    is_in = bucket_of == torch.arange(buckets, device=x.device)[:, None]
    result = torch.where(is_in, means[..., None, :], -torch.inf).amax(-1)
    return torch.where(result == -torch.inf, 0, result).clamp(-1, 1)


def discretize(features: Tensor) -> Tensor:
    """Number of the ten edges ``linspace(-1, 1, 10)`` that are at most each feature, int64.

    Example:
        >>> discretize(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist()
        [0, 1, 5, 10]
    """
    edges = torch.linspace(-1, 1, 10, dtype=torch.float64, device=features.device)
    return torch.bucketize(features.double(), edges, right=True)


def tuple_hash_id(digits: Sequence[int], num_states: int = NUM_STATES) -> int:
    """The original's state id: ``hash(tuple(digits)) % (num_states - 1)``.

    Example:
        >>> tuple_hash_id([5] * 32), tuple_hash_id([5] * 32, num_states=100)
        (2495, 20)
    """
    return hash(tuple(digits)) % (num_states - 1)


def tuple_hash_ids(features: Tensor, num_states: int = NUM_STATES) -> list[int]:
    """State id of each row of features (batch, numbers); copies to the host."""
    return [tuple_hash_id(row, num_states) for row in discretize(features).tolist()]


def quality(
    output: Tensor,
    lengths: Tensor | None = None,
    *,
    coverage_weight: float = 1.0,
    entropy_weight: float = 0.1,
) -> Quality:
    """The original's quality of a local output, with its weights by default.

    It measures how large and how spread the output is, not the attention weights. Entries are
    clamped to at least 1e-10 before the logarithm.
    """
    # 1e-10 is 0 in half precision.
    output = zero_padding(output, lengths).to(_accumulation_dtype(output))
    clamped = output.clamp_min(1e-10)
    entropies = -(clamped * clamped.log()).sum(-1)
    above = (output > 0.01).to(output.dtype)
    if lengths is None:
        entropy, coverage = entropies.mean(-1), above.mean((-2, -1))
    else:
        entropy = token_mean(entropies[..., None], lengths)[:, 0]
        coverage = token_mean(above, lengths).mean(-1)
    weighted = coverage_weight * coverage - entropy_weight * entropy
    return Quality(coverage, entropy, weighted)


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
