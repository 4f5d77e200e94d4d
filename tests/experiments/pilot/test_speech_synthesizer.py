"""Speech from text."""

import sys
import time

import numpy as np
import pytest

from spangym.envs.data.log_mel import RATE, log_mel
from spangym.experiments.pilot.speech_synthesizer import (
    ACCENTS,
    SPEAKERS,
    SpeechSynthesizer,
    Utterance,
    synthesize_in_subprocess,
)

TEXT = "set the alarm for seven"


@pytest.fixture(scope="module")
def synthesizer() -> SpeechSynthesizer:
    return SpeechSynthesizer()


def mean_spectrum(samples: np.ndarray) -> np.ndarray:
    frames = log_mel(samples)
    loud = frames[frames.mean(axis=1) > np.median(frames.mean(axis=1))]
    return loud.mean(axis=0) - loud.mean()


def pitch_hz(samples: np.ndarray) -> float:
    """The median over the loudest frames of where autocorrelation is highest."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256]
    windows = windows[np.argsort(-(windows**2).mean(axis=1))[:20]]
    spectra = np.abs(np.fft.rfft(windows * np.hanning(1024), 2048)) ** 2
    correlations = np.fft.irfft(spectra)[:, RATE // 400 : RATE // 60]
    return float(np.median(RATE / (correlations.argmax(axis=1) + RATE // 400)))


def test_speech_is_sound_of_plausible_length(synthesizer: SpeechSynthesizer):
    samples = synthesizer.synthesize(TEXT, "en-us")
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 0.8 < len(samples) / RATE < 2.5
    assert 0.01 < np.sqrt((samples**2).mean()) < 0.5
    assert np.abs(samples).max() <= 1.1
    assert synthesizer.version[0].isdigit()


def test_nothing_to_say_is_no_sound(synthesizer: SpeechSynthesizer):
    assert not synthesizer.synthesize("", "en").any()


def test_a_longer_text_is_longer_speech(synthesizer: SpeechSynthesizer):
    short, long = (synthesizer.synthesize(text, "en") for text in ("one", "one two three four"))
    assert len(long) > 2 * len(short)


def test_rate_and_pitch_change_speech(synthesizer: SpeechSynthesizer):
    slow, fast = (len(synthesizer.synthesize(TEXT, "en-us", rate=rate)) for rate in (120, 240))
    assert 1.5 < slow / fast < 2.5
    low, high = (pitch_hz(synthesizer.synthesize(TEXT, "en-us", pitch=pitch)) for pitch in (20, 80))
    assert high > 1.3 * low


@pytest.mark.parametrize("voices", [[f"en-us+{each}" for each in SPEAKERS], ACCENTS])
def test_each_voice_is_there_and_audible(synthesizer: SpeechSynthesizer, voices: list[str]):
    levels = [np.sqrt((synthesizer.synthesize("seven", each) ** 2).mean()) for each in voices]
    assert min(levels) > 0.01


def test_speakers_sound_different_and_each_as_itself(synthesizer: SpeechSynthesizer):
    voices = [f"en-us+{each}" for each in ("m3", "f2", "klatt", "linda", "travis", "aunty")]
    once, again = (
        np.array([mean_spectrum(synthesizer.synthesize(TEXT, each)) for each in voices])
        for _ in range(2)
    )
    distances = np.linalg.norm(once[:, None] - again[None], axis=-1)
    own = np.diag(distances)
    assert (distances + np.diag([np.inf] * len(voices))).min() > 2 * own.max()


def test_accents_say_it_differently(synthesizer: SpeechSynthesizer):
    spoken = [len(synthesizer.synthesize("what is the score", each)) for each in ACCENTS]
    assert len(set(spoken)) >= 6


@pytest.mark.parametrize("voice", ["xx-yy", "en-us+nobody", "en+../m1"])
def test_an_unknown_voice_is_refused(synthesizer: SpeechSynthesizer, voice: str):
    with pytest.raises(ValueError, match="unknown to espeak-ng"):
        synthesizer.synthesize(TEXT, voice)


@pytest.mark.parametrize(("rate", "pitch", "name"), [(79, 50, "rate"), (175, 100, "pitch")])
def test_numbers_out_of_range_are_refused(
    synthesizer: SpeechSynthesizer, rate: int, pitch: int, name: str
):
    with pytest.raises(ValueError, match=f"{name} must be"):
        synthesizer.synthesize(TEXT, "en", rate, pitch)


def test_the_same_lines_in_new_processes_are_bit_exact(synthesizer: SpeechSynthesizer):
    # Of these the library draws noise, which it seeds with the time in seconds.
    lines = [
        Utterance("four five", f"en-us+{each}", 160, 55) for each in ("f2", "Reed", "sandro", "m1")
    ]
    first = list(synthesize_in_subprocess(lines))
    synthesizer.synthesize(TEXT, "en")
    time.sleep(1.1)
    second = list(synthesize_in_subprocess(lines))
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    alone = synthesizer.synthesize(*lines[0])
    assert abs(len(first[0]) - len(alone)) < RATE // 100


def test_errors_of_the_subprocess_are_raised():
    with pytest.raises(ValueError, match="unknown to espeak-ng"):
        list(synthesize_in_subprocess([Utterance("one", "xx-yy")]))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    for synthesize in (
        SpeechSynthesizer,
        lambda: list(synthesize_in_subprocess([Utterance("one", "en")])),
    ):
        with pytest.raises(ValueError, match=r"pip install 'spangym\[speech\]'"):
            synthesize()
