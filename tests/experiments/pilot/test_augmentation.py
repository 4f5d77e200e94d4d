"""Noise, rooms and masks."""

import numpy as np
import pytest

from spangym.envs.data.log_mel import RATE
from spangym.experiments.pilot.augmentation import add_noise, reverberate, spec_augment


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def tone() -> np.ndarray:
    return (0.1 * np.sin(np.arange(2 * RATE) * 0.2)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("color", [None, 0.0, 1.0])
def test_noise_is_of_the_wanted_ratio(
    generator: np.random.Generator, tone: np.ndarray, snr_db: float, color: float | None
):
    noisy = add_noise(tone, snr_db, generator, color)
    assert noisy.dtype == np.float32
    ratio = (tone**2).mean() / ((noisy - tone) ** 2).mean()
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("color", [0.0, 1.0, 2.0])
def test_noise_has_its_color(generator: np.random.Generator, tone: np.ndarray, color: float):
    noise = add_noise(tone, 0, generator, color) - tone
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[start : 2 * start].mean() for start in 100 * 2 ** np.arange(7)]
    slope = np.polyfit(np.arange(7), np.log2(octaves), 1)[0]
    assert slope == pytest.approx(-color, abs=0.15)


def test_noise_is_drawn_from_the_generator_alone(tone: np.ndarray):
    one, other, again = (add_noise(tone, 3, np.random.default_rng(seed)) for seed in (1, 2, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.8])
def test_reverberation_decays_by_60_db_in_its_time(generator: np.random.Generator, seconds: float):
    impulse = np.zeros(2 * RATE, np.float32)
    impulse[0] = 1
    reverberant = reverberate(impulse, seconds, generator)
    assert reverberant.shape == impulse.shape
    assert reverberant.dtype == np.float32
    # Schroeder's integral, from 5 to 35 dB down, without the direct sound.
    energy = np.cumsum(reverberant[:0:-1].astype(float) ** 2)[::-1]
    decibels = 10 * np.log10(energy / energy[0] + 1e-20)
    first, last = (int(np.argmax(decibels < level)) for level in (-5, -35))
    assert 2 * (last - first) / RATE == pytest.approx(seconds, rel=0.1)


def test_the_direct_sound_comes_first_and_is_the_loudest(generator: np.random.Generator):
    impulse = np.zeros(RATE, np.float32)
    impulse[100] = 1
    reverberant = np.abs(reverberate(impulse, 0.3, generator))
    assert reverberant[:100].max() < 1e-6
    assert reverberant.argmax() == 100
    assert reverberant[101:130].max() < 1e-6
    direct, rest = reverberant[100] ** 2, (reverberant[130:] ** 2).sum()
    assert direct / rest == pytest.approx(2, rel=0.01)


def test_reverberation_keeps_level_and_length(generator: np.random.Generator, tone: np.ndarray):
    reverberant = reverberate(tone, 0.4, generator)
    assert len(reverberant) == len(tone)
    assert (reverberant**2).mean() == pytest.approx((tone**2).mean(), rel=1e-3)


def test_silence_stays_silent(generator: np.random.Generator):
    silence = np.zeros(RATE, np.float32)
    assert np.abs(reverberate(silence, 0.2, generator)).max() < 1e-6
    assert np.abs(add_noise(silence, 0, generator)).max() < 1e-6


def test_masks_are_times_and_bands_of_one_value(generator: np.random.Generator):
    frames = generator.standard_normal((64, 100, 80), np.float32)
    before = frames.copy()
    lengths = generator.integers(40, 100, 64, endpoint=True)
    masked = spec_augment(frames, generator, lengths, time_masks=1, time=12, channels=9)
    assert np.array_equal(frames, before)
    assert masked.dtype == np.float32
    blotted = masked != frames
    assert np.unique(masked[blotted]).size == 1
    times, bands = blotted.all(axis=2), blotted.all(axis=1)
    assert np.array_equal(blotted, times[:, :, None] | bands[:, None])
    for row, length in zip(times, lengths, strict=True):
        assert row.sum() <= min(12, length // 5)
        assert not row[length:].any()
        assert (np.diff(row.astype(int)) == 1).sum() + row[0] <= 1
    assert bands.sum(axis=1).max() <= 2 * 9
    # Half of the most, on average.
    assert times.sum(axis=1).mean() == pytest.approx(6, abs=2)
    assert bands.sum(axis=1).mean() == pytest.approx(9, abs=2)


def test_all_places_are_masked_at_some_time(generator: np.random.Generator):
    frames = generator.standard_normal((2000, 20, 8), np.float32)
    masked = spec_augment(frames, generator, channels=3)
    blotted = masked != frames
    assert blotted.all(axis=2).any(axis=0).all()
    assert blotted.all(axis=1).any(axis=0).all()


def test_no_masks_leave_frames_as_they_are(generator: np.random.Generator):
    frames = generator.standard_normal((3, 50, 80), np.float32)
    assert np.array_equal(spec_augment(frames, generator, time_masks=0, channel_masks=0), frames)
