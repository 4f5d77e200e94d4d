"""A corpus of the user's own recordings with transcripts."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spangym.envs.data.files import AUDIO, load_mono_audio
from spangym.envs.data.log_mel import RATE, log_mel
from spangym.experiments.pilot.corpus import Corpus, Utterances, num_frames, pad_with_noise
from spangym.utils.text import printable

MAX_SECONDS = 30
MIN_SENTENCES = 5
_HELD_OUT_DIVISOR = 5


class _Recording(NamedTuple):
    file: Path
    text: str
    speaker: str


def load_recordings(path: Path | str, seed: int, multiple: int = 4) -> Corpus:
    """Read a folder of recordings with transcripts.

    Transcripts are text files with the recordings' names (``one.wav``, ``one.txt``), or one CSV
    file in the folder with the columns ``file`` (relative to the folder), ``text`` and optionally
    ``speaker``; files that it does not name are left out. Without that column, a recording's
    speaker is its sub-folder of ``path``.

    Texts are normalized to lowercase letters, digits, apostrophes and spaces. About a fifth of the
    sentences are held out for tests, and about a fifth of the speakers if there are two or more.
    Training sentences of unseen speakers are left out. All lengths are multiples of ``multiple``
    frames.

    Raises:
        ValueError: There are too few recordings, or a recording is unreadable, empty, longer than
            `MAX_SECONDS` or without a transcript.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{str(path)!r} must be a folder of recordings")
    recordings = [
        each._replace(text=_normalize(each))
        for each in _from_csv(folder) or _from_transcripts(folder)
    ]
    split_rng, noise_rng = np.random.default_rng(seed).spawn(2)
    splits = _split(recordings, folder, split_rng)
    samples = {each.file: _load_samples(each.file) for split in splits for each in split}
    lengths = [
        num_frames([samples[each.file] for each in split], [each.text for each in split], multiple)
        for split in splits
    ]
    longest = max(int(each.max(initial=0)) for each in lengths)
    train, seen, unseen = (
        Utterances(
            np.array(
                [log_mel(pad_with_noise(samples[each.file], longest, noise_rng)) for each in split],
                np.float32,
            ),
            split_lengths,
            tuple(each.text for each in split),
            tuple(each.speaker for each in split),
        )
        for split, split_lengths in zip(splits, lengths, strict=True)
    )
    return Corpus(train, seen, unseen if len(unseen) else None)


def _from_csv(folder: Path) -> list[_Recording]:
    """Return the recordings of the folder's CSV file; an empty list if there is none."""
    tables = sorted(each for each in folder.glob("*.csv") if not each.name.startswith("."))
    if not tables:
        return []
    if len(tables) > 1:
        names = ", ".join(each.name for each in tables)
        raise ValueError(f"folder {str(folder)!r} must hold one CSV file, got {names}")
    (table,) = tables
    reader = csv.DictReader(_read_text(table).splitlines(keepends=True))
    try:
        columns = reader.fieldnames or []
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{str(table)!r} cannot be read: {error}") from error
    if missing := [name for name in ("file", "text") if name not in columns]:
        raise ValueError(
            f"{str(table)!r} must have the columns 'file' and 'text', and may have 'speaker': "
            f"{missing[0]!r} is missing"
        )
    recordings = []
    for line, row in rows:
        name = Path(row["file"] or "")
        file = folder / name
        where = f"{str(table)!r}, line {line},"
        if name.is_absolute() or ".." in name.parts or not _is_file(file):
            raise ValueError(f"{where} must name a file in the folder, got {row['file']!r:.200}")
        speaker = (row["speaker"] or "").strip() if "speaker" in columns else _speaker(file, folder)
        speaker = printable(speaker)
        if not speaker:
            raise ValueError(f"{where} must name a speaker, or leave out the column 'speaker'")
        recordings.append(_Recording(file, row["text"] or "", speaker))
    if not recordings:
        raise ValueError(f"{str(table)!r} must name recordings, but holds no rows")
    return recordings


def _from_transcripts(folder: Path) -> list[_Recording]:
    """Return all recordings in the folder and its sub-folders."""
    recordings = []
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.suffix.lower() not in AUDIO or not file.is_file():
            continue
        transcript = file.with_suffix(".txt")
        if not transcript.is_file():
            raise ValueError(f"recording {str(file)!r} needs a transcript {transcript.name!r}")
        recordings.append(_Recording(file, _read_text(transcript), _speaker(file, folder)))
    if not recordings:
        raise ValueError(f"folder {str(folder)!r} must hold {', '.join(AUDIO)} files, got none")
    return recordings


def _speaker(file: Path, folder: Path) -> str:
    is_below = file.parent != folder
    return printable(file.relative_to(folder).parts[0] if is_below else folder.resolve().name)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} must be text in UTF-8") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # The name is longer than names may be.
        return False


def _normalize(recording: _Recording) -> str:
    text = unicodedata.normalize("NFKC", recording.text).lower()
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = " ".join(re.sub(r"[^\w']|_", " ", text).split())
    if not text.strip("' "):
        raise ValueError(f"recording {str(recording.file)!r} must have a transcript with words")
    return text


def _split(
    recordings: list[_Recording], folder: Path, generator: np.random.Generator
) -> tuple[list[_Recording], list[_Recording], list[_Recording]]:
    """Split recordings into training, tests of training speakers, and tests of unseen speakers."""
    speakers = sorted({each.speaker for each in recordings})
    count = max(1, round(len(speakers) / _HELD_OUT_DIVISOR)) if len(speakers) > 1 else 0
    unseen_speakers = {*generator.permutation(speakers)[:count].tolist()}
    seen = [each for each in recordings if each.speaker not in unseen_speakers]
    unseen = [each for each in recordings if each.speaker in unseen_speakers]
    sentences = generator.permutation(sorted({each.text for each in seen})).tolist()
    if len(sentences) < MIN_SENTENCES:
        training = [printable(each)[:80] for each in speakers if each not in unseen_speakers]
        names = ", ".join(training[:10])
        raise ValueError(
            f"folder {str(folder)!r} must hold {MIN_SENTENCES} sentences or more by the training "
            f"speakers ({names}), got {len(sentences)}"
        )
    held_out = {*sentences[: len(sentences) // _HELD_OUT_DIVISOR]}
    unseen_texts = {each.text for each in unseen}
    if unseen and unseen_texts <= {*sentences} - held_out:
        held_out.add(next(text for text in sentences if text in unseen_texts))
    train = [each for each in seen if each.text not in held_out]
    train_texts, train_speakers = {each.text for each in train}, {each.speaker for each in train}
    tests = [each for each in seen if each.text in held_out and each.speaker in train_speakers]
    if not tests:
        raise ValueError(
            f"folder {str(folder)!r} must hold more sentences by each speaker: the speakers of the "
            "held-out sentences say nothing else"
        )
    return train, tests, [each for each in unseen if each.text not in train_texts]


def _load_samples(file: Path) -> NDArray[np.float64]:
    samples = load_mono_audio(file)
    if not 0 < len(samples) <= MAX_SECONDS * RATE:
        raise ValueError(
            f"recording {str(file)!r} must have at most {MAX_SECONDS} seconds, and not be empty, "
            f"got {len(samples) / RATE:.1f}"
        )
    return samples
