"""Utterances with transcripts, in splits, for a recognizer of characters."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.log_mel import HOP, RATE

BLANK = 0
"""Blank class of CTC; classes from 1 are the characters, in the alphabet's order."""

NOISE_FLOOR = 1e-4
"""Standard deviation of a quiet microphone's noise, relative to full scale."""


@dataclass(frozen=True)
class Utterances:
    """Utterances, padded with silence to one length.

    Attributes:
        frames: Log-mel frames of `spangym.envs.data.log_mel`, 100 a second, float32 of shape
            (utterances, frames, 80).
        lengths: Number of frames before padding, multiples of the frames of a token, shape
            (utterances,).
        texts: Transcript of each utterance.
        speakers: Speaker of each utterance.
    """

    frames: NDArray[np.float32]
    lengths: NDArray[np.int64]
    texts: tuple[str, ...]
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Corpus:
    """Utterances of three splits; no sentence of a test split is in the training split.

    Tests are of training speakers, and of other speakers unless there is only one speaker.
    """

    train: Utterances
    test_seen: Utterances
    test_unseen: Utterances | None

    @cached_property
    def splits(self) -> dict[str, Utterances]:
        """The splits by name."""
        splits = {"train": self.train, "test_seen": self.test_seen, "test_unseen": self.test_unseen}
        return {name: split for name, split in splits.items() if split is not None}

    @cached_property
    def alphabet(self) -> str:
        """The characters of all texts, sorted."""
        return "".join(
            sorted({*"".join(text for each in self.splits.values() for text in each.texts)})
        )

    @cached_property
    def content_sha256(self) -> str:
        """SHA-256 of all frames, lengths, texts and speakers."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            digest.update(repr((name, split.frames.shape, split.texts, split.speakers)).encode())
            digest.update(np.ascontiguousarray(split.frames).data)
            digest.update(np.ascontiguousarray(split.lengths).data)
        return digest.hexdigest()


def num_frames(
    recordings: Sequence[NDArray[np.floating]], texts: Sequence[str], multiple: int
) -> NDArray[np.int64]:
    """Return the number of frames of each utterance, a multiple of those of a token.

    CTC needs a token for each character, and one more between equal characters: silence is added.
    """
    tokens = []
    for samples, text in zip(recordings, texts, strict=True):
        repeats = sum(one == other for one, other in itertools.pairwise(text))
        tokens.append(max(-(-len(samples) // (HOP * multiple)), len(text) + repeats))
    return multiple * np.array(tokens, np.int64)


def pad_with_noise(
    samples: NDArray[np.floating], frames: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Pad samples to a number of log-mel frames, and add a microphone's faint noise to all."""
    padded = generator.standard_normal(frames * HOP, np.float32) * np.float32(NOISE_FLOOR)
    padded[: len(samples)] += samples
    return padded


def encode(texts: Sequence[str], alphabet: str) -> NDArray[np.int64]:
    """Encode texts as classes for CTC; the alphabet has the characters of the classes from 1.

    Returns:
        Shape (texts, longest), with `NO_TARGET` after the end of a text.

    Example:
        >>> encode(["ab", "b"], "ab")
        array([[   1,    2],
               [   2, -100]])
    """
    classes = {character: index for index, character in enumerate(alphabet, BLANK + 1)}
    encoded = np.full((len(texts), max(map(len, texts), default=0)), NO_TARGET, np.int64)
    for row, text in zip(encoded, texts, strict=True):
        if missing := sorted({*text} - {*alphabet}):
            raise ValueError(f"text {text!r} has {missing[0]!r}, which alphabet {alphabet!r} lacks")
        row[: len(text)] = [classes[character] for character in text]
    return encoded


def decode(class_ids: Iterable[int], alphabet: str) -> str:
    """Decode the best class of each token: repeats are one character, blanks none.

    Example:
        >>> decode([0, 1, 1, 0, 1, 2, 0], "ab")
        'aab'
    """
    return "".join(
        alphabet[index - 1] for index, _ in itertools.groupby(class_ids) if index != BLANK
    )


def join_utterances(
    utterances: Utterances,
    seconds: float,
    count: int,
    generator: np.random.Generator,
    multiple: int = 4,
) -> Utterances:
    """Join random utterances of one speaker to long recordings of at least so many seconds.

    The padded length is a multiple of the frames of a token.

    Returns:
        The recordings, padded with the quietest frame of each; their texts are joined by spaces.
    """
    joined = []
    for _ in range(count):
        speaker = utterances.speakers[generator.integers(len(utterances))]
        own = [index for index, each in enumerate(utterances.speakers) if each == speaker]
        chosen: list[int] = []
        while not chosen or utterances.lengths[chosen].sum() < seconds * (RATE // HOP):
            chosen.append(own[generator.integers(len(own))])
        joined.append(chosen)
    lengths = np.array([utterances.lengths[chosen].sum() for chosen in joined], np.int64)
    longest = multiple * -(-int(lengths.max(initial=0)) // multiple)
    padded = np.empty((count, longest, *utterances.frames.shape[2:]), np.float32)
    for row, chosen in zip(padded, joined, strict=True):
        frames = np.concatenate(
            [utterances.frames[index, : utterances.lengths[index]] for index in chosen]
        )
        row[: len(frames)] = frames
        row[len(frames) :] = frames[frames.mean(axis=1).argmin()]
    return Utterances(
        padded,
        lengths,
        tuple(" ".join(utterances.texts[index] for index in chosen) for chosen in joined),
        tuple(utterances.speakers[chosen[0]] for chosen in joined),
    )
