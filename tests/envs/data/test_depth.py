"""Chains of look-ups, solved by hand."""

from collections import Counter

import numpy as np
import pytest

from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.depth import CHAINS, DepthDataset

CHUNKS = 420


def solve(content: bytes, position: int) -> tuple[int, list[int]]:
    """Follow a chain from its last symbol: its value, and the distance of each hop."""
    distances = []
    while chr(content[position]).isupper():
        found = content.rindex(content[position], 0, position)
        distances.append(position - found)
        position = found + 1
    return content[position] - ord("0"), distances


@pytest.mark.parametrize("all_targets", [False, True])
def test_every_target_is_the_value_at_the_beginning_of_its_chain(all_targets: bool):
    chains = {each.content_type: each for each in CHAINS}
    stream = DepthDataset(all_targets=all_targets).sample(np.random.default_rng(0), CHUNKS, 128)
    assert stream.targets is not None
    for row, content_type in enumerate(stream.content_types):
        content, targets = stream.content[row].tobytes(), stream.targets[row]
        chain = chains[content_type]
        positions = np.flatnonzero(targets != NO_TARGET)
        assert len(positions) == (3 * chain.hops if all_targets else 3)
        for position in positions[::-1]:
            value, distances = solve(content, position)
            assert value == targets[position]
            is_long = [distance > 13 for distance in distances[::-1]]
            assert is_long == [hop in chain.long for hop in range(len(distances))]
        # The last ones are asked for at the end of whole chains.
        assert all(len(solve(content, each)[1]) == chain.hops for each in positions[-3:])


def test_one_marker_tells_the_content_type():
    stream = DepthDataset().sample(np.random.default_rng(0), CHUNKS, 128)
    markers = {}
    for content, content_type in zip(stream.content, stream.content_types, strict=True):
        (marker,) = (each for each in content.tobytes().decode() if each.islower())
        assert markers.setdefault(content_type, marker) == marker
    assert len({*markers.values()}) == len(CHAINS) == 21
    assert min(Counter(stream.content_types).values()) > 5


def test_both_datasets_have_the_same_content():
    one, other = (
        DepthDataset(all_targets=each).sample(np.random.default_rng(1), 8, 200)
        for each in (False, True)
    )
    np.testing.assert_array_equal(one.content, other.content)
    assert one.targets is not None
    assert other.targets is not None
    assert (other.targets[one.targets >= 0] == one.targets[one.targets >= 0]).all()


def test_too_short_chunks_are_refused():
    with pytest.raises(ValueError, match=r"ctx must be at least 128 .*got 127"):
        DepthDataset().sample(np.random.default_rng(0), 1, 127)
