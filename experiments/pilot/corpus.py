"""Utterances with their texts, in splits, as a recognizer of characters is trained on them."""

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
"""CTC's class of no character; characters are the classes from 1, in the alphabet's order."""

NOISE_FLOOR = 1e-4
"""Level of a quiet microphone, of 1."""

_FRAMES_PER_SECOND = RATE // HOP


@dataclass(frozen=True)
class Utterances:
    """Utterances, padded with silence to one length.

    Attributes:
        frames: Log-mel frames of `spangym.envs.data.log_mel`, 100 a second, float32 of shape
            (utterances, frames, 80).
        lengths: Frames before padding, multiples of what a model makes one token of, shape
            (utterances,).
        texts: What is said.
        speakers: Who says it.
    """

    frames: NDArray[np.float32]
    lengths: NDArray[np.int64]
    texts: tuple[str, ...]
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Corpus:
    """Utterances for training and for two tests; no sentence of a test is trained on.

    Attributes:
        train: Utterances to train on.
        test_seen: The test with speakers of the training.
        test_unseen: The test with other speakers; None where there is but one speaker.
    """

    train: Utterances
    test_seen: Utterances
    test_unseen: Utterances | None

    @cached_property
    def splits(self) -> dict[str, Utterances]:
        """What there is of ``train``, ``test_seen`` and ``test_unseen``."""
        named = {"train": self.train, "test_seen": self.test_seen, "test_unseen": self.test_unseen}
        return {name: split for name, split in named.items() if split is not None}

    @cached_property
    def alphabet(self) -> str:
        """The characters of all texts, sorted."""
        return "".join(
            sorted({each for split in self.splits.values() for each in "".join(split.texts)})
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
    """Frames that each utterance takes, with the silence after it that CTC may need.

    CTC has a token for each character, and one between two that are the same.

    Args:
        recordings: Samples of each.
        texts: What is said in each.
        multiple: Frames that a model makes one token of.

    Returns:
        Shape (utterances,), multiples of ``multiple``.
    """
    return np.array(
        [
            multiple * max(-(-len(samples) // (HOP * multiple)), _min_ctc_tokens(text))
            for samples, text in zip(recordings, texts, strict=True)
        ],
        np.int64,
    )


def pad_with_noise(
    samples: NDArray[np.floating], frames: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Samples as a microphone would give them that runs on: a faint noise over all of it.

    Args:
        samples: Shape (samples,), at most so many as ``frames`` take.
        frames: Log-mel frames that it is to have.
        generator: Draws the noise.
    """
    padded = generator.standard_normal(frames * HOP, np.float32) * np.float32(NOISE_FLOOR)
    padded[: len(samples)] += samples
    return padded


def encode(texts: Sequence[str], alphabet: str) -> NDArray[np.int64]:
    """Texts as classes, for CTC.

    Args:
        texts: What is said.
        alphabet: Characters of the classes from 1.

    Returns:
        Shape (texts, longest), with `NO_TARGET` after the end of a text.

    Raises:
        ValueError: A text has a character that the alphabet lacks.

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
    """The text of each token's best class: repeats are one character, blanks none.

    Args:
        class_ids: Classes of the tokens of one utterance.
        alphabet: Characters of the classes from 1.

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
    """Join utterances of one speaker to long recordings.

    Args:
        utterances: What to draw from.
        seconds: Least length of a recording.
        count: How many recordings.
        generator: Draws speakers and utterances.
        multiple: The padded length is a multiple of it.

    Returns:
        The recordings, padded with the quietest frame of each to one length; their texts joined by
        spaces.
    """
    joined = [_sample_indices(utterances, seconds, generator) for _ in range(count)]
    lengths = np.array([utterances.lengths[chosen].sum() for chosen in joined], np.int64)
    longest = multiple * -(-int(lengths.max(initial=0)) // multiple)
    padded = np.empty((count, longest, *utterances.frames.shape[2:]), np.float32)
    for row, chosen in zip(padded, joined, strict=True):
        parts = [utterances.frames[index, : utterances.lengths[index]] for index in chosen]
        frames = np.concatenate(parts)
        row[: len(frames)] = frames
        row[len(frames) :] = frames[frames.mean(axis=1).argmin()]
    return Utterances(
        padded,
        lengths,
        tuple(" ".join(utterances.texts[index] for index in chosen) for chosen in joined),
        tuple(utterances.speakers[chosen[0]] for chosen in joined),
    )


def _sample_indices(
    utterances: Utterances, seconds: float, generator: np.random.Generator
) -> list[int]:
    """Indices of utterances of one speaker that last so long together."""
    speaker = utterances.speakers[generator.integers(len(utterances))]
    own = [index for index, each in enumerate(utterances.speakers) if each == speaker]
    chosen: list[int] = []
    while not chosen or utterances.lengths[chosen].sum() < seconds * _FRAMES_PER_SECOND:
        chosen.append(own[generator.integers(len(own))])
    return chosen


def _min_ctc_tokens(text: str) -> int:
    return len(text) + sum(one == other for one, other in itertools.pairwise(text))
