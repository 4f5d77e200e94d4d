"""A corpus of synthetic speech: spoken digits and commands by many voices."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from spangym.envs.data.log_mel import MELS, RATE, log_mel
from spangym.experiments.pilot.augmentation import add_noise, reverberate
from spangym.experiments.pilot.corpus import Corpus, Utterances, frame_counts, pad_with_silence
from spangym.experiments.pilot.grammar import Sentences
from spangym.experiments.pilot.speech_synthesizer import (
    ACCENTS,
    SPEAKERS,
    Line,
    Synthesiser,
    speak_afresh,
)
from spangym.utils.serialization import read_tree, write_tree

_VERSION = 1
"""Of what is made of a `SpokenSpeech`: part of a cached file's name."""

_RATES = (130, 200)
_PITCHES = (30, 70)
_LEVEL_DB = (-32, -20)
_LEAD_SECONDS = (0.05, 0.2)
_TRAIL_SECONDS = (0.05, 0.2)
_SNR_RANGE_DB = 20
_LEAST_REVERBERATION = 0.05


@dataclass(frozen=True)
class SpokenSpeech:
    """What is spoken, by whom, and how well it is heard.

    A voice is a speaker with an accent. The speakers of unseen voices are in no other voice.

    Attributes:
        seed: Seed of all that is drawn.
        digits: Most digits of a number: the longest ones make the longest utterances.
        train_utterances: Utterances to train on.
        seen_utterances: Utterances of the test with voices of the training.
        unseen_utterances: Utterances of the test with other voices; they say what those of the
            other test say.
        voices: Voices of the training; at most its utterances.
        unseen_voices: Voices of the test with other voices.
        noise: Lowest signal-to-noise ratio, in dB; it goes up to 20 dB above that. 0 is no noise.
        reverberation: Longest time in which reverberation decays by 60 dB, in seconds. 0 is none.
        augmented: Share of the utterances that get noise, and of those that are reverberated.
        augment_tests: Whether the utterances of tests are augmented as well.

    Raises:
        ValueError: A number is out of its range.
    """

    seed: int = 0
    digits: int = 5
    train_utterances: int = 2000
    seen_utterances: int = 200
    unseen_utterances: int = 200
    voices: int = 40
    unseen_voices: int = 10
    noise: float = 10.0
    reverberation: float = 0.3
    augmented: float = 0.5
    augment_tests: bool = False

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    def __post_init__(self) -> None:
        speakers = len(SPEAKERS) - self.unseen_voices
        limits = {
            "seed": (0, math.inf),
            "digits": (2, 12),
            "train_utterances": (1, math.inf),
            "seen_utterances": (1, math.inf),
            "unseen_utterances": (1, math.inf),
            "unseen_voices": (1, len(SPEAKERS) // 2),
            "voices": (1, min(speakers * len(ACCENTS), self.train_utterances)),
            "noise": (0, 60),
            "reverberation": (0, 2),
            "augmented": (0, 1),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                rule = f"{least} or more" if most == math.inf else f"in {least}..{most}"
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)}")


def speak_corpus(
    speech: SpokenSpeech,
    cache_folder: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    multiple: int = 4,
) -> Corpus:
    """Speak a corpus, or read it where it was spoken before.

    Args:
        speech: What is spoken.
        cache_folder: Where the corpus is kept; ``spangym`` in the user's cache if None.
        progress: Called with how many utterances are done, and of how many.
        multiple: Frames that a model makes one token of; all lengths are multiples of it.

    Returns:
        The corpus, the same to the bit each time on one machine.

    Raises:
        ValueError: The extra ``speech`` is not installed, or the folder cannot be written to.
    """
    made_of = [_VERSION, Synthesiser().version, multiple, asdict(speech)]
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = _user_cache() if cache_folder is None else Path(cache_folder)
    path = folder / f"speech-{name}.safetensors"
    # What is damaged is made anew.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _read(path)
    corpus = _speak(speech, progress, multiple)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, corpus)
    except OSError as error:
        raise ValueError(
            f"cache folder {str(folder)!r} must be one that can be written to: {error.strerror}"
        ) from error
    return corpus


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spangym")


def _speak(
    speech: SpokenSpeech, progress: Callable[[int, int], None] | None, multiple: int
) -> Corpus:
    root = np.random.default_rng(speech.seed)
    for_sentences, for_tests, for_voices, *for_lines, for_frames = root.spawn(7)
    sentences = Sentences(for_sentences, speech.digits)
    tests = max(speech.seen_utterances, speech.unseen_utterances)
    held_out = [sentences.draw(for_tests, held_out=True) for _ in range(tests)]
    seen_voices, unseen_voices = _draw_voices(speech, for_voices)
    training = [sentences.draw(for_lines[2]) for _ in range(speech.train_utterances)]
    # Tests come first: what is spoken before changes the samples of what comes after.
    splits = {
        "seen": _lines(held_out[: speech.seen_utterances], seen_voices, for_lines[0]),
        "unseen": _lines(held_out[: speech.unseen_utterances], unseen_voices, for_lines[1]),
        "train": _lines(training, seen_voices, for_lines[2]),
    }
    lines = [line for split in splits.values() for line in split]
    if progress is not None:
        progress(0, len(lines))
    recordings = [_record(samples, for_frames) for samples in speak_afresh(lines)]
    lengths = frame_counts(recordings, [line.text for line in lines], multiple)
    frames = np.empty((len(lines), int(lengths.max()), MELS), np.float32)
    for index, samples in enumerate(recordings):
        clean = index < len(lines) - speech.train_utterances and not speech.augment_tests
        padded = pad_with_silence(samples, frames.shape[1], for_frames)
        heard = padded if clean else _augment(padded, len(samples), speech, for_frames)
        frames[index] = log_mel(heard)
        if progress is not None:
            progress(index + 1, len(lines))
    # Half the size on disk. Rounded here, too, so that what is read is what was made.
    frames = frames.astype(np.float16).astype(np.float32)
    made, start = {}, 0
    for name, split in splits.items():
        stop = start + len(split)
        texts, voices = (tuple(each) for each in list(zip(*split, strict=True))[:2])
        made[name] = Utterances(frames[start:stop], lengths[start:stop], texts, voices)
        start = stop
    return Corpus(made["train"], made["seen"], made["unseen"])


def _draw_voices(
    speech: SpokenSpeech, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Voices of the training, and others, each of them another speaker while there are enough."""
    speakers = generator.permutation(SPEAKERS).tolist()
    accents = generator.permutation(ACCENTS).tolist()
    others, speakers = speakers[: speech.unseen_voices], speakers[speech.unseen_voices :]
    voices = [
        f"{accents[(place + turn) % len(accents)]}+{speaker}"
        for turn in range(len(accents))
        for place, speaker in enumerate(speakers)
    ]
    unseen = [f"{accents[place % len(accents)]}+{each}" for place, each in enumerate(others)]
    return voices[: speech.voices], unseen


def _lines(
    texts: Sequence[str], voices: Sequence[str], generator: np.random.Generator
) -> list[Line]:
    """Each text by one of the voices in turn, at a rate and pitch of its own."""
    return [
        Line(
            text,
            voices[index % len(voices)],
            int(generator.integers(*_RATES, endpoint=True)),
            int(generator.integers(*_PITCHES, endpoint=True)),
        )
        for index, text in enumerate(texts)
    ]


def _record(samples: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Speech at a level of its own, with some silence before and after."""
    wanted = 10 ** (generator.uniform(*_LEVEL_DB) / 20)
    level = np.sqrt(np.mean(np.square(samples)))
    lead, trail = (
        round(RATE * generator.uniform(*seconds)) for seconds in (_LEAD_SECONDS, _TRAIL_SECONDS)
    )
    return np.pad(samples * np.float32(wanted / level), (lead, trail))


def _augment(
    padded: NDArray[np.float32], length: int, speech: SpokenSpeech, generator: np.random.Generator
) -> NDArray[np.float32]:
    reverberated, noisy = generator.random(2) < speech.augmented
    if reverberated and speech.reverberation:
        least = min(_LEAST_REVERBERATION, speech.reverberation)
        padded = reverberate(padded, generator.uniform(least, speech.reverberation), generator)
    if noisy and speech.noise:
        snr_db = speech.noise + generator.uniform(0, _SNR_RANGE_DB)
        # Over the utterance, not over the silence that pads it.
        diluted_db = 10 * math.log10(len(padded) / length)
        padded = add_noise(padded, snr_db - diluted_db, generator)
    return padded


def _write(path: Path, corpus: Corpus) -> None:
    tree = {
        name: (split.frames.astype(np.float16), split.lengths, split.texts, split.voices)
        for name, split in corpus.splits.items()
    }
    write_tree(path, {"splits": tree, "content_sha256": corpus.content_sha256})


def _read(path: Path) -> Corpus:
    tree = read_tree(path)
    splits = {
        name: Utterances(frames.astype(np.float32), lengths, texts, voices)
        for name, (frames, lengths, texts, voices) in tree["splits"].items()
    }
    corpus = Corpus(**splits)
    if corpus.content_sha256 != tree["content_sha256"]:
        raise ValueError(f"{path} is damaged: its content is not what was written")
    return corpus
