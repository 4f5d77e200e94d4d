"""A corpus of synthetic speech: spoken digits and commands by many voices."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spangym.envs.data.log_mel import MELS, RATE, log_mel
from spangym.experiments.pilot.augmentation import add_noise, reverberate
from spangym.experiments.pilot.corpus import Corpus, Utterances, num_frames, pad_with_noise
from spangym.experiments.pilot.speech_synthesizer import (
    ACCENTS,
    SPEAKERS,
    SpeechSynthesizer,
    Utterance,
    synthesize_in_subprocess,
)
from spangym.experiments.studies.field_types import (
    Count,
    Flag,
    Fraction,
    NonNegativeFloat,
    Seed,
)
from spangym.utils.serialization import load_state, save_state

_CACHE_VERSION = 1
"""Version of the corpus of a `SyntheticSpeechConfig`: part of the name of a cached file."""

SNR_RANGE_DB = 20
"""Signal-to-noise ratios are drawn from ``noise`` to this much above it."""

_RATE_RANGE = (130, 200)
_PITCH_RANGE = (30, 70)
_LEVEL_RANGE_DB = (-32, -20)
_SILENCE_SECONDS = (0.05, 0.2)
_MIN_REVERBERATION = 0.05

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ROOMS = ("kitchen", "bedroom", "hall", "garden", "office", "garage")
_HOURS = (*_DIGITS[1:], "ten", "eleven", "twelve")
_COMMANDS = (
    (("turn",), ("on", "off"), ("the",), _ROOMS, ("light", "fan", "heater", "radio")),
    (("open", "close", "lock"), ("the",), _ROOMS, ("door", "window")),
    (("set",), ("alarm", "timer", "clock"), _HOURS),
    (("set",), ("alarm", "clock"), _HOURS, ("fifteen", "thirty", "forty")),
    (("go", "turn", "move", "look"), ("left", "right", "up", "down", "back")),
    (("go", "move"), ("left", "right", "up", "down", "back"), _DIGITS[1:]),
    (("volume", "heat", "speed"), ("up", "down"), _DIGITS[1:]),
    (("call",), _DIGITS, _DIGITS, _DIGITS),
    (("play", "stop", "pause"), ("the",), ("music", "song", "movie", "radio")),
    (("go to",), ("page", "channel", "track"), _DIGITS, _DIGITS),
    (("what is the",), ("time", "weather", "news", "date", "score")),
    (("send a",), ("message", "letter", "picture"), ("to",), ("mother", "father", "anna", "peter")),
)
_HELD_OUT_DIVISOR = 5
_MIN_SENTENCES = 12
"""All sentences of smaller forms are for training, so that every word of a test is trained on."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SyntheticSpeechConfig:
    """Sentences, voices and recording conditions of a corpus.

    A voice is a speaker with an accent. No speaker of an unseen voice has another voice.

    Attributes:
        seed: Seed of everything random.
        digits: Maximum number of digits in a number: these are the longest utterances.
        train_utterances: Number of training utterances.
        test_seen_utterances: Number of test utterances with training voices.
        test_unseen_utterances: Number of test utterances with other voices, of the same sentences
            as the other test.
        voices: Number of training voices; at most the number of training utterances.
        unseen_voices: Number of voices in the test with other voices.
        noise: Minimum signal-to-noise ratio in dB, which is drawn up to 20 dB above; 0 is no noise.
        reverberation: Maximum time in which reverberation decays by 60 dB, in seconds; 0 is none.
        augmented: Probability that an utterance gets noise, and that it is reverberated.
        augment_tests: Whether test utterances are augmented too.

    Raises:
        ValueError: A number is out of its range.
    """

    seed: Seed = 0
    digits: Annotated[Count, Field(ge=2, le=12)] = 5
    train_utterances: Count = 2000
    test_seen_utterances: Count = 200
    test_unseen_utterances: Count = 200
    voices: Count = 40
    unseen_voices: Annotated[Count, Field(le=len(SPEAKERS) // 2)] = 10
    noise: Annotated[NonNegativeFloat, Field(le=60)] = 10.0
    reverberation: Annotated[NonNegativeFloat, Field(le=2)] = 0.3
    augmented: Fraction = 0.5
    augment_tests: Flag = False

    def __post_init__(self) -> None:
        most = min((len(SPEAKERS) - self.unseen_voices) * len(ACCENTS), self.train_utterances)
        if self.voices > most:
            raise ValueError(f"voices must be in 1..{most}, got {self.voices}")


class SentenceSampler:
    """Draws sentences, half of them numbers of at least two digits, half of them commands.

    A fifth of the sentences of each form is held out for tests, except for the smallest forms.
    Forms are drawn with probabilities proportional to the logarithm of their number of sentences.

    Example:
        >>> sentences = SentenceSampler(np.random.default_rng(0))
        >>> generator = np.random.default_rng(1)
        >>> sentences.sample(generator), sentences.sample(generator, held_out=True)
        ('turn on the garage fan', 'six zero two')
    """

    def __init__(self, generator: np.random.Generator, digits: int = 5) -> None:
        self._training, self._tests = [], []
        numbers = [(_DIGITS,) * count for count in range(2, digits + 1)]
        self._numbers = len(numbers)
        for form in (*numbers, *_COMMANDS):
            order = generator.permutation(math.prod(map(len, form)))
            held_out = len(order) // _HELD_OUT_DIVISOR if len(order) >= _MIN_SENTENCES else 0
            self._training.append((form, order[held_out:]))
            self._tests.append((form, order[:held_out]))

    def sample(self, generator: np.random.Generator, held_out: bool = False) -> str:
        """Draw a training sentence, or a held-out test sentence, of lowercase words."""
        forms = self._tests if held_out else self._training
        # With equal probabilities nearly all sentences would be the longest numbers.
        odds = np.log([len(indices) + 1 for _, indices in forms])
        odds[: self._numbers] /= odds[: self._numbers].sum()
        odds[self._numbers :] /= odds[self._numbers :].sum()
        form, indices = forms[generator.choice(len(forms), p=odds / 2)]
        positions = np.unravel_index(generator.choice(indices), [len(words) for words in form])
        return " ".join(words[place] for words, place in zip(form, positions, strict=True))


def build_corpus(
    speech: SyntheticSpeechConfig,
    cache_folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    multiple: int = 4,
) -> Corpus:
    """Synthesize a corpus, or read it from the cache; byte-identical each time on one machine.

    The cache is ``spangym`` in the user's cache by default. ``progress`` is called with the number
    of utterances done, and of all. Lengths are multiples of the frames of a token. A ValueError
    tells that the extra ``speech`` is not installed, or that the folder is not writable.
    """
    key = json.dumps(
        [_CACHE_VERSION, SpeechSynthesizer().version, multiple, asdict(speech)], sort_keys=True
    )
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spangym")
    folder = user_cache if cache_folder is None else Path(cache_folder)
    path = folder / f"speech-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    # A missing or damaged file is written again.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _load_corpus(path)
    corpus = _synthesize_corpus(speech, progress or (lambda *_: None), multiple)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save_corpus(path, corpus)
    except OSError as error:
        raise ValueError(
            f"cache folder {str(folder)!r} is not writable: {error.strerror}"
        ) from error
    return corpus


def _synthesize_corpus(
    speech: SyntheticSpeechConfig, progress: Callable[[int, int], None], multiple: int
) -> Corpus:
    root = np.random.default_rng(speech.seed)
    sentence_rng, test_rng, voice_rng, seen_rng, unseen_rng, train_rng, frame_rng = root.spawn(7)
    sentences = SentenceSampler(sentence_rng, speech.digits)
    num_seen, num_unseen = speech.test_seen_utterances, speech.test_unseen_utterances
    held_out = [sentences.sample(test_rng, held_out=True) for _ in range(max(num_seen, num_unseen))]
    voices, unseen_voices = _sample_voices(speech, voice_rng)
    training = [sentences.sample(train_rng) for _ in range(speech.train_utterances)]
    # Tests come first: the samples of an utterance depend on those spoken before.
    lines_by_split = {
        "test_seen": _assign_voices(held_out[:num_seen], voices, seen_rng),
        "test_unseen": _assign_voices(held_out[:num_unseen], unseen_voices, unseen_rng),
        "train": _assign_voices(training, voices, train_rng),
    }
    lines = [line for split in lines_by_split.values() for line in split]
    progress(0, len(lines))
    recordings = [
        _simulate_recording(samples, frame_rng) for samples in synthesize_in_subprocess(lines)
    ]
    lengths = num_frames(recordings, [line.text for line in lines], multiple)
    frames = np.empty((len(lines), int(lengths.max()), MELS), np.float32)
    for index, samples in enumerate(recordings):
        is_test = index < num_seen + num_unseen
        padded = pad_with_noise(samples, frames.shape[1], frame_rng)
        if not is_test or speech.augment_tests:
            padded = _augment(padded, len(samples), speech, frame_rng)
        frames[index] = log_mel(padded)
        progress(index + 1, len(lines))
    # Files hold float16. Rounding here makes a new corpus equal to one that is read.
    frames = frames.astype(np.float16).astype(np.float32)
    splits, start = {}, 0
    for name, split in lines_by_split.items():
        rows = slice(start, start + len(split))
        texts, speakers = tuple(each.text for each in split), tuple(each.voice for each in split)
        splits[name] = Utterances(frames[rows], lengths[rows], texts, speakers)
        start = rows.stop
    return Corpus(**splits)


def _sample_voices(
    speech: SyntheticSpeechConfig, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Draw training voices and unseen voices; speakers repeat only when all are used."""
    speakers = generator.permutation(SPEAKERS).tolist()
    accents = generator.permutation(ACCENTS).tolist()
    unseen, speakers = speakers[: speech.unseen_voices], speakers[speech.unseen_voices :]
    voices = [
        f"{accents[(place + turn) % len(accents)]}+{speaker}"
        for turn in range(len(accents))
        for place, speaker in enumerate(speakers)
    ]
    unseen_voices = [f"{accents[place % len(accents)]}+{each}" for place, each in enumerate(unseen)]
    return voices[: speech.voices], unseen_voices


def _assign_voices(
    texts: Sequence[str], voices: Sequence[str], generator: np.random.Generator
) -> list[Utterance]:
    """Assign voices to texts in turn, with random rates and pitches."""
    return [
        Utterance(
            text,
            voices[index % len(voices)],
            int(generator.integers(*_RATE_RANGE, endpoint=True)),
            int(generator.integers(*_PITCH_RANGE, endpoint=True)),
        )
        for index, text in enumerate(texts)
    ]


def _simulate_recording(
    samples: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Set a random level, and add silence before and after."""
    target = 10 ** (generator.uniform(*_LEVEL_RANGE_DB) / 20)
    level = np.sqrt(np.mean(np.square(samples)))
    silences = [round(RATE * generator.uniform(*_SILENCE_SECONDS)) for _ in range(2)]
    return np.pad(samples * np.float32(target / level), silences)


def _augment(
    padded: NDArray[np.float32],
    length: int,
    speech: SyntheticSpeechConfig,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    reverberated, noisy = generator.random(2) < speech.augmented
    if reverberated and speech.reverberation:
        least = min(_MIN_REVERBERATION, speech.reverberation)
        padded = reverberate(padded, generator.uniform(least, speech.reverberation), generator)
    if noisy and speech.noise:
        snr_db = speech.noise + generator.uniform(0, SNR_RANGE_DB)
        # The ratio is that of the utterance, without the silence that pads it.
        snr_db -= 10 * math.log10(len(padded) / length)
        padded = add_noise(padded, snr_db, generator)
    return padded


def _save_corpus(path: Path, corpus: Corpus) -> None:
    splits = {
        name: (split.frames.astype(np.float16), split.lengths, split.texts, split.speakers)
        for name, split in corpus.splits.items()
    }
    save_state(path, {"splits": splits, "content_sha256": corpus.content_sha256})


def _load_corpus(path: Path) -> Corpus:
    state = load_state(path)
    splits = {
        name: Utterances(frames.astype(np.float32), lengths, texts, voices)
        for name, (frames, lengths, texts, voices) in state["splits"].items()
    }
    corpus = Corpus(**splits)
    if corpus.content_sha256 != state["content_sha256"]:
        raise ValueError(f"{path} is damaged: its content does not match its hash")
    return corpus
