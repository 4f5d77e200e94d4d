"""Five small tasks whose need for span is stated in the content.

Each chunk's filler is of one of three alphabets, which says what span it needs: that shows in the
mean over tokens of a layer's input, whatever else stands in the chunk.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET, Dataset, Stream

SHORTEST = 128
"""Fewest tokens of a chunk: distances are in tokens, and fit into that."""

KEYS = np.frombuffer(string.ascii_uppercase.encode(), np.uint8)
VALUES = np.frombuffer(b"0123", np.uint8)
FILLERS = tuple(np.frombuffer(text, np.uint8) for text in (b"abcdefgh", b"ijklmnop", b"qrstuvwx"))


class LongRangeDataset(Dataset):
    """Recall of facts told long ago, or just now.

    A chunk holds four facts, a key (a capital) and its value (0-3), and later the four keys again,
    in any order, at each of which the value is to be predicted. What lies between and around is
    filler, and its letters say how far back the facts are: a-h near, i-p halfway, q-x far.
    """

    _content_types = ("near", "middle", "far")
    _gaps = ((0, 4), (26, 32), (96, 116))
    _facts = 4

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw the distance of each chunk anew.

        Raises:
            ValueError: The chunks are too short.
        """
        drawn, content, targets = _init_arrays(generator, chunks, ctx)
        facts = self._facts
        for row, content_type in enumerate(drawn):
            keys = generator.choice(KEYS, size=facts, replace=False)
            values = generator.integers(len(VALUES), size=facts)
            gap = int(generator.integers(*self._gaps[content_type], endpoint=True))
            start = int(generator.integers(ctx - 3 * facts - gap, endpoint=True))
            _write_pairs(content[row], start, keys, VALUES[values])
            order = generator.permutation(facts)
            asked = slice(start + 2 * facts + gap, start + 3 * facts + gap)
            content[row, asked] = keys[order]
            targets[row, asked] = values[order]
        return Stream(
            content, tuple(self._content_types[content_type] for content_type in drawn), targets
        )


class CollapseDataset(Dataset):
    """Recall of the nearest of many alike: attention that spreads mixes in all the others.

    A chunk holds many editions of a list, four keys and the value of each, new values each time;
    in one place the four keys are asked for, and the value in the edition nearest to it, before or
    after, is to be predicted. How near that is, and from where on the others are dense, is told by
    the letters of the filler: a-h near, i-p halfway, q-x far.
    """

    _content_types = ("near", "middle", "far")
    # How far from the farthest question an answer of the nearest edition is.
    _distances = ((11, 15), (23, 29), (37, 43))
    _facts = 4
    _margin = 8
    _spacing = 12

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw the distance of each chunk's nearest edition anew.

        Raises:
            ValueError: The chunks are too short.
        """
        drawn, content, targets = _init_arrays(generator, chunks, ctx)
        facts = self._facts
        for row, content_type in enumerate(drawn):
            keys = generator.choice(KEYS, size=facts, replace=False)
            reach = int(generator.integers(*self._distances[content_type], endpoint=True))
            if generator.random() < 0.5:
                asked = int(generator.integers(reach, ctx - facts, endpoint=True))
                nearest = asked + facts - 2 - reach
            else:
                asked = int(generator.integers(ctx - facts - reach, endpoint=True))
                nearest = asked + reach - 2 * facts + 1
            # No answer of the other editions is within this of any question.
            apart = self._distances[content_type][1] + self._margin
            before = range(asked - apart - 2 * facts + 1, -1, -self._spacing)
            after = range(asked + facts - 2 + apart, ctx - 2 * facts + 1, self._spacing)
            for start in (*before, *after):
                others = generator.choice(VALUES, size=facts)
                _write_pairs(content[row], start, generator.permutation(keys), others)
            values = generator.integers(len(VALUES), size=facts)
            _write_pairs(content[row], nearest, keys, VALUES[values])
            order = generator.permutation(facts)
            content[row, asked : asked + facts] = keys[order]
            targets[row, asked : asked + facts] = values[order]
        return Stream(
            content, tuple(self._content_types[content_type] for content_type in drawn), targets
        )


class PrecisionDataset(Dataset):
    """Tagging of entities, of which one cue somewhere in the context says what they are.

    A chunk is eight notes, or three paragraphs, or one article, as the letters of the filler tell:
    a-h, i-p, q-x. Each names entities (capitals) of its own four times, and one mention of each
    is followed by its cue (one of ``@#%&``, the class). The other mentions, before and after, are
    to be tagged with that class. Stray cues, and those of other entities, must be left aside.
    """

    _content_types = ("notes", "paragraphs", "article")
    _parts = (8, 3, 1)
    _cues = np.frombuffer(b"@#%&", np.uint8)
    _mentions = 3

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw what each chunk is anew.

        Raises:
            ValueError: The chunks are too short.
        """
        drawn, content, targets = _init_arrays(generator, chunks, ctx)
        for row, content_type in enumerate(drawn):
            parts = self._parts[content_type]
            each = 9 // parts
            entities = generator.choice(KEYS, size=(parts, each), replace=False)
            classes = generator.integers(len(self._cues), size=(parts, each))
            # All stands in pairs of bytes, so that no stray cue follows a mention.
            for part, pairs in enumerate(np.array_split(np.arange(0, ctx - 1, 2), parts)):
                places = generator.permutation(pairs)[: (self._mentions + 2) * each]
                places = places.reshape(self._mentions + 2, each)
                cued, stray, mentions = places[0], places[1], places[2:]
                content[row, cued] = entities[part]
                content[row, cued + 1] = self._cues[classes[part]]
                content[row, stray + 1] = generator.choice(self._cues, size=each)
                content[row, mentions] = entities[part]
                targets[row, mentions] = classes[part]
        return Stream(
            content, tuple(self._content_types[content_type] for content_type in drawn), targets
        )


class HierarchyDataset(Dataset):
    """Two hops: from a topic to its section, from the section to the item in it.

    A chunk holds four sections (N-Z), each with its item (0-3), then an index of four topics
    (A-M), each with its section, then questions: four name a topic, whose item is to be predicted,
    and two a section right away. The letters of the filler tell which hop is long: neither (a-h),
    from the index back to the sections (i-p), or from the questions back to the index (q-x).
    """

    _content_types = ("all near", "sections far", "index far")
    _far = (84, 100)
    _entries = 4
    _direct = 2

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw anew for each chunk what is far back.

        Raises:
            ValueError: The chunks are too short.
        """
        drawn, content, targets = _init_arrays(generator, chunks, ctx)
        entries = self._entries
        for row, content_type in enumerate(drawn):
            topics = generator.choice(KEYS[:13], size=entries, replace=False)
            sections = generator.choice(KEYS[13:], size=entries, replace=False)
            items = generator.integers(len(VALUES), size=entries)
            far = int(generator.integers(*self._far, endpoint=True))
            before_index = far if self._content_types[content_type] == "sections far" else 0
            before_questions = far if self._content_types[content_type] == "index far" else 0
            questions = np.concatenate([topics, sections[: self._direct]])
            answers = np.concatenate([items, items[: self._direct]])
            length = 4 * entries + before_index + before_questions + len(questions)
            start = int(generator.integers(ctx - length, endpoint=True))
            order = generator.permutation(entries)
            _write_pairs(content[row], start, sections[order], VALUES[items[order]])
            start += 2 * entries + before_index
            order = generator.permutation(entries)
            _write_pairs(content[row], start, topics[order], sections[order])
            start += 2 * entries + before_questions
            order = generator.permutation(len(questions))
            content[row, start : start + len(questions)] = questions[order]
            targets[row, start : start + len(questions)] = answers[order]
        return Stream(
            content, tuple(self._content_types[content_type] for content_type in drawn), targets
        )


class SparsityDataset(Dataset):
    """A melody that repeats: the next note is the one that followed this note the last time.

    A chunk is a passage of different bytes over and over; from the first repeat on, the next
    byte modulo 4 is to be predicted. The bytes say how long the passage is, and with it how far a
    look back has to reach: digits short, capitals medium, bytes from 160 on long. Anything longer
    only costs.
    """

    _content_types = ("short", "medium", "long")
    _notes = (np.arange(48, 58, dtype=np.uint8), KEYS, np.arange(160, 240, dtype=np.uint8))
    _periods = ((4, 6), (16, 20), (44, 52))

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw the length of each chunk's passage anew.

        Raises:
            ValueError: The chunks are too short.
        """
        drawn, content, targets = _init_arrays(generator, chunks, ctx)
        for row, content_type in enumerate(drawn):
            period = int(generator.integers(*self._periods[content_type], endpoint=True))
            passage = generator.choice(self._notes[content_type], size=period, replace=False)
            content[row] = np.resize(passage, ctx)
            targets[row, period:-1] = content[row, period + 1 :] % 4
        return Stream(
            content, tuple(self._content_types[content_type] for content_type in drawn), targets
        )


def _init_arrays(
    generator: np.random.Generator, chunks: int, ctx: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Content types of the chunks, 0..2; content, all filler of the content type's letters; targets, all none."""
    if ctx < SHORTEST:
        raise ValueError(f"ctx must be at least {SHORTEST} tokens for this task, got {ctx}")
    content_types = generator.integers(len(FILLERS), size=chunks)
    letters = generator.integers(len(FILLERS[0]), size=(chunks, ctx))
    content = np.stack(FILLERS)[content_types[:, None], letters]
    return content_types, content, np.full((chunks, ctx), NO_TARGET, np.int64)


def _write_pairs(
    chunk: NDArray[np.uint8], start: int, firsts: NDArray[np.uint8], seconds: NDArray[np.uint8]
) -> None:
    """Write pairs of bytes, one pair after the other."""
    chunk[start : start + 2 * len(firsts)] = np.stack([firsts, seconds], axis=1).ravel()
