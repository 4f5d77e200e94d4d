"""Augmentation of speech: noise, reverberation and SpecAugment."""

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
    """Add stationary noise to samples of shape (samples,), at a ratio in decibels.

    The noise's power falls with the power ``color`` of the frequency: 0 is white noise, 1 pink
    noise; it is drawn between them if None.

    Example:
        >>> tone = np.sin(np.arange(RATE) / 10).astype(np.float32)
        >>> noise = add_noise(tone, 6, np.random.default_rng(0)) - tone
        >>> round(float(10 * np.log10((tone**2).mean() / (noise**2).mean())), 3)
        6.0
    """
    if color is None:
        color = generator.uniform(0, 1)
    spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
    # The constant part would have infinite power.
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-color / 2)
    noise = np.fft.irfft(spectrum, len(samples))
    noise = noise * (_rms(samples) / _rms(noise) * 10 ** (-snr_db / 20))
    return (samples + noise).astype(np.float32)


def reverberate(
    samples: NDArray[np.float32], seconds: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Add a room: the direct sound, and from 2 ms later noise that decays exponentially.

    The direct sound has twice the energy of the rest, which decays by 60 dB in so many seconds.
    The level stays the same.
    """
    # The tail ends 80 dB down.
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
    """Mask times and bands with the mean: SpecAugment (Park et al., 2019) without warping.

    Frames of shape (utterances, frames, channels) are not changed. Times are masked within the
    lengths (default: all frames), each at most ``time`` frames and a fifth of the utterance;
    bands at most ``channels`` channels.
    """
    utterances, count, bands = frames.shape
    lengths = np.full(utterances, count) if lengths is None else lengths
    limits = np.full(utterances, bands)
    masked = frames.copy()
    fill = frames.mean()
    widest = np.minimum(time, lengths // 5)
    for row, start, stop in _draw_masks(generator, lengths, widest, time_masks):
        masked[row, start:stop] = fill
    widest = np.minimum(channels, limits)
    for row, start, stop in _draw_masks(generator, limits, widest, channel_masks):
        masked[row, :, start:stop] = fill
    return masked


def _draw_masks(
    generator: np.random.Generator, limits: NDArray[np.int64], widest: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Draw masks, as rows (utterance, start, stop)."""
    shape = (count, len(limits))
    widths = generator.integers(0, widest, shape, endpoint=True)
    starts = generator.integers(0, limits - widths, shape, endpoint=True)
    rows = np.broadcast_to(np.arange(len(limits)), shape)
    return np.stack([rows, starts, starts + widths], axis=-1).reshape(-1, 3)


def _rms(samples: NDArray[np.floating]) -> float:
    return max(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))), 1e-12)
