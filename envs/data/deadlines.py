"""Facts with deadlines: the dataset of `spangym/KVCache-v0`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET, Dataset, Stream
from spangym.envs.data.tasks import KEYS, VALUES, Bytes, Classes

BLOCK = 16
"""Tokens of a block."""

MIN_BLOCKS = 3
"""Minimum blocks of a document."""

DEADLINES = {"near": 2, "middle": 4, "far": 7}
"""Blocks from telling facts to asking for them, by the name of the deadline."""

MARKERS = np.frombuffer(b"nmf", np.uint8)
"""Marker before a fact, by deadline."""

START, FILLER, QUESTION = (np.uint8(ord(each)) for each in "|.?")

_FACTS = 3
_TOLD = slice(1, 1 + 3 * _FACTS)
_ASKED = slice(1 + 3 * _FACTS, BLOCK)


@dataclass(frozen=True)
class FactGroup:
    """Facts that are told in one block, and asked for in another, or never.

    Attributes:
        told: Block in which they are told.
        kind: Index of their deadline in `DEADLINES`.
        is_asked: Whether they are asked for at the deadline.
    """

    told: int
    kind: int
    is_asked: bool

    @property
    def due(self) -> int:
        """Block of the deadline."""
        return self.told + [*DEADLINES.values()][self.kind]


class DeadlinesDataset(Dataset):
    """Recall of facts that are needed until a deadline, which is announced only when they are told.

    A document is a sequence of blocks of 16 bytes. A block may tell three facts, each a marker, a
    key (a capital) and its value (0-3), as in ``fK2``, and may ask for three facts of an earlier
    block by their keys, as in ``?K``; the target at such a key is its value. The rest is filler.
    The marker says when the facts are asked for: ``n`` (near) 2 blocks later, ``m`` (middle) 4,
    ``f`` (far) 7. Three in ten groups of facts expire: at their deadline nothing is asked. Facts
    of different deadlines overlap; of each deadline at most one group is pending, and every key
    occurs in one group only. The content type of a document is its longest deadline.
    """

    _tells = 0.35
    _expires = 0.3

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Sample documents of ``ctx`` bytes.

        Raises:
            ValueError: The documents are too short, or not of whole blocks.
        """
        if ctx < MIN_BLOCKS * BLOCK or ctx % BLOCK:
            rule = f"a multiple of {BLOCK}, at least {MIN_BLOCKS * BLOCK}"
            raise ValueError(f"ctx must be {rule}, for this task, got {ctx}")
        content = np.full((chunks, ctx), FILLER)
        targets = np.full((chunks, ctx), NO_TARGET, np.int64)
        names, types = [*DEADLINES], []
        for document, classes in zip(content, targets, strict=True):
            size = (ctx // BLOCK, BLOCK)
            groups = self.draw_groups(generator, ctx // BLOCK)
            types.append(names[max(group.kind for group in groups)])
            self._write(generator, groups, document.reshape(size), classes.reshape(size))
        return Stream(content, tuple(types), targets)

    def draw_groups(self, generator: Generator, blocks: int) -> list[FactGroup]:
        """Draw the groups of facts of a document, of which the first block tells one."""
        groups: list[FactGroup] = []
        tells = generator.random(blocks) < self._tells
        tells[0] = True
        draws, expires = generator.random(blocks), generator.random(blocks) < self._expires
        for block in np.flatnonzero(tells):
            asked = {group.due for group in groups if group.is_asked}
            pending = {group.kind for group in groups if group.due > block}
            choices = [
                FactGroup(int(block), kind, not expires[block]) for kind in range(len(MARKERS))
            ]
            choices = [
                each
                for each in choices
                if each.kind not in pending and each.due < blocks and each.due not in asked
            ]
            if choices and len(groups) < len(KEYS) // _FACTS:
                groups.append(choices[int(draws[block] * len(choices))])
        return groups

    def _write(
        self, generator: Generator, groups: list[FactGroup], blocks: Bytes, targets: Classes
    ) -> None:
        blocks[:, 0] = START
        keys = generator.permutation(KEYS)[: _FACTS * len(groups)].reshape(-1, _FACTS)
        values = generator.integers(len(VALUES), size=keys.shape)
        orders = generator.permuted(np.tile(np.arange(_FACTS), (len(groups), 1)), axis=1)
        for group, own_keys, own_values, order in zip(groups, keys, values, orders, strict=True):
            markers = np.repeat(MARKERS[group.kind], _FACTS)
            told = np.stack([markers, own_keys, VALUES[own_values]], axis=1)
            blocks[group.told, _TOLD] = told.ravel()
            if group.is_asked:
                asked, classes = blocks[group.due, _ASKED], targets[group.due, _ASKED]
                asked[::2], asked[1::2] = QUESTION, own_keys[order]
                classes[1::2] = own_values[order]


def needed_blocks(content: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return how many of the last blocks hold facts that may still be asked for.

    It is what a policy knows that remembers every deadline exactly, and nothing else.

    Args:
        content: Bytes of documents, shape (documents, ctx).

    Returns:
        Before each block but the first, shape (documents, blocks - 1); 0 if nothing is pending.

    Example:
        >>> document = np.frombuffer(b"|nA1nB2nC3......" + 3 * b"|...............", np.uint8)
        >>> needed_blocks(document[None]).tolist()
        [[1, 2, 0]]
    """
    markers = content.reshape(len(content), -1, BLOCK)[..., _TOLD.start]
    block = np.arange(markers.shape[1])
    ages = block[1:, None] - block
    lags = np.zeros(256, np.int64)
    lags[MARKERS] = [*DEADLINES.values()]
    is_pending = (ages > 0) & (ages <= lags[markers][:, None])
    return np.where(is_pending, ages, 0).max(-1)
