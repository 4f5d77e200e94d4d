"""What is read off a layer: features, digits and state of its input, quality of its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUM_BINS = 11
"""A digit counts the edges below a number, so it is one of 0..10."""

NUM_STATES = 9999
"""State ids lie in 0..9998."""


class Quality(NamedTuple):
    """Quality of a local output, and its parts; each of shape (batch,).

    Attributes:
        coverage: Share of entries above 0.01.
        entropy: Mean over tokens of ``-sum(o * log(o))`` over the dimensions, in nats.
        quality: ``coverage - 0.1 * entropy``.
    """

    coverage: Tensor
    entropy: Tensor
    quality: Tensor


def sequence_mask(tokens: int, lengths: Tensor) -> Tensor:
    """Which tokens are no padding, boolean (batch, tokens)."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


def token_mean(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean over the tokens of each sequence.

    Args:
        x: Floating tensor of shape (batch, tokens, dims).
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

    Returns:
        Shape (batch, dims); 0 for a sequence that is all padding.
    """
    if lengths is None:
        return x.mean(-2)
    real = sequence_mask(x.shape[-2], lengths)[..., None]
    precise = torch.promote_types(x.dtype, torch.float32)
    total = torch.where(real, x, 0).sum(-2, dtype=precise)
    return (total / lengths.clamp_min(1)[:, None]).to(x.dtype)


def token_moments(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean and population variance over the tokens, per dimension.

    Args:
        x: Floating tensor of shape (batch, tokens, dims).
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

    Returns:
        Shape (batch, 2 * dims): the means, then the variances; at least float32.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if lengths is None:
        variance, mean = torch.var_mean(x, dim=-2, correction=0)
    else:
        mean = token_mean(x, lengths)
        variance = token_mean((x - mean[:, None]).square(), lengths)
    return torch.cat([mean, variance], dim=-1)


def pool_dims(features: Tensor, groups: int) -> Tensor:
    """Average features over groups of neighboring dimensions.

    Args:
        features: Shape (batch, 2 * dims), means before variances.
        groups: Number of groups; divides ``dims``.

    Returns:
        Shape (batch, 2 * groups), means before variances.

    Example:
        >>> pool_dims(torch.tensor([[1.0, 3.0, 0.0, 2.0]]), groups=1).tolist()
        [[2.0, 1.0]]
    """
    return features.unflatten(-1, (2 * groups, -1)).mean(-1)


def autocorrelation_buckets(x: Tensor, buckets: int, lengths: Tensor | None = None) -> Tensor:
    """How much tokens resemble those some tokens before: the highest of each bucket of lags.

    The correlation at lag ``k`` is the mean cosine of ``x_t`` and ``x_(t-k)``. Bucket 0 is lag 1,
    bucket ``j`` the lags above ``2^(j-1)``, up to ``2^j``; the last has all beyond, too. Computed
    for all lags together, from the spectrum.

    Args:
        x: Shape (batch, tokens, dims).
        buckets: Number of buckets, at least 1.
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

    Returns:
        Shape (batch, buckets), in [-1, 1], at least float32; 0 for a bucket beyond the sequence.

    Example:
        >>> x = torch.eye(4).repeat(1, 3, 1)  # four tokens, thrice
        >>> autocorrelation_buckets(x, 4).round(decimals=3).abs().tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    tokens = x.shape[-2]
    unit = torch.nn.functional.normalize(
        x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1
    ).transpose(-1, -2)
    if lengths is not None:
        unit = torch.where(sequence_mask(tokens, lengths)[:, None], unit, 0)
    # Twice the length, lest the end be correlated with the beginning.
    spectrum = torch.view_as_real(torch.fft.rfft(unit, n=2 * tokens)).square().sum(-1)
    sums = torch.fft.irfft(spectrum.sum(-2), n=2 * tokens)[..., :tokens]
    pairs = torch.arange(tokens, 0, -1, device=x.device)
    if lengths is None:
        means = sums / pairs
    else:
        pairs = pairs - tokens + lengths[:, None]
        means = torch.where(pairs > 0, sums / pairs, -torch.inf)
    ends = [2**bucket + 1 for bucket in range(buckets - 1)] + [tokens]
    starts = [1, *ends[:-1]]
    highest = torch.stack(
        [
            means[..., start:end].amax(-1)
            if start < min(end, tokens)
            else means.new_zeros(means.shape[:-1])
            for start, end in zip(starts, ends, strict=True)
        ],
        dim=-1,
    )
    return torch.where(highest == -torch.inf, 0, highest).clamp(-1, 1)


def discretize(features: Tensor) -> Tensor:
    """How many of the ten edges ``linspace(-1, 1, 10)`` are at most each feature.

    Args:
        features: Floating tensor of any shape.

    Returns:
        int64 in 0..10, of the same shape.

    Example:
        >>> discretize(torch.tensor([-2.0, -1.0, 0.0, 1.0])).tolist()
        [0, 1, 5, 10]
    """
    edges = torch.linspace(-1, 1, 10, dtype=torch.float64, device=features.device)
    return torch.bucketize(features.double(), edges, right=True)


def tuple_hash_id(bins: Sequence[int]) -> int:
    """The original's state: ``hash(tuple(bins)) % 9999``.

    Example:
        >>> tuple_hash_id([5] * 32)
        2495
    """
    return hash(tuple(bins)) % NUM_STATES


def tuple_hash_ids(features: Tensor) -> list[int]:
    """State id of each sequence; copies to the host.

    Args:
        features: Shape (batch, numbers).
    """
    return [tuple_hash_id(each) for each in discretize(features).tolist()]


def quality(output: Tensor, lengths: Tensor | None = None) -> Quality:
    """The original's judgment of a local output.

    Entries are clamped to at least 1e-10 before the logarithm. Note that it looks at the output,
    not at the attention weights: it measures how large and how spread the output is.

    Args:
        output: Shape (batch, tokens, dims).
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

    Returns:
        Coverage, entropy and quality of each sequence, at least float32.
    """
    # Half precision knows no 1e-10.
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    clamped = output.clamp_min(1e-10)
    entropies = -(clamped * clamped.log()).sum(-1)
    above = (output > 0.01).to(output.dtype)
    if lengths is None:
        entropy, coverage = entropies.mean(-1), above.mean((-2, -1))
    else:
        entropy = token_mean(entropies[..., None], lengths)[:, 0]
        coverage = token_mean(above, lengths).mean(-1)
    return Quality(coverage, entropy, coverage - 0.1 * entropy)
