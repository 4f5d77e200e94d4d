"""Utterances, their texts as classes, and long recordings made of them."""

import dataclasses
import itertools

import numpy as np
import pytest

from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.log_mel import HOP, RATE, log_mel
from spangym.experiments.pilot.corpus import (
    BLANK,
    NOISE_FLOOR,
    Corpus,
    Utterances,
    decode,
    encode,
    join_utterances,
    num_frames,
    pad_with_noise,
)


def make_utterances(texts: list[str], speakers: list[str]) -> Utterances:
    """Frames of an utterance count up from a hundred times its index; padding is -1."""
    lengths = np.array([20 + 4 * index for index in range(len(texts))])
    frames = np.full((len(texts), lengths.max() + 4, 80), -1, np.float32)
    for index, length in enumerate(lengths):
        frames[index, :length] = (100 * index + np.arange(length))[:, None]
    return Utterances(frames, lengths, tuple(texts), tuple(speakers))


@pytest.fixture
def corpus() -> Corpus:
    train = make_utterances(["go up", "go left"], ["a", "b"])
    return Corpus(train, make_utterances(["look"], ["b"]), make_utterances(["zoo"], ["c"]))


def test_alphabet_covers_all_splits(corpus: Corpus):
    assert corpus.alphabet == " efgkloptuz"
    assert list(corpus.splits) == ["train", "test_seen", "test_unseen"]
    alone = dataclasses.replace(corpus, test_unseen=None)
    assert alone.alphabet == " efgkloptu"
    assert list(alone.splits) == ["train", "test_seen"]


def test_hash_covers_all_content(corpus: Corpus):
    def changed(**changes: object) -> str:
        seen = dataclasses.replace(corpus.test_seen, **changes)
        return dataclasses.replace(corpus, test_seen=seen).content_sha256

    hashes = [
        corpus.content_sha256,
        changed(frames=corpus.test_seen.frames + 1),
        changed(lengths=corpus.test_seen.lengths - 4),
        changed(texts=("book",)),
        changed(speakers=("a",)),
        dataclasses.replace(corpus, test_unseen=None).content_sha256,
    ]
    assert len(set(hashes)) == len(hashes)
    assert changed() == corpus.content_sha256


def test_texts_come_back_from_classes():
    alphabet = " abcdelo"
    texts = ["abc", "a cab", "", "cooled bell"]
    classes = encode(texts, alphabet)
    assert classes.shape == (4, 11)
    assert classes.dtype == np.int64
    for row, text in zip(classes, texts, strict=True):
        assert (row[len(text) :] == NO_TARGET).all()
        assert BLANK not in row
        # A path of CTC: each character twice, and blanks between.
        path = [each for index in row[: len(text)] for each in (index, index, BLANK)]
        assert decode(path, alphabet) == text
        assert decode(np.array(path), alphabet) == text


def test_repeats_without_a_blank_are_one_character():
    assert decode([1, 1, 1, 0, 0, 1, 2, 2, 0], "ab") == "aab"
    assert decode([0, 0], "ab") == ""


def test_a_character_that_the_alphabet_lacks_is_refused():
    with pytest.raises(ValueError, match=r"'axe' has 'e'.* 'ax'"):
        encode(["axe"], "ax")


@pytest.mark.parametrize("multiple", [1, 4, 6])
def test_frames_are_enough_for_samples_and_for_ctc(multiple: int):
    texts = ["a", "aaa", "abc", ""]
    recordings = [np.zeros(count) for count in (100 * HOP, 1, 2 * HOP + 1, 0)]
    counts = num_frames(recordings, texts, multiple)
    assert counts.dtype == np.int64
    assert (counts % multiple == 0).all()
    assert 100 <= counts[0] < 100 + multiple
    # A blank between each two that are the same.
    assert counts[1] == 5 * multiple
    assert counts[2] == 3 * multiple
    for recording, text, count in zip(recordings, texts, counts, strict=True):
        assert count * HOP >= len(recording)
        repeats = sum(one == other for one, other in itertools.pairwise(text))
        assert count // multiple >= len(text) + repeats


def test_padding_is_a_faint_noise():
    tone = np.sin(np.arange(RATE // 2) * 0.3) * 0.1
    padded = pad_with_noise(tone, 100, np.random.default_rng(0))
    assert padded.shape == (RATE,)
    assert padded.dtype == np.float32
    assert np.abs(padded[: len(tone)] - tone).max() < 10 * NOISE_FLOOR
    assert padded[len(tone) :].std() == pytest.approx(NOISE_FLOOR, rel=0.05)
    frames = log_mel(padded)
    assert frames.shape == (100, 80)
    # Of the tone alone, log_mel's floor would be all that is seen in the padding.
    assert frames[60:].std() > 0.01
    assert frames[60:].max() < frames[:45].max() - 0.5


def test_joined_recordings_are_utterances_of_one_voice():
    speakers = ["a", "b", "a", "b", "a"]
    utterances = make_utterances(["one", "two", "three", "four", "five"], speakers)
    spoken = dict(zip(utterances.texts, speakers, strict=True))
    joined = join_utterances(utterances, 3.0, 8, np.random.default_rng(0), multiple=16)
    assert len(joined) == 8
    assert joined.frames.shape[1] % 16 == 0
    assert joined.lengths.min() >= 300
    assert joined.lengths.max() < 300 + utterances.lengths.max()
    assert 0 <= joined.frames.shape[1] - joined.lengths.max() < 16
    assert set(joined.speakers) == {"a", "b"}
    for frames, length, text, speaker in zip(
        joined.frames, joined.lengths, joined.texts, joined.speakers, strict=True
    ):
        indices = [utterances.texts.index(word) for word in text.split()]
        assert {spoken[word] for word in text.split()} == {speaker}
        expected = np.concatenate(
            [100 * each + np.arange(utterances.lengths[each]) for each in indices]
        )
        assert np.array_equal(frames[:length, 0], expected)
        assert (frames[length:] == expected.min()).all()


def test_joining_at_least_one_utterance():
    utterances = make_utterances(["one"], ["a"])
    joined = join_utterances(utterances, 0.0, 2, np.random.default_rng(0))
    assert joined.texts == ("one", "one")
