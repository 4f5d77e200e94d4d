"""Chains of look-ups: the dataset of `spangym/Depth-v0`."""

from __future__ import annotations

import string
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spangym.envs.data.dataset import NO_TARGET, Dataset, Stream

MIN_CTX = 128
"""Minimum tokens of a chunk: distances are absolute and fit into that."""

_SYMBOLS = np.frombuffer(string.ascii_uppercase[:18].encode(), np.uint8)
_VALUES = np.frombuffer(b"0123", np.uint8)
_MARKERS = np.frombuffer(string.ascii_lowercase.encode(), np.uint8)


class _Chain(NamedTuple):
    """Content of a chunk: hops of its chains, and which of them, from 0 on, are long."""

    hops: int
    long: tuple[int, ...] = ()

    @property
    def content_type(self) -> str:
        """Name for ``info``, with hops counted from 1."""
        numbers = " and ".join(str(hop + 1) for hop in self.long)
        return f"{self.hops} hops" + (f", {numbers} long" if self.long else "")


CHAINS = (
    *(_Chain(2), _Chain(2, (0,)), _Chain(2, (1,))),
    *(_Chain(4), *(_Chain(4, (hop,)) for hop in range(4))),
    *(_Chain(4, (0, 2)), _Chain(4, (1, 3)), _Chain(4, (0, 3))),
    *(_Chain(6), *(_Chain(6, (hop,)) for hop in range(6))),
    *(_Chain(6, (0, 3)), _Chain(6, (1, 4)), _Chain(6, (2, 5))),
)
"""The content types, equally frequent."""


class DepthDataset(Dataset):
    """Look-ups in 2, 4 or 6 hops, of which one or two can be long.

    A chunk holds three chains. In its first block three symbols (A-R) stand before their values
    (0-3), in each next block three other symbols before those of the block before it, and in the
    last block the three symbols of the block before it alone: the target there is the value at the
    chain's beginning. A hop is the way from a block to the one before, and a layer can make one
    after another hop only. The rest is random digits and one marker (a-u), which indicates the
    content type.

    Args:
        all_targets: Whether the second symbols of pairs have the chain's value as their target,
            too. Layers learn the hops one by one from them.

    Example:
        >>> stream = DepthDataset().sample(np.random.default_rng(2), 1, 128)
        >>> stream.content_types, (stream.targets >= 0).sum().item()
        (('6 hops, 6 long',), 3)
    """

    _chains = 3
    _short = (0, 1)
    # Gap of one long hop, and of each of two.
    _long = ((70, 78), (33, 38))

    def __init__(self, *, all_targets: bool = False) -> None:
        self._all_targets = all_targets

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Sample a content type for each chunk, its chains, digits and marker.

        Raises:
            ValueError: The chunks are too short.
        """
        if ctx < MIN_CTX:
            raise ValueError(f"ctx must be at least {MIN_CTX} tokens for this task, got {ctx}")
        drawn = generator.integers(len(CHAINS), size=chunks)
        content = generator.choice(_VALUES, size=(chunks, ctx))
        targets = np.full((chunks, ctx), NO_TARGET, np.int64)
        for row, index in enumerate(drawn):
            is_free = self._write(generator, CHAINS[index], content[row], targets[row])
            content[row, generator.choice(np.flatnonzero(is_free))] = _MARKERS[index]
        return Stream(content, tuple(CHAINS[index].content_type for index in drawn), targets)

    def _write(
        self,
        generator: Generator,
        chain: _Chain,
        content: NDArray[np.uint8],
        targets: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Write the blocks and their targets, and return which tokens are left."""
        hops, chains = chain.hops, self._chains
        bounds = [
            self._long[len(chain.long) - 1] if hop in chain.long else self._short
            for hop in range(hops)
        ]
        gaps = [int(generator.integers(*each, endpoint=True)) for each in bounds]
        symbols = generator.choice(_SYMBOLS, size=(hops, chains), replace=False)
        values = generator.integers(len(_VALUES), size=chains)
        length = (2 * hops + 1) * chains + sum(gaps)
        start = int(generator.integers(len(content) - length, endpoint=True))
        is_free = np.ones(len(content), bool)
        below = _VALUES[values]
        for hop in range(hops):
            order = generator.permutation(chains)
            block = slice(start, start + 2 * chains)
            content[block] = np.stack([symbols[hop], below])[:, order].ravel("F")
            is_free[block] = False
            if self._all_targets and hop:
                targets[start + 1 : start + 2 * chains : 2] = values[order]
            below = symbols[hop]
            start += 2 * chains + gaps[hop]
        order = generator.permutation(chains)
        block = slice(start, start + chains)
        content[block], targets[block], is_free[block] = below[order], values[order], False
        return is_free
