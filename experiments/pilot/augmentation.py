"""What makes speech harder to hear: noise, rooms, and frames that are blotted out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from spangym.envs.data.log_mel import RATE

_DIRECT_TO_REVERBERANT_DB = 3
_FIRST_REFLECTION = RATE * 2 // 1000


def add_noise(
    samples: NDArray[np.float32],
    snr_db: float,
    generator: np.random.Generator,
    color: float | None = None,
) -> NDArray[np.float32]:
    """Add stationary noise.

    Args:
        samples: Shape (samples,).
        snr_db: Power of the samples over that of the noise, in decibels.
        generator: What to draw from.
        color: The noise's power falls with the frequency to this power: 0 is white noise, 1 pink
            noise; drawn between them if None.

    Returns:
        Shape (samples,).

    Example:
        >>> tone = np.sin(np.arange(RATE) / 10).astype(np.float32)
        >>> noise = add_noise(tone, 6, np.random.default_rng(0)) - tone
        >>> round(float(10 * np.log10((tone**2).mean() / (noise**2).mean())), 3)
        6.0
    """
    if color is None:
        color = generator.uniform(0, 1)
    spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
    # The constant part would be of infinite power.
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-color / 2)
    noise = np.fft.irfft(spectrum, len(samples))
    return (samples + noise * (_rms(samples) / _rms(noise) * 10 ** (-snr_db / 20))).astype(
        np.float32
    )


def reverberate(
    samples: NDArray[np.float32], seconds: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Put speech in a room: the direct sound, and 2 ms later noise that decays exponentially.

    The direct sound has twice the energy of the rest.

    Args:
        samples: Shape (samples,), at `RATE`.
        seconds: Time in which the reverberation decays by 60 dB.
        generator: What to draw from.

    Returns:
        Shape (samples,), of the same level.
    """
    # Till 80 dB down.
    count = max(1, round(seconds * RATE * 4 / 3))
    tail = generator.standard_normal(count) * 10 ** (-3 * np.arange(count) / (seconds * RATE))
    tail *= 10 ** (-_DIRECT_TO_REVERBERANT_DB / 20) / np.linalg.norm(tail)
    room = np.concatenate([[1.0], np.zeros(_FIRST_REFLECTION - 1), tail])
    reverberant = fftconvolve(samples, room)[: len(samples)]
    return (reverberant * (_rms(samples) / _rms(reverberant))).astype(np.float32)


def spec_augment(
    frames: NDArray[np.float32],
    generator: np.random.Generator,
    lengths: NDArray[np.int64] | None = None,
    *,
    time_masks: int = 2,
    time: int = 25,
    channel_masks: int = 2,
    channels: int = 15,
) -> NDArray[np.float32]:
    """Blot out times and bands of frames with their mean.

    That is SpecAugment without its warping of time (Park et al., "SpecAugment: A Simple Data
    Augmentation Method for Automatic Speech Recognition", 2019).

    Args:
        frames: Shape (utterances, frames, channels); it is left as it is.
        generator: What to draw from.
        lengths: Frames of each utterance within which times are blotted out, shape (utterances,);
            all if None.
        time_masks: How many times of each utterance.
        time: Most frames of one of them; at most a fifth of the utterance, too.
        channel_masks: How many bands of each utterance.
        channels: Most channels of one of them.

    Returns:
        Of the shape of ``frames``.
    """
    utterances, count, bands = frames.shape
    lengths = np.full(utterances, count) if lengths is None else lengths
    masked = frames.copy()
    fill = frames.mean()
    for row, *bounds in _mask_positions(
        generator, lengths, np.minimum(time, lengths // 5), time_masks
    ):
        masked[row, slice(*bounds)] = fill
    limits = np.full(utterances, bands)
    widest = np.minimum(channels, limits)
    for row, *bounds in _mask_positions(generator, limits, widest, channel_masks):
        masked[row, :, slice(*bounds)] = fill
    return masked


def _mask_positions(
    generator: np.random.Generator, limits: NDArray[np.int64], widest: NDArray[np.int64], count: int
) -> list[tuple[int, int, int]]:
    """Rows, each with where a mask starts and stops."""
    shape = (count, len(limits))
    widths = generator.integers(0, widest, shape, endpoint=True)
    starts = generator.integers(0, limits - widths, shape, endpoint=True)
    rows = np.broadcast_to(np.arange(len(limits)), shape)
    return list(
        zip(
            rows.ravel().tolist(),
            starts.ravel().tolist(),
            (starts + widths).ravel().tolist(),
            strict=True,
        )
    )


def _rms(samples: NDArray[np.floating]) -> float:
    return max(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))), 1e-12)
