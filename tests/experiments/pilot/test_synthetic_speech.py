"""The corpus of synthetic speech."""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from spangym.envs.data.log_mel import HOP
from spangym.experiments.pilot import synthetic_speech as spoken
from spangym.experiments.pilot.augmentation import add_noise
from spangym.experiments.pilot.corpus import Corpus
from spangym.experiments.pilot.speech_synthesizer import SPEAKERS, SpeechSynthesizer
from spangym.experiments.pilot.synthetic_speech import (
    SentenceSampler,
    SyntheticSpeechConfig,
    build_corpus,
)

SMALL = SyntheticSpeechConfig(
    seed=3,
    train_utterances=40,
    test_seen_utterances=12,
    test_unseen_utterances=10,
    voices=9,
    unseen_voices=3,
)
TINY = SyntheticSpeechConfig(
    train_utterances=4, test_seen_utterances=2, test_unseen_utterances=2, voices=2, unseen_voices=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def corpus(folder: Path, progress: list[tuple[int, int]]) -> Corpus:
    return build_corpus(SMALL, folder, lambda *done: progress.append(done))


@pytest.fixture
def no_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(lines: object) -> None:
        raise AssertionError(f"it was synthesized again: {lines}")

    monkeypatch.setattr(spoken, "synthesize_in_subprocess", refuse)


def speaker(voice: str) -> str:
    return voice.split("+")[1]


def test_splits_have_the_configured_sizes(corpus: Corpus):
    assert corpus.test_unseen is not None
    assert [len(split) for split in corpus.splits.values()] == [40, 12, 10]
    assert len({split.frames.shape[1:] for split in corpus.splits.values()}) == 1
    for split in corpus.splits.values():
        assert (
            split.frames.shape[0] == len(split.texts) == len(split.speakers) == len(split.lengths)
        )
        assert split.frames.shape[1] % 4 == 0
        assert split.frames.shape[2] == 80
        assert split.frames.dtype == np.float32
        assert split.lengths.dtype == np.int64
        assert split.lengths.max() <= split.frames.shape[1]
    assert len(set(corpus.train.speakers)) == 9
    assert len(set(corpus.test_unseen.speakers)) == 3


def test_splits_are_disjoint_in_sentences_and_unseen_speakers(corpus: Corpus):
    assert corpus.test_unseen is not None
    assert not {*corpus.train.texts} & {*corpus.test_seen.texts, *corpus.test_unseen.texts}
    assert {*corpus.test_seen.speakers} <= {*corpus.train.speakers}
    trained = {speaker(voice) for voice in corpus.train.speakers}
    assert not trained & {speaker(voice) for voice in corpus.test_unseen.speakers}
    assert corpus.test_unseen.texts == corpus.test_seen.texts[:10]


def test_texts_are_lowercase_words(corpus: Corpus):
    texts = [text for split in corpus.splits.values() for text in split.texts]
    assert all(re.fullmatch("[a-z]+( [a-z]+)*", text) for text in texts)
    assert {*corpus.alphabet} <= {*" abcdefghijklmnopqrstuvwxyz"}


def test_utterances_are_long_enough_for_ctc_and_of_plausible_length(corpus: Corpus):
    for split in corpus.splits.values():
        assert (split.lengths >= 50).all()
        assert (split.lengths <= 320).all()
        for text, length in zip(split.texts, split.lengths, strict=True):
            repeats = sum(one == other for one, other in itertools.pairwise(text))
            assert length // 4 >= len(text) + repeats


def test_speech_lies_within_its_length(corpus: Corpus):
    for frames, length in zip(corpus.test_seen.frames, corpus.test_seen.lengths, strict=True):
        level = frames.mean(axis=1)
        assert level[:length].max() > level[length + 3 :].max(initial=-9) + 0.3
        # The silence after it is short.
        assert level[length - 30 : length].max() > level.min() + 0.2


def test_the_same_sentence_by_two_voices_differs(corpus: Corpus):
    assert corpus.test_unseen is not None
    for one, other in zip(corpus.test_seen.frames, corpus.test_unseen.frames, strict=False):
        assert np.abs(one - other).mean() > 0.05


def test_progress_goes_up_to_the_end(corpus: Corpus, progress: list[tuple[int, int]]):
    assert len(corpus.train) == 40
    assert progress == [(done, 62) for done in range(63)]


@pytest.mark.usefixtures("no_speech")
def test_a_cached_corpus_is_read(corpus: Corpus, folder: Path):
    again = build_corpus(SMALL, folder)
    assert again.content_sha256 == corpus.content_sha256
    for name, split in corpus.splits.items():
        for one, other in zip(
            dataclasses.astuple(split), dataclasses.astuple(again.splits[name]), strict=True
        ):
            assert np.array_equal(one, other)
            assert type(one) is type(other)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a corpus that is not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    build_corpus(TINY, folder)
    return folder


@pytest.mark.usefixtures("no_speech")
@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_damaged_files_are_not_read(tiny: Path, tmp_path: Path, damage: str):
    (original,) = tiny.iterdir()
    whole = original.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    damaged = {"cut": whole[:middle], "changed": changed, "other": b"no corpus"}[damage]
    (tmp_path / original.name).write_bytes(damaged)
    with pytest.raises(AssertionError, match="synthesized again"):
        build_corpus(TINY, tmp_path)


def test_a_damaged_file_is_replaced_by_identical_bytes(tiny: Path, tmp_path: Path):
    (original,) = tiny.iterdir()
    (tmp_path / original.name).write_bytes(b"no corpus")
    SpeechSynthesizer().synthesize("something else before", "en+f2")
    build_corpus(TINY, tmp_path)
    assert (tmp_path / original.name).read_bytes() == original.read_bytes()


@pytest.mark.usefixtures("no_speech")
def test_each_config_has_its_own_file(corpus: Corpus, folder: Path):
    assert len(corpus.train) == 40
    with pytest.raises(AssertionError, match="synthesized again"):
        build_corpus(dataclasses.replace(SMALL, noise=11.0), folder)
    with pytest.raises(AssertionError, match="synthesized again"):
        build_corpus(SMALL, folder, multiple=8)


@pytest.mark.usefixtures("no_speech")
def test_the_default_cache_is_the_users(
    corpus: Corpus, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "spangym").symlink_to(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build_corpus(SMALL).content_sha256 == corpus.content_sha256


def test_an_unwritable_cache_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file' is not writable"):
        build_corpus(TINY, tmp_path / "file")


def test_only_training_is_augmented_unless_wanted(tmp_path: Path):
    clean, noisy, all_noisy = (
        build_corpus(dataclasses.replace(TINY, noise=5.0, **changes), tmp_path)
        for changes in (
            {"augmented": 0.0},
            {"augmented": 1.0},
            {"augmented": 1.0, "augment_tests": True},
        )
    )

    def floors(corpus: Corpus, split: str) -> np.ndarray:
        return np.quantile(corpus.splits[split].frames.mean(axis=2), 0.05, axis=1)

    for split in ("test_seen", "test_unseen"):
        assert np.array_equal(clean.splits[split].frames, noisy.splits[split].frames)
        assert (floors(all_noisy, split) > floors(clean, split) + 0.1).all()
    assert (floors(noisy, "train") > floors(clean, "train") + 0.1).all()


def test_snr_is_that_of_the_utterance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    energies, ratios = [], []

    def observe(samples: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
        noisy = add_noise(samples, snr_db, generator)
        energies.append((samples**2).sum())
        ratios.append((samples**2).sum() / ((noisy - samples) ** 2).mean())
        return noisy

    monkeypatch.setattr(spoken, "add_noise", observe)
    monkeypatch.setattr(spoken, "SNR_RANGE_DB", 0)
    wanted = dataclasses.replace(
        TINY, train_utterances=20, noise=12.0, reverberation=0.0, augmented=1.0
    )
    corpus = build_corpus(wanted, tmp_path)
    samples = corpus.train.lengths * HOP
    # Lengths are rounded up to whole tokens.
    assert 10 * np.log10(np.array(ratios) / samples) == pytest.approx([12] * 20, abs=0.3)
    levels = 10 * np.log10(np.array(energies) / samples)
    assert -40 < levels.min() < levels.max() < -18


def test_augmented_share_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times, ratios = [], []

    def observe_room(samples: np.ndarray, seconds: float, _: np.random.Generator) -> np.ndarray:
        times.append(seconds)
        return samples

    def observe_noise(samples: np.ndarray, snr_db: float, _: np.random.Generator) -> np.ndarray:
        ratios.append(snr_db)
        return samples

    monkeypatch.setattr(spoken, "reverberate", observe_room)
    monkeypatch.setattr(spoken, "add_noise", observe_noise)
    wanted = dataclasses.replace(
        TINY, train_utterances=60, noise=15.0, reverberation=0.6, augmented=0.3
    )
    build_corpus(wanted, tmp_path)
    assert 8 < len(times) < 28
    assert 8 < len(ratios) < 28
    assert 0 < min(times) < 0.2 < 0.4 < max(times) <= 0.6
    assert 25 < max(ratios) <= 35


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"train_utterances": 0}, "train_utterances"),
        ({"voices": 0}, "voices"),
        ({"voices": 900, "train_utterances": 1000}, r"voices must be in 1\.\.424"),
        ({"train_utterances": 30}, r"voices must be in 1\.\.30, got 40"),
        ({"unseen_voices": len(SPEAKERS)}, r"unseen_voices\n.* 31 "),
        ({"noise": -1.0}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"reverberation": 3.0}, r"reverberation\n.* 2 "),
        ({"augmented": 1.5}, r"augmented\n.* 1 "),
    ],
)
def test_bad_numbers_are_refused(changes: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SyntheticSpeechConfig(), **changes)


def test_config_is_read_from_json():
    adapter = TypeAdapter(SyntheticSpeechConfig)
    read = adapter.validate_json('{"noise": 12, "voices": 7}')
    assert read == SyntheticSpeechConfig(noise=12.0, voices=7)
    assert type(read.noise) is float
    for wrong in ('{"voices": 1.5}', '{"voices": "3"}', '{"voice": 3}', '{"noise": 99}'):
        with pytest.raises(ValidationError):
            adapter.validate_json(wrong)


def test_most_voices_are_used_before_a_speaker_has_two(corpus: Corpus):
    assert len({speaker(voice) for voice in corpus.train.speakers}) == 9
    accents = {voice.split("+")[0] for voice in corpus.train.speakers}
    assert len(accents) >= 6


def test_held_out_sentences_use_known_words():
    sentences = SentenceSampler(np.random.default_rng(5))
    generator = np.random.default_rng(6)
    training = {sentences.sample(generator) for _ in range(4000)}
    tests = {sentences.sample(generator, held_out=True) for _ in range(2000)}
    assert not training & tests
    assert len(training) > 1500
    assert len(tests) > 800
    words = {word for text in training for word in text.split()}
    assert 60 < len(words) < 90
    assert {word for text in tests for word in text.split()} <= words
    numbers = sum(text.split()[0] in ("zero", "one", "two", "nine") for text in training)
    assert numbers > 200
