"""Facts with deadlines."""

from __future__ import annotations

import numpy as np
import pytest

from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.deadlines import BLOCK, DEADLINES, DeadlinesDataset, needed_blocks


def documents(number: int, blocks: int = 16, seed: int = 0):
    stream = DeadlinesDataset().sample(np.random.default_rng(seed), number, blocks * BLOCK)
    assert stream.targets is not None
    size = (number, blocks, BLOCK)
    return stream.content.reshape(size), stream.targets.reshape(size), stream.content_types


def facts_of(block: bytes) -> dict[str, tuple[str, int]]:
    """Marker and value by key."""
    told = block[1:10].decode()
    return {told[i + 1]: (told[i], int(told[i + 2])) for i in (0, 3, 6) if told[i] != "."}


def test_a_target_is_the_value_that_was_told_at_its_distance():
    asked = told = 0
    lags = dict(zip("nmf", DEADLINES.values(), strict=True))
    for blocks, targets in zip(*documents(200)[:2], strict=True):
        facts: dict[str, tuple[str, int, int]] = {}
        for index, (block, classes) in enumerate(zip(blocks, targets, strict=True)):
            for key, (marker, value) in facts_of(block.tobytes()).items():
                assert key not in facts
                facts[key] = (marker, value, index)
            for place in np.flatnonzero(classes != NO_TARGET):
                marker, value, start = facts[chr(block[place])]
                assert chr(block[place - 1]) == "?"
                assert (classes[place], index) == (value, start + lags[marker])
                asked += 1
        told += len(facts)
    # Some groups expire.
    assert 0.6 < asked / told < 0.8


def test_deadlines_overlap():
    """Near facts are asked for while far ones are pending, and while none are."""
    overlaps, alone = 0, 0
    for blocks, targets in zip(*documents(200)[:2], strict=True):
        told = {
            index: {marker for marker, _ in facts_of(block.tobytes()).values()}
            for index, block in enumerate(blocks)
        }
        for index in range(2, 16):
            if "n" in told[index - 2] and (targets[index] != NO_TARGET).any():
                pending = any("f" in told[start] for start in range(max(0, index - 6), index))
                overlaps, alone = overlaps + pending, alone + (not pending)
    assert min(overlaps, alone) > 50


def test_needed_blocks_are_those_of_what_is_pending():
    blocks, targets, _ = documents(50)
    needed = needed_blocks(blocks.reshape(50, -1))
    for document in range(50):
        for index in range(1, 16):
            told = [facts_of(block.tobytes()) for block in blocks[document]]
            ages = [
                index - start
                for start in range(index)
                for marker, _ in told[start].values()
                if index - start <= dict(zip("nmf", DEADLINES.values(), strict=True))[marker]
            ]
            assert needed[document, index - 1] == max(ages, default=0)
    assert (targets[:, 0] == NO_TARGET).all()


def test_the_content_type_is_the_longest_deadline():
    blocks, _, types = documents(100)
    for document, name in zip(blocks, types, strict=True):
        markers = {marker for block in document for marker, _ in facts_of(block.tobytes()).values()}
        longest = max("nmf".index(marker) for marker in markers)
        assert name == [*DEADLINES][longest]


@pytest.mark.parametrize("ctx", [0, 32, 56, 257])
def test_documents_are_of_whole_blocks(ctx: int):
    with pytest.raises(ValueError, match=rf"multiple of 16, at least 48, .*got {ctx}"):
        DeadlinesDataset().sample(np.random.default_rng(0), 1, ctx)
