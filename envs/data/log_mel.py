"""Log-mel frames of audio, as Whisper's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import get_window

RATE = 16_000
"""Sampling rate in Hz."""

WINDOW = RATE * 25 // 1000
HOP = RATE * 10 // 1000
MELS = 80


def log_mel(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Compute log-mel frames, (samples // `HOP`, `MELS`), of mono samples at `RATE` in -1..1.

    See `spangym.envs.data.files.AudioDataset`.
    """
    frames = len(samples) // HOP
    if not frames:
        return np.empty((0, MELS), np.float32)
    padded = np.pad(samples.astype(np.float64), WINDOW // 2, mode="reflect")
    windows = sliding_window_view(padded, WINDOW)[::HOP][:frames]
    hann, bank = get_window("hann", WINDOW), mel_filterbank(RATE, WINDOW, MELS).T
    # The spectrum of an hour would take gigabytes, so it is computed in blocks.
    blocks = np.array_split(windows, -(-frames // 4096))
    mels = np.concatenate([np.abs(np.fft.rfft(block * hann)) ** 2 @ bank for block in blocks])
    log = np.log10(np.maximum(mels, 1e-10))
    return ((np.maximum(log, log.max() - 8) + 4) / 4).astype(np.float32)


def mel_filterbank(rate: int, window: int, bands: int) -> NDArray[np.float64]:
    """Triangular mel filters of equal area, on Slaney's scale from 0 Hz to half the rate.

    The scale is linear to 1 kHz and logarithmic beyond (Slaney, "Auditory Toolbox", Interval
    Research Technical Report 1998-010), unlike HTK's; librosa and Whisper use the same filters.

    Args:
        rate: Sampling rate in Hz.
        window: Samples in a window.
        bands: Number of filters.

    Returns:
        Shape (bands, window // 2 + 1).
    """
    linear, step = 200 / 3, math.log(6.4) / 27
    knee = 1000 / linear
    top = rate / 2
    top = top / linear if top < 1000 else knee + math.log(top / 1000) / step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < knee, mels * linear, 1000 * np.exp((mels - knee) * step))
    bins = np.fft.rfftfreq(window, 1 / rate)
    triangles = (edges[band : band + 3] for band in range(bands))
    return np.stack([np.interp(bins, each, [0, 2 / (each[2] - each[0]), 0]) for each in triangles])
