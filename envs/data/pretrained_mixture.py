"""Content whose required span differs, for layers of a pretrained language model.

On natural text alone one short span is nearly best everywhere, so that nothing is to be decided.
Here some chunks can be predicted only from what stands far back. Distances are in bytes and do not
depend on the length of a chunk; tokens have one to about five bytes.
"""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from spangym.envs.data.dataset import (
    Dataset,
    MixtureDataset,
    NoiseDataset,
    RepetitionDataset,
    Stream,
    TextDataset,
)

NAMES = (
    *("Adam", "Alice", "Anna", "Ben", "Carl", "Clara", "David", "Diana", "Emma", "Eric", "Frank"),
    *("George", "Grace", "Helen", "Henry", "Ivan", "Jack", "James", "Jane", "Julia", "Karen"),
    *("Kate", "Laura", "Leo", "Linda", "Lucy", "Maria", "Mark", "Martin", "Mary", "Nina", "Oscar"),
    *("Paul", "Peter", "Robert", "Rose", "Sam", "Sarah", "Simon", "Sophie", "Susan", "Thomas"),
)

CITIES = (
    *("Athens", "Berlin", "Boston", "Cairo", "Chicago", "Delhi", "Dublin", "Geneva", "Lima"),
    *("London", "Madrid", "Milan", "Moscow", "Oslo", "Paris", "Prague", "Rome", "Sydney", "Tokyo"),
)

PERIODS = (64, 900)
"""Bytes of the shortest and longest repeated passage of `make_pretrained_mixture`."""


class _LinesDataset(Dataset):
    """Chunks of lines, which continue until the chunk is full, of one content type."""

    _content_type: str

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Write the lines of each chunk."""
        rows = []
        for _ in range(chunks):
            text = b""
            lines = self._lines(generator)
            while len(text) < ctx:
                text += f"{next(lines)}\n".encode("ascii")
            rows.append(np.frombuffer(text[:ctx], np.uint8))
        return Stream(np.stack(rows), (self._content_type,) * chunks)

    @abstractmethod
    def _lines(self, generator: Generator) -> Iterator[str]:
        """Yield lines without end."""


class RecallDataset(_LinesDataset):
    """Facts, such as ``The code of Anna is 4821.``, that are repeated in random order.

    A chunk states all its facts once, then again and again, in another order each time. The number
    of facts is drawn on a logarithmic scale: with few of them the last statement of a fact is near,
    with many it is far.
    """

    _content_type = "recall"
    _facts = (2, 20)
    _nouns = ("code", "key", "number", "room")

    def _lines(self, generator: Generator) -> Iterator[str]:
        noun = generator.choice(self._nouns)
        names = generator.choice(NAMES, _log_uniform(generator, *self._facts), replace=False)
        values = generator.integers(1000, 10_000, len(names))
        facts = [
            f"The {noun} of {name} is {value}." for name, value in zip(names, values, strict=True)
        ]
        while True:
            yield from generator.permutation(facts)


class ClientTableDataset(_LinesDataset):
    """A table of comma-separated values: orders of clients.

    The number of an order follows from the row above, the city and account from the client's last
    order. Clients order in random order. Their number is drawn on a logarithmic scale, and with it
    the distance of a client's last order.
    """

    _content_type = "table"
    _clients = (1, 12)

    def _lines(self, generator: Generator) -> Iterator[str]:
        yield "order,client,city,account"
        names = generator.choice(NAMES, _log_uniform(generator, *self._clients), replace=False)
        cities = generator.choice(CITIES, len(names))
        accounts = generator.integers(10_000, 100_000, len(names))
        clients = [",".join(map(str, each)) for each in zip(names, cities, accounts, strict=True)]
        order = int(generator.integers(100, 900))
        while True:
            yield f"{order},{generator.choice(clients)}"
            order += 1


def _log_uniform(generator: Generator, low: int, high: int) -> int:
    """Draw an integer in low..high, small and large ones with equal probability."""
    return min(int(np.exp(generator.uniform(*np.log([low, high + 1])))), high)


def make_pretrained_mixture(split: str) -> MixtureDataset:
    """Documentation, code, noise, repeated text, recall and tables, equally frequent.

    Documentation and code are those of `spangym.envs.data.dataset.TextDataset`, noise consists of
    random letters and digits, and repeated text of passages of documentation and code, of 64 to 900
    bytes. All content is ASCII, except for rare characters of the texts.
    """
    return MixtureDataset(
        [
            TextDataset(split, ["documentation"]),
            TextDataset(split, ["code"]),
            NoiseDataset((string.ascii_letters + string.digits).encode()),
            RepetitionDataset(TextDataset(split), *PERIODS),
            RecallDataset(),
            ClientTableDataset(),
        ]
    )
