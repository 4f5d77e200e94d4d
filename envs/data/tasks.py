"""Five small tasks whose content indicates the required span.

The filler letters of a chunk come from one of three alphabets, one for each required span. The
alphabet is visible in the mean over tokens of a layer's input, whatever the rest of the chunk.
"""

from __future__ import annotations

import string
from abc import abstractmethod

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET, Dataset, Stream

Bytes = NDArray[np.uint8]
Classes = NDArray[np.int64]

MIN_CTX = 128
"""Minimum tokens of a chunk: distances are absolute and fit into that."""

KEYS = np.frombuffer(string.ascii_uppercase.encode(), np.uint8)
VALUES = np.frombuffer(b"0123", np.uint8)
FILLERS = tuple(np.frombuffer(text, np.uint8) for text in (b"abcdefgh", b"ijklmnop", b"qrstuvwx"))


class _TaskDataset(Dataset):
    """Chunks of a random content type each, filled with its letters, on which a task is written."""

    _content_types: tuple[str, str, str]

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Sample a content type for each chunk, its filler, and its task.

        Raises:
            ValueError: The chunks are too short.
        """
        if ctx < MIN_CTX:
            raise ValueError(f"ctx must be at least {MIN_CTX} tokens for this task, got {ctx}")
        indices = generator.integers(len(FILLERS), size=chunks)
        letters = generator.integers(len(FILLERS[0]), size=(chunks, ctx))
        content = np.stack(FILLERS)[indices[:, None], letters]
        targets = np.full((chunks, ctx), NO_TARGET, np.int64)
        for row, index in enumerate(indices):
            self._write(generator, index, content[row], targets[row])
        return Stream(content, tuple(self._content_types[index] for index in indices), targets)

    @abstractmethod
    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        """Write the task of content type ``index`` on the filler ``content``, and its targets."""


class LongRangeDataset(_TaskDataset):
    """Recall of recent or distant facts.

    A chunk holds four facts, each a key (a capital) and its value (0-3), and later the four keys
    again, in random order; the target at each is its value. The rest is filler, whose letters
    indicate the distance of the facts: a-h near, i-p middle, q-x far.
    """

    _content_types = ("near", "middle", "far")
    _gaps = ((0, 4), (26, 32), (96, 116))
    _facts = 4

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        ctx, facts = len(content), self._facts
        keys = generator.choice(KEYS, size=facts, replace=False)
        values = generator.integers(len(VALUES), size=facts)
        gap = int(generator.integers(*self._gaps[index], endpoint=True))
        start = int(generator.integers(ctx - 3 * facts - gap, endpoint=True))
        _write_pairs(content, start, keys, VALUES[values])
        order = generator.permutation(facts)
        asked = slice(start + 2 * facts + gap, start + 3 * facts + gap)
        content[asked] = keys[order]
        targets[asked] = values[order]


class CollapseDataset(_TaskDataset):
    """Recall of the nearest of many candidates: attention over a long span mixes in the others.

    A chunk holds many versions of a list of four keys and values, with new values each time. At one
    position the four keys are queried; the target is the value in the nearest version, before or
    after it. The filler letters indicate the distance of that version, beyond which the others are
    dense: a-h near, i-p middle, q-x far.
    """

    _content_types = ("near", "middle", "far")
    # Distance of the farthest query from its answer in the nearest version.
    _distances = ((11, 15), (23, 29), (37, 43))
    _facts = 4
    _margin = 8
    _spacing = 12

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        ctx, facts = len(content), self._facts
        keys = generator.choice(KEYS, size=facts, replace=False)
        reach = int(generator.integers(*self._distances[index], endpoint=True))
        if generator.random() < 0.5:
            asked = int(generator.integers(reach, ctx - facts, endpoint=True))
            nearest = asked + facts - 2 - reach
        else:
            asked = int(generator.integers(ctx - facts - reach, endpoint=True))
            nearest = asked + reach - 2 * facts + 1
        # Answers of the other versions are at least this far from every query.
        apart = self._distances[index][1] + self._margin
        before = range(asked - apart - 2 * facts + 1, -1, -self._spacing)
        after = range(asked + facts - 2 + apart, ctx - 2 * facts + 1, self._spacing)
        for start in (*before, *after):
            others = generator.choice(VALUES, size=facts)
            _write_pairs(content, start, generator.permutation(keys), others)
        values = generator.integers(len(VALUES), size=facts)
        _write_pairs(content, nearest, keys, VALUES[values])
        order = generator.permutation(facts)
        content[asked : asked + facts] = keys[order]
        targets[asked : asked + facts] = values[order]


class PrecisionDataset(_TaskDataset):
    """Classification of entities by one cue somewhere in the context.

    A chunk is eight notes, three paragraphs or one article, indicated by filler letters a-h, i-p,
    q-x. Each part mentions entities (capitals) of its own four times, and one mention of each is
    followed by its cue (one of ``@#%&``, the class). The target of the other mentions, before and
    after, is that class. Stray cues, and cues of other entities, are distractors.
    """

    _content_types = ("notes", "paragraphs", "article")
    _parts = (8, 3, 1)
    _cues = np.frombuffer(b"@#%&", np.uint8)
    _mentions = 3

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        parts = self._parts[index]
        each = 9 // parts
        entities = generator.choice(KEYS, size=(parts, each), replace=False)
        classes = generator.integers(len(self._cues), size=(parts, each))
        # Everything is written in pairs of bytes, so that no stray cue follows a mention.
        for part, pairs in enumerate(np.array_split(np.arange(0, len(content) - 1, 2), parts)):
            places = generator.permutation(pairs)[: (self._mentions + 2) * each]
            places = places.reshape(self._mentions + 2, each)
            cued, stray, mentions = places[0], places[1], places[2:]
            content[cued] = entities[part]
            content[cued + 1] = self._cues[classes[part]]
            content[stray + 1] = generator.choice(self._cues, size=each)
            content[mentions] = entities[part]
            targets[mentions] = classes[part]


class HierarchyDataset(_TaskDataset):
    """Two hops: from a topic to its section, from the section to its item.

    A chunk holds four sections (N-Z), each with its item (0-3), then an index of four topics
    (A-M), each with its section, then queries: four topics and two sections, whose target is the
    item. The filler letters indicate which hop is long: neither (a-h), from the index back to the
    sections (i-p), or from the queries back to the index (q-x).
    """

    _content_types = ("all near", "sections far", "index far")
    _far = (84, 100)
    _entries = 4
    _direct = 2

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        ctx, entries = len(content), self._entries
        topics = generator.choice(KEYS[:13], size=entries, replace=False)
        sections = generator.choice(KEYS[13:], size=entries, replace=False)
        items = generator.integers(len(VALUES), size=entries)
        far = int(generator.integers(*self._far, endpoint=True))
        before_index = far if self._content_types[index] == "sections far" else 0
        before_questions = far if self._content_types[index] == "index far" else 0
        questions = np.concatenate([topics, sections[: self._direct]])
        answers = np.concatenate([items, items[: self._direct]])
        length = 4 * entries + before_index + before_questions + len(questions)
        start = int(generator.integers(ctx - length, endpoint=True))
        order = generator.permutation(entries)
        _write_pairs(content, start, sections[order], VALUES[items[order]])
        start += 2 * entries + before_index
        order = generator.permutation(entries)
        _write_pairs(content, start, topics[order], sections[order])
        start += 2 * entries + before_questions
        order = generator.permutation(len(questions))
        content[start : start + len(questions)] = questions[order]
        targets[start : start + len(questions)] = answers[order]


class SparsityDataset(_TaskDataset):
    """A repeated melody: the next note is the one that followed the same note the last time.

    A chunk is a repeated passage of distinct bytes; from the first repeat on, the target is the
    next byte modulo 4. The bytes indicate the length of the passage, which is the required span:
    digits short, capitals medium, bytes from 160 on long. A longer span only costs.
    """

    _content_types = ("short", "medium", "long")
    _notes = (np.arange(48, 58, dtype=np.uint8), KEYS, np.arange(160, 240, dtype=np.uint8))
    _periods = ((4, 6), (16, 20), (44, 52))

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> None:
        period = int(generator.integers(*self._periods[index], endpoint=True))
        passage = generator.choice(self._notes[index], size=period, replace=False)
        content[:] = np.resize(passage, len(content))
        targets[period:-1] = content[period + 1 :] % 4


def _write_pairs(chunk: Bytes, start: int, firsts: Bytes, seconds: Bytes) -> None:
    """Write consecutive pairs of bytes."""
    chunk[start : start + 2 * len(firsts)] = np.stack([firsts, seconds], axis=1).ravel()
