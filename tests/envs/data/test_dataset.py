import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spangym.envs.data.dataset import (
    NO_TARGET,
    Dataset,
    MixtureDataset,
    NoiseDataset,
    RepeatedLetterDataset,
    RepetitionDataset,
    Stream,
    TextDataset,
)
from spangym.envs.data.dataset_registry import DATASETS, make_dataset

NAMES = pytest.mark.parametrize("name", DATASETS)


@NAMES
@given(chunks=st.integers(1, 4), ctx=st.sampled_from([128]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_streams_of_every_source(name: str, chunks: int, ctx: int, seed: int):
    source = make_dataset(name, "evaluation")
    one, other = (source.sample(np.random.default_rng(seed), chunks, ctx) for _ in range(2))
    assert one.content.shape == (chunks, ctx)
    assert one.content.dtype == np.uint8
    assert len(one.content_types) == chunks
    np.testing.assert_array_equal(one.content, other.content)
    assert one.content_types == other.content_types
    if one.targets is not None:
        assert one.targets.shape == (chunks, ctx)
        assert one.targets.dtype == np.int64
        assert (one.targets != NO_TARGET).any(1).all()
        np.testing.assert_array_equal(one.targets, other.targets)


@NAMES
def test_copies_draw_the_same(name: str):
    source = make_dataset(name, "train")
    for twin in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        streams = [each.sample(np.random.default_rng(3), 2, 128) for each in (source, twin)]
        np.testing.assert_array_equal(streams[0].content, streams[1].content)
        assert twin.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_streams_are_real_text(split: str):
    source = TextDataset(split)
    generator = np.random.default_rng(0)
    kinds = set()
    for _ in range(20):
        stream = source.sample(generator, 4, 100)
        kinds.update(stream.content_types)
        text = stream.content.tobytes().decode("utf-8", errors="replace")
        assert sum(each.isalpha() or each.isspace() for each in text) > 200
    assert kinds == {"documentation", "code"}


def test_splits_share_no_text():
    train, evaluation = TextDataset("train"), TextDataset("evaluation")
    assert train.fingerprint().keys() == evaluation.fingerprint().keys()
    for kind, text in train.texts.items():
        other = evaluation.texts[kind]
        assert not np.shares_memory(text, other)
        assert len(other) == pytest.approx(len(text) / 4, rel=0.05)


def test_noise_has_every_byte_of_its_alphabet_alike_often():
    stream = NoiseDataset(b"abcd").sample(np.random.default_rng(0), 1, 40_000)
    values, counts = np.unique(stream.content, return_counts=True)
    assert bytes(values) == b"abcd"
    np.testing.assert_allclose(counts, 10_000, rtol=0.05)


def test_a_chunk_of_letters_is_one_letter():
    content = RepeatedLetterDataset().sample(np.random.default_rng(0), 9, 50).content
    assert (content == content[:, :1]).all()
    assert len(np.unique(content)) > 3


def test_repetition_repeats_at_all_distances():
    source = RepetitionDataset(NoiseDataset(), shortest=8, longest=192)
    content = source.sample(np.random.default_rng(0), 300, 256).content
    periods = []
    for chunk in content:
        same = [lag for lag in range(1, 256) if (chunk[lag:] == chunk[:-lag]).all()]
        periods.append(same[0])
    assert min(periods) >= 8
    assert max(periods) <= 192
    # On a logarithmic scale the middle between 8 and 192 is 39.
    assert np.mean(np.array(periods) < 39) == pytest.approx(0.5, abs=0.1)


def test_repetition_of_a_short_chunk_repeats_within_it():
    content = RepetitionDataset(NoiseDataset()).sample(np.random.default_rng(0), 50, 16).content
    for chunk in content:
        assert any((chunk[lag:] == chunk[:-lag]).all() for lag in range(1, 13))


def test_a_mixture_draws_by_weight():
    mixture = MixtureDataset([NoiseDataset(b"0", "zero"), NoiseDataset(b"1", "one")], [3, 1])
    stream = mixture.sample(np.random.default_rng(0), 4000, 2)
    ones = np.array(stream.content_types) == "one"
    assert ones.mean() == pytest.approx(0.25, abs=0.03)
    assert (stream.content == np.where(ones, ord("1"), ord("0"))[:, None]).all()


class Frames(Dataset):
    channels = 3

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        content = generator.normal(size=(chunks, ctx, 3)).astype(np.float32)
        return Stream(content, ("frames",) * chunks)


class Labeled(Dataset):
    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        content = generator.integers(256, size=(chunks, ctx)).astype(np.uint8)
        return Stream(content, ("labeled",) * chunks, content.astype(np.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureDataset([]), "at least one"),
        (lambda: MixtureDataset([NoiseDataset()], [1, 2]), "weights"),
        (lambda: MixtureDataset([NoiseDataset()], [0]), "not all 0"),
        (lambda: MixtureDataset([NoiseDataset()] * 2, [2, -1]), "none negative"),
        (lambda: MixtureDataset([NoiseDataset(), Frames()]), r"channels.*\[0, 3\]"),
        (lambda: make_dataset("txt", "train"), "'text'"),
        (
            lambda: TextDataset("train").sample(np.random.default_rng(0), 10**6, 100),
            "fewer chunks",
        ),
        (
            lambda: MixtureDataset([NoiseDataset(), Labeled()]).sample(
                np.random.default_rng(0), 20, 4
            ),
            "targets",
        ),
    ],
)
def test_what_is_refused(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        make()
