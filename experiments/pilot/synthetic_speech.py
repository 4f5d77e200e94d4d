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
from spangym.experiments.pilot.corpus import Corpus, Utterances, num_frames, pad_with_noise
from spangym.experiments.pilot.grammar import SentenceSampler
from spangym.experiments.pilot.speech_synthesizer import (
    ACCENTS,
    SPEAKERS,
    SpeechSynthesizer,
    Utterance,
    synthesize_in_subprocess,
)
from spangym.utils.serialization import load_state, save_state

_CACHE_VERSION = 1
"""Of what is made of a `SyntheticSpeechConfig`: part of a cached file's name."""

_RATE_RANGE = (130, 200)
_PITCH_RANGE = (30, 70)
_LEVEL_RANGE_DB = (-32, -20)
_LEAD_SECONDS = (0.05, 0.2)
_TRAIL_SECONDS = (0.05, 0.2)
_SNR_RANGE_DB = 20
_MIN_REVERBERATION = 0.05


@dataclass(frozen=True)
class SyntheticSpeechConfig:
    """What is spoken, by whom, and how well it is heard.

    A voice is a speaker with an accent. The speakers of unseen voices are in no other voice.

    Attributes:
        seed: Seed of all that is drawn.
        digits: Most digits of a number: the longest ones make the longest utterances.
        train_utterances: Utterances to train on.
        test_seen_utterances: Utterances of the test with voices of the training.
        test_unseen_utterances: Utterances of the test with other voices; they say what those of the
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
    test_seen_utterances: int = 200
    test_unseen_utterances: int = 200
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
            "test_seen_utterances": (1, math.inf),
            "test_unseen_utterances": (1, math.inf),
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


def build_corpus(
    speech: SyntheticSpeechConfig,
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
    made_of = [_CACHE_VERSION, SpeechSynthesizer().version, multiple, asdict(speech)]
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = _user_cache_dir() if cache_folder is None else Path(cache_folder)
    path = folder / f"speech-{name}.safetensors"
    # What is damaged is made anew.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _load_corpus(path)
    corpus = _synthesize_corpus(speech, progress, multiple)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save_corpus(path, corpus)
    except OSError as error:
        raise ValueError(
            f"cache folder {str(folder)!r} must be one that can be written to: {error.strerror}"
        ) from error
    return corpus


def _user_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spangym")


def _synthesize_corpus(
    speech: SyntheticSpeechConfig, progress: Callable[[int, int], None] | None, multiple: int
) -> Corpus:
    root = np.random.default_rng(speech.seed)
    sentence_rng, test_rng, voice_rng, *utterance_rngs, frame_rng = root.spawn(7)
    sentences = SentenceSampler(sentence_rng, speech.digits)
    tests = max(speech.test_seen_utterances, speech.test_unseen_utterances)
    held_out = [sentences.sample(test_rng, held_out=True) for _ in range(tests)]
    seen_voices, unseen_voices = _sample_voices(speech, voice_rng)
    training = [sentences.sample(utterance_rngs[2]) for _ in range(speech.train_utterances)]
    # Tests come first: what is spoken before changes the samples of what comes after.
    splits = {
        "test_seen": _assign_voices(
            held_out[: speech.test_seen_utterances], seen_voices, utterance_rngs[0]
        ),
        "test_unseen": _assign_voices(
            held_out[: speech.test_unseen_utterances], unseen_voices, utterance_rngs[1]
        ),
        "train": _assign_voices(training, seen_voices, utterance_rngs[2]),
    }
    utterances = [utterance for split in splits.values() for utterance in split]
    if progress is not None:
        progress(0, len(utterances))
    recordings = [
        _simulate_recording(samples, frame_rng) for samples in synthesize_in_subprocess(utterances)
    ]
    lengths = num_frames(recordings, [utterance.text for utterance in utterances], multiple)
    frames = np.empty((len(utterances), int(lengths.max()), MELS), np.float32)
    for index, samples in enumerate(recordings):
        clean = index < len(utterances) - speech.train_utterances and not speech.augment_tests
        padded = pad_with_noise(samples, frames.shape[1], frame_rng)
        augmented_samples = padded if clean else _augment(padded, len(samples), speech, frame_rng)
        frames[index] = log_mel(augmented_samples)
        if progress is not None:
            progress(index + 1, len(utterances))
    # Half the size on disk. Rounded here, too, so that what is read is what was made.
    frames = frames.astype(np.float16).astype(np.float32)
    utterances_by_split, start = {}, 0
    for name, split in splits.items():
        stop = start + len(split)
        texts, voices = (tuple(each) for each in list(zip(*split, strict=True))[:2])
        utterances_by_split[name] = Utterances(
            frames[start:stop], lengths[start:stop], texts, voices
        )
        start = stop
    return Corpus(
        utterances_by_split["train"],
        utterances_by_split["test_seen"],
        utterances_by_split["test_unseen"],
    )


def _sample_voices(
    speech: SyntheticSpeechConfig, generator: np.random.Generator
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


def _assign_voices(
    texts: Sequence[str], voices: Sequence[str], generator: np.random.Generator
) -> list[Utterance]:
    """Each text by one of the voices in turn, at a rate and pitch of its own."""
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
    """Speech at a level of its own, with some silence before and after."""
    wanted = 10 ** (generator.uniform(*_LEVEL_RANGE_DB) / 20)
    level = np.sqrt(np.mean(np.square(samples)))
    lead, trail = (
        round(RATE * generator.uniform(*seconds)) for seconds in (_LEAD_SECONDS, _TRAIL_SECONDS)
    )
    return np.pad(samples * np.float32(wanted / level), (lead, trail))


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
        snr_db = speech.noise + generator.uniform(0, _SNR_RANGE_DB)
        # Over the utterance, not over the silence that pads it.
        diluted_db = 10 * math.log10(len(padded) / length)
        padded = add_noise(padded, snr_db - diluted_db, generator)
    return padded


def _save_corpus(path: Path, corpus: Corpus) -> None:
    tree = {
        name: (split.frames.astype(np.float16), split.lengths, split.texts, split.speakers)
        for name, split in corpus.splits.items()
    }
    save_state(path, {"splits": tree, "content_sha256": corpus.content_sha256})


def _load_corpus(path: Path) -> Corpus:
    tree = load_state(path)
    splits = {
        name: Utterances(frames.astype(np.float32), lengths, texts, voices)
        for name, (frames, lengths, texts, voices) in tree["splits"].items()
    }
    corpus = Corpus(**splits)
    if corpus.content_sha256 != tree["content_sha256"]:
        raise ValueError(f"{path} is damaged: its content is not what was written")
    return corpus
