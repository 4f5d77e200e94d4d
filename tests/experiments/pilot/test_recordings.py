"""The user's own recordings."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from spangym.envs.data.log_mel import HOP, RATE
from spangym.experiments.pilot.corpus import Corpus
from spangym.experiments.pilot.recordings import load_recordings
from spangym.experiments.pilot.speech_synthesizer import SpeechSynthesizer

TEXTS = ("one two", "go left", "call nine", "stop the music", "open the door", "volume up five")
VOICES = {"anna": "en-us+f2", "ben": "en+m3", "cleo": "en-029+f5"}


@pytest.fixture(scope="module")
def speech() -> dict[tuple[str, str], np.ndarray]:
    synthesizer = SpeechSynthesizer()
    return {
        (name, text): synthesizer.synthesize(text, speaker)
        for name, speaker in VOICES.items()
        for text in TEXTS
    }


@pytest.fixture
def folder(tmp_path: Path, speech: dict[tuple[str, str], np.ndarray]) -> Path:
    """A sub-folder for each speaker, with text files; FLAC and WAV."""
    for (name, text), samples in speech.items():
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        suffix = ".flac" if name == "ben" else ".wav"
        stem = text.replace(" ", "_")
        soundfile.write(place / (stem + suffix), samples, RATE)
        (place / f"{stem}.txt").write_text(f" {text.capitalize()}!\n")
    return tmp_path


def spoken(corpus: Corpus) -> dict[tuple[str, str], int]:
    """Lengths of all utterances, by speaker and text."""
    return {
        (speaker, text): int(length)
        for split in corpus.splits.values()
        for speaker, text, length in zip(split.speakers, split.texts, split.lengths, strict=True)
    }


def tone(path: Path, seconds: float = 0.5, rate: int = RATE) -> None:
    samples = 0.1 * np.sin(np.arange(round(seconds * rate)) * 440 * 2 * np.pi / rate)
    soundfile.write(path, samples, rate)


def test_recordings_are_read_with_texts_and_voices(
    folder: Path, speech: dict[tuple[str, str], np.ndarray]
):
    corpus = load_recordings(folder, 0, multiple=4)
    read = spoken(corpus)
    assert set(read) <= set(speech)
    for key, length in read.items():
        needed = -(-len(speech[key]) // HOP)
        assert needed <= length < needed + 4
    assert corpus.alphabet == "".join(sorted({*"".join(text for _, text in read)}))
    for split in corpus.splits.values():
        assert split.frames.shape[1:] == (max(read.values()), 80)
        assert split.frames.dtype == np.float32


def test_frames_are_loud_within_their_length(folder: Path):
    corpus = load_recordings(folder, 0)
    for split in corpus.splits.values():
        for frames, length in zip(split.frames, split.lengths, strict=True):
            level = frames.mean(axis=1)
            assert level[length - 35 : length].max() > level[length + 3 :].max(initial=-9) + 0.1


@pytest.mark.parametrize("seed", range(4))
def test_tests_are_of_other_sentences_and_voices(folder: Path, seed: int):
    corpus = load_recordings(folder, seed)
    assert corpus.test_unseen is not None
    assert len(set(corpus.test_unseen.speakers)) == 1
    assert not {*corpus.test_unseen.speakers} & {*corpus.train.speakers, *corpus.test_seen.speakers}
    assert {*corpus.test_seen.speakers} <= {*corpus.train.speakers}
    assert not {*corpus.train.texts} & {*corpus.test_seen.texts, *corpus.test_unseen.texts}
    # One sentence of six is held out, said by two speakers and by the other.
    assert [len(split) for split in corpus.splits.values()] == [10, 2, 1]


def test_splits_depend_on_the_seed_alone(folder: Path):
    first, again, *others = (load_recordings(folder, seed) for seed in (0, 0, 1, 2, 3))
    assert first.content_sha256 == again.content_sha256
    assert any(other.test_seen.texts != first.test_seen.texts for other in others)
    assert any(other.test_seen.speakers != first.test_seen.speakers for other in others)


def test_unseen_voices_may_say_what_nobody_else_says(folder: Path):
    for name in VOICES:
        for path in (folder / name).glob("*.txt"):
            path.write_text(f"{path.stem} {name}")
    corpus = load_recordings(folder, 0)
    assert corpus.test_unseen is not None
    assert [len(split) for split in corpus.splits.values()] == [10, 2, 6]


def test_an_unseen_voice_that_says_one_sentence_is_tested_with_it(folder: Path):
    for seed in range(8):
        corpus = load_recordings(folder, seed)
        assert corpus.test_unseen is not None
        (name,) = set(corpus.test_unseen.speakers)
        kept = sorted((folder / name).glob("*.txt"))[0].stem
        for path in (folder / name).iterdir():
            if path.stem != kept:
                path.rename(path.with_name(f".{path.name}"))
        corpus = load_recordings(folder, seed)
        assert corpus.test_unseen is not None
        assert corpus.test_unseen.texts == (kept.replace("_", " "),)
        assert not {*corpus.train.texts} & {*corpus.test_unseen.texts}
        for path in (folder / name).glob(".*"):
            path.rename(path.with_name(path.name[1:]))


def test_one_voice_has_no_unseen_split(folder: Path):
    corpus = load_recordings(folder / "anna", 0)
    assert corpus.test_unseen is None
    assert {*corpus.train.speakers, *corpus.test_seen.speakers} == {"anna"}
    assert [len(split) for split in corpus.splits.values()] == [5, 1]


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_selects_recordings(folder: Path):
    rows = [
        {"file": f"ben/{text.replace(' ', '_')}.flac", "text": f"{text}, please"} for text in TEXTS
    ]
    write_table(folder, rows)
    read = spoken(load_recordings(folder, 0))
    assert set(read) == {("ben", f"{text} please") for text in TEXTS}


def test_a_table_may_name_speakers(folder: Path):
    rows = [
        {
            "file": f"{name}/{text.replace(' ', '_')}.{'flac' if name == 'ben' else 'wav'}",
            "text": text,
            "speaker": "woman" if name != "ben" else "man",
        }
        for name in VOICES
        for text in TEXTS
    ]
    write_table(folder, rows)
    assert {speaker for speaker, _ in spoken(load_recordings(folder, 1))} == {"woman", "man"}


def test_other_rates_and_channels_are_brought_to_16_khz_mono(
    tmp_path: Path, speech: dict[tuple[str, str], np.ndarray]
):
    frames = {}
    for kind in ("plain", "stereo"):
        place = tmp_path / kind
        place.mkdir()
        for text in TEXTS:
            samples = speech["ben", text]
            if kind == "stereo":
                samples = np.stack([resample_poly(samples, 2, 1)] * 2, axis=1)
            rate = RATE if kind == "plain" else 2 * RATE
            soundfile.write(place / f"{text}.wav", samples, rate, subtype="FLOAT")
            (place / f"{text}.txt").write_text(text)
        frames[kind] = load_recordings(place, 0)
    assert np.array_equal(frames["plain"].train.lengths, frames["stereo"].train.lengths)
    assert np.abs(frames["plain"].train.frames - frames["stereo"].train.frames).mean() < 0.02


def test_texts_are_normalized(folder: Path):
    (folder / "anna" / "one_two.txt").write_text(
        "\ufeffDon\u2019t  STOP\u2014caf\u00e9_24;\n", "utf-8"
    )
    texts = {text for seed in range(4) for _, text in spoken(load_recordings(folder, seed))}
    assert "don't stop caf\u00e9 24" in texts


def test_short_recordings_of_long_texts_get_silence_for_ctc(tmp_path: Path):
    for index in range(6):
        tone(tmp_path / f"{index}.wav", seconds=0.1)
        (tmp_path / f"{index}.txt").write_text("hello all " * (index + 1))
    corpus = load_recordings(tmp_path, 0, multiple=4)
    for split in corpus.splits.values():
        for text, length in zip(split.texts, split.lengths, strict=True):
            # Each "ll" takes three tokens.
            assert length // 4 == len(text) + text.count("ll")


def test_folders_without_audio_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="absent' must be a folder"):
        load_recordings(tmp_path / "absent", 0)
    (tmp_path / "notes.txt").write_text("nothing to hear")
    with pytest.raises(ValueError, match=r"\.flac, \.ogg, \.wav"):
        load_recordings(tmp_path, 0)


def test_a_recording_without_a_transcript_is_named(folder: Path):
    (folder / "ben" / "go_left.txt").unlink()
    with pytest.raises(ValueError, match=r"go_left\.flac'.* 'go_left\.txt'"):
        load_recordings(folder, 0)


@pytest.mark.parametrize("text", ["", " \n", "... !", "'"])
def test_an_empty_transcript_is_named(folder: Path, text: str):
    (folder / "ben" / "go_left.txt").write_text(text)
    with pytest.raises(ValueError, match=r"go_left\.flac'.* transcript"):
        load_recordings(folder, 0)


def test_a_binary_transcript_is_named(folder: Path):
    (folder / "ben" / "go_left.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"go_left\.txt'.* UTF-8"):
        load_recordings(folder, 0)


def test_too_few_sentences_are_refused(folder: Path):
    for text in TEXTS[:2]:
        for path in folder.glob(f"*/{text.replace(' ', '_')}.*"):
            path.unlink()
    with pytest.raises(ValueError, match=r"5 sentences or .* got 4"):
        load_recordings(folder, 0)


def test_voices_that_say_one_sentence_each_are_refused(tmp_path: Path):
    for index in range(6):
        (tmp_path / str(index)).mkdir()
        tone(tmp_path / str(index) / "a.wav")
        (tmp_path / str(index) / "a.txt").write_text("word" * (index + 1))
    with pytest.raises(ValueError, match="more sentences"):
        load_recordings(tmp_path, 0)


@pytest.mark.parametrize(
    ("seconds", "message"), [(0.0, "empty, got 0.0"), (31.0, "30 seconds.* got 31.0")]
)
def test_recordings_of_wrong_length_are_named(folder: Path, seconds: float, message: str):
    for name in VOICES:
        for text in TEXTS:
            path = folder / name / f"{text.replace(' ', '_')}.wav"
            tone(path, seconds)
            path.with_suffix(".flac").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"recording '.*wav' .* {message}"):
        load_recordings(folder, 0)


def test_files_without_audio_are_named(folder: Path):
    for path in folder.glob("*/*.wav"):
        path.write_text("no sound")
    with pytest.raises(ValueError, match=r"\.wav' cannot be read as audio"):
        load_recordings(folder, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a.wav", "words": "one"}], "'text' is missing"),
        ([{"file": "gone.wav", "text": "one"}], r"line 2, .* got 'gone\.wav'"),
        ([{"file": "../a.wav", "text": "one"}], "line 2, .* in the folder"),
        ([{"file": "", "text": "one"}], "line 2, .* got ''"),
        (
            [{"file": "ben/go_left.flac", "text": "go", "speaker": " "}],
            "line 2, .* speaker",
        ),
        ([{"file": "ben/go_left.flac", "text": "?"}], "transcript with words"),
    ],
)
def test_a_wrong_table_is_refused(folder: Path, rows: list[dict[str, str]], message: str):
    write_table(folder, rows)
    with pytest.raises(ValueError, match=message):
        load_recordings(folder, 0)


def test_tables_without_rows_and_several_tables_are_refused(folder: Path):
    (folder / "metadata.csv").write_text("file,text\n")
    with pytest.raises(ValueError, match="no rows"):
        load_recordings(folder, 0)
    (folder / "more.csv").write_text("file,text\n")
    with pytest.raises(ValueError, match=r"one CSV file, got metadata\.csv, more\.csv"):
        load_recordings(folder, 0)


def test_speakers_whose_names_are_not_utf_8_are_escaped(folder: Path):
    (folder / "anna").rename(folder / os.fsdecode(b"ann\xe9\x1b"))
    corpus = load_recordings(folder, 0)
    names = {name for each in corpus.splits.values() for name in each.speakers}
    assert names == {r"ann\xe9\x1b", "ben", "cleo"}
    assert len(corpus.content_sha256) == 64
