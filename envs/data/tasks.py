"""Five small tasks whose content indicates the required span.

How it does is the difficulty. At 0 each content type, one for each required span, has an alphabet
of its own, visible in the mean over tokens of a layer's input. At 1 the alphabet is common, and one
marker somewhere in the chunk indicates the type. At 2 there is no cue: what a chunk repeats, it
repeats at the distance that the task needs, visible in lag correlations.
"""

from __future__ import annotations

import string
from abc import abstractmethod

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET, Dataset, Stream
from spangym.utils.scalars import as_int

Bytes = NDArray[np.uint8]
Classes = NDArray[np.int64]

MIN_CTX = 128
"""Minimum tokens of a chunk: distances are absolute and fit into that."""

MAX_DIFFICULTY = 2
"""Largest difficulty."""

KEYS = np.frombuffer(string.ascii_uppercase.encode(), np.uint8)
VALUES = np.frombuffer(b"0123", np.uint8)
FILLERS = tuple(np.frombuffer(text, np.uint8) for text in (b"abcdefgh", b"ijklmnop", b"qrstuvwx"))
"""Filler letters by content type, at difficulty 0."""
COMMON_FILLER = np.frombuffer(b"ajqbkrcl", np.uint8)
"""Filler letters of all content types, at the other difficulties."""
MARKERS = np.frombuffer(b"<=>", np.uint8)
"""Marker by content type, at difficulty 1."""

_RETURN_RATE = 0.4
"""Share of the filler letters that are repeated, at difficulty 2."""
_EMPTY = 0
"""Byte of tokens on which the task is not written."""


class TaskDataset(Dataset):
    """Chunks of a random content type each, on which a task is written.

    Args:
        difficulty: What indicates the content type: 0 the alphabet, 1 one marker, 2 the distance of
            repeats; None for a random one in each chunk, as in pretraining.

    Attributes:
        difficulty: The difficulty.

    Raises:
        ValueError: The difficulty is not in 0..2.
    """

    _content_types: tuple[str, str, str]

    def __init__(self, difficulty: int | None = None) -> None:
        self.difficulty = (
            None if difficulty is None else as_int("difficulty", difficulty, 0, MAX_DIFFICULTY)
        )

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Sample a content type for each chunk, its task, and what surrounds it.

        Raises:
            ValueError: The chunks are too short.
        """
        if ctx < MIN_CTX:
            raise ValueError(f"ctx must be at least {MIN_CTX} tokens for this task, got {ctx}")
        indices = generator.integers(len(self._content_types), size=chunks)
        content = np.full((chunks, ctx), _EMPTY, np.uint8)
        targets = np.full((chunks, ctx), NO_TARGET, np.int64)
        for row, index in enumerate(indices):
            difficulty = self.difficulty
            if difficulty is None:
                difficulty = int(generator.integers(MAX_DIFFICULTY, endpoint=True))
            self._write_chunk(generator, index, difficulty, content[row], targets[row])
        return Stream(content, tuple(self._content_types[index] for index in indices), targets)

    @abstractmethod
    def _write_chunk(
        self, generator: Generator, index: int, difficulty: int, content: Bytes, targets: Classes
    ) -> None:
        """Write a chunk of content type ``index`` on the empty ``content``, and its targets."""


class _FilledTaskDataset(TaskDataset):
    """A task in filler letters, which show the content type."""

    def _write_chunk(
        self, generator: Generator, index: int, difficulty: int, content: Bytes, targets: Classes
    ) -> None:
        lag = self._write(generator, index, content, targets)
        filler = np.flatnonzero(content == _EMPTY)
        alphabet = COMMON_FILLER if difficulty else FILLERS[index]
        letters = generator.choice(alphabet, size=len(content))
        if difficulty == 2:
            returns = generator.random(len(content)) < _RETURN_RATE
            for token in lag + np.flatnonzero(returns[lag:]):
                letters[token] = letters[token - lag]
        content[filler] = letters[filler]
        if difficulty == 1:
            content[generator.choice(filler)] = MARKERS[index]

    @abstractmethod
    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> int:
        """Write the task of content type ``index``, and its targets.

        Returns:
            Distance at which the task's content returns, in tokens.
        """


class LongRangeDataset(_FilledTaskDataset):
    """Recall of recent or distant facts.

    A chunk holds four facts, each a key (a capital) and its value (0-3), and later the four keys
    again, in random order; the target at each is its value. The content type is the distance of the
    facts. The rest is filler, whose letters show it at difficulty 0: a-h near, i-p middle, q-x far.
    """

    _content_types = ("near", "middle", "far")
    _gaps = ((0, 4), (26, 32), (96, 116))
    _facts = 4

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> int:
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
        return gap + 2 * facts


class CollapseDataset(_FilledTaskDataset):
    """Recall of the nearest of many candidates: attention over a long span mixes in the others.

    A chunk holds many lists of four keys and values, with new values each time. At one position
    four keys are queried; the target is the value in the nearest list that has them, before or
    after it. The content type is the distance of that list, beyond which all lists have these keys;
    up to there the others have four other keys. At difficulty 0 the filler letters show it: a-h
    near, i-p middle, q-x far.
    """

    _content_types = ("near", "middle", "far")
    # Distance of the farthest query from its answer in the nearest version.
    _distances = ((11, 15), (23, 29), (37, 43))
    _facts = 4
    _margin = 8
    _spacing = 12

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> int:
        ctx, facts = len(content), self._facts
        keys, others = generator.choice(KEYS, size=(2, facts), replace=False)
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
            self._write_list(generator, content, start, keys)
        values = generator.integers(len(VALUES), size=facts)
        _write_pairs(content, nearest, keys, VALUES[values])
        order = generator.permutation(facts)
        content[asked : asked + facts] = keys[order]
        targets[asked : asked + facts] = values[order]
        # Without lists of other keys the density of the lists would show the distance.
        gap = self._spacing - 2 * facts
        for start in range(ctx - 2 * facts + 1):
            if not content[max(start - gap, 0) : start + 2 * facts + gap].any():
                self._write_list(generator, content, start, others)
        # Lists return after the spacing, and so does what is between them.
        return (index + 1) * self._spacing

    def _write_list(self, generator: Generator, content: Bytes, start: int, keys: Bytes) -> None:
        values = generator.choice(VALUES, size=len(keys))
        _write_pairs(content, start, generator.permutation(keys), values)


class PrecisionDataset(_FilledTaskDataset):
    """Classification of entities by one cue somewhere in the context.

    A chunk is nine notes, three paragraphs or one article, at difficulty 0 with filler letters a-h,
    i-p, q-x. Each part mentions entities (capitals) of its own four times, and one mention of each
    is followed by its cue (one of ``@#%&``, the class). The target of the other mentions, before
    and after, is that class. Stray cues, and cues of other entities, are distractors.
    """

    _content_types = ("notes", "paragraphs", "article")
    _parts = (9, 3, 1)
    _cues = np.frombuffer(b"@#%&", np.uint8)
    _mentions = 3

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> int:
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
        size = len(content) // parts
        return int(generator.integers(size // 2, size))


class HierarchyDataset(_FilledTaskDataset):
    """Two hops: from a topic to its section, from the section to its item.

    A chunk holds four sections (N-Z), each with its item (0-3), then an index of four topics
    (A-M), each with its section, then queries: four topics and two sections, whose target is the
    item. The content type is which hop is long, and how long: neither, from the index back to the
    sections, or, less far, from the queries back to the index. At difficulty 0 the filler letters
    show it: a-h, i-p, q-x.
    """

    _content_types = ("all near", "sections far", "index far")
    # Shortest and longest of the distances before the index, and before the queries.
    _far = (((0, 0), (0, 0)), ((84, 100), (0, 0)), ((0, 0), (40, 56)))
    _entries = 4
    _direct = 2

    def _write(self, generator: Generator, index: int, content: Bytes, targets: Classes) -> int:
        ctx, entries = len(content), self._entries
        topics = generator.choice(KEYS[:13], size=entries, replace=False)
        sections = generator.choice(KEYS[13:], size=entries, replace=False)
        items = generator.integers(len(VALUES), size=entries)
        before_index, before_questions = (
            int(generator.integers(*bounds, endpoint=True)) for bounds in self._far[index]
        )
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
        return before_index + before_questions + 2 * entries


class SparsityDataset(TaskDataset):
    """A melody in repeated passages: the next note is the one after the same note the last time.

    A chunk is a sequence of passages of distinct notes (bytes), each repeated before the next; from
    the first repeat on, the target is the next byte modulo 4. The content type is the length of the
    passages, which is the required span: short, medium or long. Every passage is repeated equally
    often, so that a chunk has about as many different notes of whatever length they are. At
    difficulty 0 each content type has notes of its own. A longer span only costs.
    """

    _content_types = ("short", "medium", "long")
    _lengths = ((4, 6), (16, 20), (44, 48))
    _num_notes = 48
    # First note of each content type at difficulty 0; at the others all have those from the last.
    _first_notes = (64, 112, 160)
    _first_common_note = 208

    def _write_chunk(
        self, generator: Generator, index: int, difficulty: int, content: Bytes, targets: Classes
    ) -> None:
        tokens = len(content) - (difficulty == 1)
        length = int(generator.integers(*self._lengths[index], endpoint=True))
        first = self._first_common_note if difficulty else self._first_notes[index]
        notes = first + generator.permutation(self._num_notes)
        melody, classes = np.empty(tokens, np.uint8), np.full(tokens, NO_TARGET)
        # All notes have been played when the chunk is full.
        played = tokens * length // self._num_notes
        for passage, start in enumerate(range(0, tokens, played)):
            own = notes.take(passage * length + np.arange(length), mode="wrap")
            part = slice(start, min(start + played, tokens))
            melody[part] = np.resize(own, part.stop - start)
            classes[start + length : part.stop - 1] = melody[start + length + 1 : part.stop] % 4
        if difficulty == 1:
            marked = int(generator.integers(tokens, endpoint=True))
            classes[max(marked - 1, 0) : marked] = NO_TARGET
            melody = np.insert(melody, marked, MARKERS[index])
            classes = np.insert(classes, marked, NO_TARGET)
        content[:], targets[:] = melody, classes


def _write_pairs(chunk: Bytes, start: int, firsts: Bytes, seconds: Bytes) -> None:
    """Write consecutive pairs of bytes."""
    chunk[start : start + 2 * len(firsts)] = np.stack([firsts, seconds], axis=1).ravel()
