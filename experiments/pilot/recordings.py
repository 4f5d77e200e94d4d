"""A corpus of the user's own recordings with transcripts."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spangym.envs.data.files import AUDIO, load_mono_audio
from spangym.envs.data.log_mel import MELS, RATE, log_mel
from spangym.experiments.pilot.corpus import Corpus, Utterances, num_frames, pad_with_noise

MAX_SECONDS = 30
MIN_SENTENCES = 5

_HELD_OUT_DIVISOR = 5
_TEXT_COLUMNS = ("file", "text")


class _Recording(NamedTuple):
    file: Path
    text: str
    speaker: str


def load_recordings(path: Path | str, seed: int, multiple: int = 4) -> Corpus:
    """Read a folder of recordings, each with what is said in it.

    That is either in a text file of the same name beside each (``one.wav``, ``one.txt``), or in one
    CSV file in the folder, with the columns ``file`` (within the folder), ``text`` and, if wanted,
    ``speaker``; files that it does not name are left out then. Without that column, a recording's
    speaker is the name of the sub-folder of ``path`` that it is in.

    Texts are brought to lowercase letters, digits, apostrophes and spaces. About a fifth of the
    speakers, where there are two or more, are unseen in training, and about a fifth of the sentences.
    What unseen speakers say of the other sentences is left out.

    Args:
        path: The folder.
        seed: Seed of the splits.
        multiple: Frames that a model makes one token of; all lengths are multiples of it.

    Raises:
        ValueError: There are no recordings or too few, one of them cannot be read, is empty or
            longer than `MAX_SECONDS`, or it is not said what is said in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{str(path)!r} must be a folder of recordings")
    recordings = [
        each._replace(text=_normalized(each))
        for each in _from_csv(folder) or _from_transcripts(folder)
    ]
    for_splits, for_noise = np.random.default_rng(seed).spawn(2)
    splits = _split(recordings, folder, for_splits)
    samples = {each.file: _load_samples(each.file) for split in splits for each in split}
    counts = [
        num_frames([samples[each.file] for each in split], [each.text for each in split], multiple)
        for split in splits
    ]
    longest = max(int(each.max(initial=0)) for each in counts)
    train, seen, unseen = (
        Utterances(
            _log_mel_frames([samples[each.file] for each in split], longest, for_noise),
            lengths,
            tuple(each.text for each in split),
            tuple(each.speaker for each in split),
        )
        for split, lengths in zip(splits, counts, strict=True)
    )
    return Corpus(train, seen, unseen if len(unseen) else None)


def _from_csv(folder: Path) -> list[_Recording]:
    """What the folder's CSV file names; nothing where there is none."""
    tables = sorted(each for each in folder.glob("*.csv") if not each.name.startswith("."))
    if not tables:
        return []
    if len(tables) > 1:
        names = ", ".join(each.name for each in tables)
        raise ValueError(f"folder {str(folder)!r} must hold one CSV file, got {names}")
    table = tables[0]
    reader = csv.DictReader(_read_text(table).splitlines(keepends=True))
    columns = reader.fieldnames or []
    if missing := [name for name in _TEXT_COLUMNS if name not in columns]:
        raise ValueError(
            f"{str(table)!r} must have the columns 'file' and 'text', and may have 'speaker': "
            f"{missing[0]!r} is missing"
        )
    recordings = []
    for row in reader:
        name = Path(row["file"] or "")
        file = folder / name
        where = f"{str(table)!r}, line {reader.line_num},"
        if name.is_absolute() or ".." in name.parts or not file.is_file():
            raise ValueError(f"{where} must name a file in the folder, got {row['file']!r}")
        speaker = (row["speaker"] or "").strip() if "speaker" in columns else _speaker(file, folder)
        if not speaker:
            raise ValueError(f"{where} must name a speaker, or the column 'speaker' be left out")
        recordings.append(_Recording(file, row["text"] or "", speaker))
    if not recordings:
        raise ValueError(f"{str(table)!r} must name recordings, but holds no rows")
    return recordings


def _from_transcripts(folder: Path) -> list[_Recording]:
    """All recordings below the folder with the text files beside them."""
    recordings = []
    for file in _find_audio(folder):
        transcript = file.with_suffix(".txt")
        if not transcript.is_file():
            raise ValueError(f"recording {str(file)!r} must have a {transcript.name!r} beside it")
        recordings.append(_Recording(file, _read_text(transcript), _speaker(file, folder)))
    if not recordings:
        raise ValueError(f"folder {str(folder)!r} must hold {', '.join(AUDIO)} files, got none")
    return recordings


def _find_audio(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() in AUDIO and not hidden and file.is_file():
            yield file


def _speaker(file: Path, folder: Path) -> str:
    return file.relative_to(folder).parts[0] if file.parent != folder else folder.resolve().name


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} must be text in UTF-8") from error


def _normalized(recording: _Recording) -> str:
    text = (
        unicodedata.normalize("NFKC", recording.text)
        .lower()
        .replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    text = " ".join(re.sub(r"[^\w']|_", " ", text).split())
    if not text.strip("' "):
        raise ValueError(f"recording {str(recording.file)!r} must have a transcript with words")
    return text


def _split(
    recordings: list[_Recording], folder: Path, generator: np.random.Generator
) -> tuple[list[_Recording], list[_Recording], list[_Recording]]:
    """Those for training, those of its speakers and those of others, with other sentences."""
    speakers = sorted({each.speaker for each in recordings})
    count = max(1, round(len(speakers) / _HELD_OUT_DIVISOR)) if len(speakers) > 1 else 0
    others = {*generator.permutation(speakers)[:count].tolist()}
    known = [each for each in recordings if each.speaker not in others]
    foreign = [each for each in recordings if each.speaker in others]
    sentences = generator.permutation(sorted({each.text for each in known})).tolist()
    if len(sentences) < MIN_SENTENCES:
        raise ValueError(
            f"folder {str(folder)!r} must hold {MIN_SENTENCES} sentences or more by the speakers "
            f"of the training ({', '.join(speaker for speaker in speakers if speaker not in others)}), "
            f"got {len(sentences)}"
        )
    held_out = {*sentences[: len(sentences) // _HELD_OUT_DIVISOR]}
    heard = {each.text for each in foreign}
    if foreign and heard <= {*sentences} - held_out:
        held_out.add(next(text for text in sentences if text in heard))
    train = [each for each in known if each.text not in held_out]
    texts, trained = {each.text for each in train}, {each.speaker for each in train}
    seen = [each for each in known if each.text in held_out and each.speaker in trained]
    if not seen:
        raise ValueError(
            f"folder {str(folder)!r} must hold more sentences by each speaker: the speakers that say "
            "what is held out for tests say nothing else"
        )
    return train, seen, [each for each in foreign if each.text not in texts]


def _load_samples(file: Path) -> NDArray[np.float64]:
    samples = load_mono_audio(file)
    if not 0 < len(samples) <= MAX_SECONDS * RATE:
        raise ValueError(
            f"recording {str(file)!r} must be of at most {MAX_SECONDS} seconds, and not empty, "
            f"got {len(samples) / RATE:.1f}"
        )
    return samples


def _log_mel_frames(
    recordings: list[NDArray[np.float64]], longest: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    frames = np.empty((len(recordings), longest, MELS), np.float32)
    for row, samples in zip(frames, recordings, strict=True):
        row[:] = log_mel(pad_with_noise(samples, longest, generator))
    return frames
