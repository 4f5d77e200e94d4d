"""Datasets of the user's files: bytes, arrays and audio."""

from __future__ import annotations

import functools
import itertools
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly

from spangym.envs.data.dataset import (
    Dataset,
    Stream,
    random_slice,
    sha256,
    train_eval_split,
    validate_split,
)
from spangym.envs.data.log_mel import RATE, log_mel
from spangym.utils.text import printable

ARRAYS = (".npy", ".npz")
AUDIO = (".flac", ".ogg", ".wav")

MAX_BYTES = 2**31
"""Most bytes that a file may take in memory; larger ones are to be divided."""

_RATES = (1_000, 192_000)
"""Sample rates that can be converted to that of the frames, in Hz."""

_BLOCK = 2**20

_BINARY_TEST = 8000
"""Bytes at the start of a file that are searched for a NUL."""

Source = str | Path | Sequence[str | Path]
"""A file, a folder, or several files."""

Sequences = Iterable[tuple[str, NDArray[Any]]]
"""Content types with bytes, uint8 (tokens,), or frames, float32 (tokens, channels)."""


def make_file_dataset(path: Source, split: str) -> Dataset:
    """Make a dataset of the split ``train`` or ``evaluation`` of a file, a folder or several files.

    ``.npy`` and ``.npz`` are arrays; ``.wav``, ``.flac`` and ``.ogg`` are audio; other files are
    bytes. Transcripts, ``one.txt`` beside ``one.wav``, are not part of a dataset of audio. Several
    files are read as a folder that holds them.

    Raises:
        ValueError: A file does not exist or cannot be read, or the formats are mixed.
    """
    examples = {_reader(each): name for name, each in reversed(_without_transcripts(_files(path)))}
    if len(examples) > 1:
        names = " and ".join(map(repr, sorted(examples.values())))
        kinds = "arrays, audio or other files, not several of these"
        place = "folder " if isinstance(path, str | Path) else ""
        raise ValueError(f"{place}{_quoted(path)} must hold {kinds}: separate {names}")
    (reader,) = examples
    return reader(path, split)


class _SequencesDataset(Dataset):
    """Random slices of sequences, which are drawn with probability proportional to their length.

    Sequences that are too short are not drawn unless all are.
    """

    def __init__(self, name: str, split: str, sequences: Sequences) -> None:
        self._sequences = tuple(sequences)
        self._lengths = np.array([len(sequence) for _, sequence in self._sequences])
        self._name = f"the {split} split of {name}"
        if not self._lengths.any():
            raise ValueError(f"{name} must be longer: its {split} split holds no tokens")
        for _, sequence in self._sequences:
            sequence.flags.writeable = False
        self.channels = self._sequences[0][1].shape[1] if self._sequences[0][1].ndim > 1 else 0

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample a slice of one of the sequences; a `ValueError` if all are too short."""
        tokens = chunks * ctx
        odds = np.where(self._lengths >= tokens, self._lengths, 0)
        index = self._lengths.argmax()
        if odds.any():
            index = generator.choice(len(odds), p=odds / odds.sum())
        content_type, sequence = self._sequences[index]
        name = f"{self._name} at its longest, {content_type!r},"
        passage = random_slice(generator, sequence, tokens, name)
        return Stream(passage.reshape(chunks, ctx, *sequence.shape[1:]), (content_type,) * chunks)

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the sequences by content type."""
        content_types: dict[str, list[NDArray[Any]]] = {}
        for content_type, sequence in self._sequences:
            content_types.setdefault(content_type, []).append(sequence)
        return {name: sha256(np.concatenate(parts)) for name, parts in content_types.items()}


class FilesDataset(_SequencesDataset):
    """A file, several files, or all files below a folder that are not hidden, as bytes.

    The first four fifths of each file are for training, the last fifth for evaluation. The
    content type of a chunk is its file's path relative to the folder, or to the folder that
    several files have in common.

    Args:
        path: The file, folder, or list of files.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: A file does not exist, cannot be read, or is empty.

    Warns:
        UserWarning: A file is binary, beside others that are text: it has a NUL among its first
            8,000 bytes, as Git tells them apart.

    Example:
        >>> dataset = FilesDataset(__file__, "train")
        >>> stream = dataset.sample(np.random.default_rng(0), 2, 40)
        >>> stream.content_types, stream.content.shape, stream.content.dtype
        (('files.py', 'files.py'), (2, 40), dtype('uint8'))
    """

    def __init__(self, path: Source, split: str) -> None:
        texts = [(name, each, _read_bytes(each)) for name, each in _files(path)]
        binary = [each for _, each, text in texts if not text[:_BINARY_TEST].all()]
        if len(binary) < len(texts):
            for each in binary:
                _warn_of_binary(each)
        parts = ((name, _split(text, split)) for name, _, text in texts)
        super().__init__(_quoted(path), split, parts)


class ArrayDataset(_SequencesDataset):
    """Arrays: 1-D integers in 0..255 are bytes, floating (tokens, channels) are frames.

    Floating (sequences, tokens, channels) are several sequences. The first four fifths of the
    tokens of each are for training, the last fifth for evaluation. The content type of a chunk is
    the name of its ``.npy`` file or, in an ``.npz`` file, of its array; in a folder of several
    files both; ``array`` for an array in memory.

    Args:
        array: An array or tensor, which is copied, an ``.npy`` or ``.npz`` file, or a folder or
            list of such files.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: A file does not exist or cannot be read, or an array has another shape or
            dtype, NaN or infinite numbers, or another number of channels than the first.

    Example:
        >>> frames = np.linspace(0, 1, 30).reshape(10, 3)
        >>> dataset = ArrayDataset(frames, "train")
        >>> stream = dataset.sample(np.random.default_rng(0), 2, 4)
        >>> stream.content_types, stream.content.shape, stream.content.dtype
        (('array', 'array'), (2, 4, 3), dtype('float32'))
    """

    def __init__(self, array: Source | NDArray[Any] | torch.Tensor, split: str) -> None:
        if isinstance(array, str | Path | list | tuple):
            name, arrays = _quoted(array), _read_arrays(array)
        else:
            name, arrays = "the array", iter([("array", "the array", array)])
        sequences = [
            (content_type, where, _split(sequence, split))
            for content_type, where, content in arrays
            for sequence in _as_sequences(content, where)
        ]
        for _, where, sequence in sequences:
            _, first_where, first = sequences[0]
            if sequence.shape[1:] != first.shape[1:]:
                found = f"{where} holds {_form(sequence)}, {first_where} {_form(first)}"
                raise ValueError(f"{found}: all arrays of a dataset must have the same format")
        super().__init__(name, split, ((each[0], each[2]) for each in sequences))


class AudioDataset(_SequencesDataset):
    """Audio files as log-mel frames, 100 a second, each of 80 channels.

    The frames are those of Whisper (Radford et al., "Robust Speech Recognition via Large-Scale
    Weak Supervision", 2022): mono at 16 kHz, Hann windows of 25 ms every 10 ms, centered and
    reflected at the ends, power in 80 mel bands, log10 floored at 1e-10 and at 8 below its
    maximum, plus 4, over 4. See `spangym.envs.data.log_mel`.

    The first four fifths of each file's samples are for training, the last fifth for evaluation.
    The samples are split before the frames are computed, so that the splits share no frame and no
    maximum. The content type of a chunk is its file's path relative to the folder.

    Args:
        path: A ``.wav``, ``.flac`` or ``.ogg`` file, or a folder or list of them. Transcripts,
            ``one.txt`` beside ``one.wav``, are ignored.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: A file does not exist or cannot be read, or has NaN or infinite samples, or the
            extra ``audio`` is not installed.
    """

    def __init__(self, path: Source, split: str) -> None:
        files = _without_transcripts(_files(path))
        parts = ((name, log_mel(load_mono_audio(each, split))) for name, each in files)
        super().__init__(_quoted(path), split, parts)


def load_mono_audio(path: Path, split: str | None = None) -> NDArray[np.float64]:
    """Read an audio file, or a split of it, as mono at 16 kHz, shape (samples,), in -1..1.

    Raises:
        ValueError: The file cannot be read or has NaN or infinite samples, or the extra ``audio``
            is not installed.
    """
    soundfile = _soundfile()
    try:
        # Libsndfile itself opens only names that are UTF-8.
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            rate = file.samplerate
            if not _RATES[0] <= rate <= _RATES[1]:
                rule = f"a sample rate of {_RATES[0]} to {_RATES[1]} Hz"
                raise ValueError(f"{_quoted(path)} must have {rule}, got {rate}")
            samples = _read_samples(file, path)
    except OSError as error:
        _refuse(error, path)
    except soundfile.LibsndfileError as error:
        message = f"{_quoted(path)} cannot be read as audio: {error.error_string}"
        raise ValueError(message) from error
    if not np.isfinite(samples).all():
        raise ValueError(f"{_quoted(path)} must hold finite samples, got NaN or infinite ones")
    mono = samples.mean(axis=1, dtype=np.float64)
    if split is not None:
        mono = _split(mono, split)
    common = math.gcd(rate, RATE)
    if rate != RATE and len(mono):
        mono = resample_poly(mono, RATE // common, rate // common)
    return mono


def _read_samples(file: Any, path: Path) -> NDArray[np.float32]:
    """Read an open audio file in blocks: its header may claim any length."""
    blocks, size = [np.empty((0, file.channels), np.float32)], 0
    while len(block := file.read(_BLOCK // file.channels + 1, dtype="float32", always_2d=True)):
        blocks.append(block)
        size += block.nbytes
        _check_bytes(path, size)
    return np.concatenate(blocks)


def _check_bytes(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        limit = f"more than the {MAX_BYTES} of a file: divide it"
        raise ValueError(f"{_quoted(path)} takes {size} bytes in memory, {limit}")


def _files(path: Source) -> list[tuple[str, Path]]:
    """Return the files with their names, sorted by name."""
    if not isinstance(path, str | Path):
        return _listed_files([*map(Path, path)])
    root = Path(path)
    try:
        if root.is_file():
            return [(printable(root.name), root)]
        if not root.is_dir():
            raise ValueError(f"{_quoted(path)} is neither a file nor a folder")
    except OSError as error:
        _refuse(error, path)
    below = (
        Path(folder, name) for folder, _, names in os.walk(root, onerror=_refuse) for name in names
    )
    files = sorted((each.relative_to(root).as_posix(), each) for each in below if each.is_file())
    files = [(printable(name), each) for name, each in files if "/." not in f"/{name}"]
    if not files:
        raise ValueError(f"folder {_quoted(path)} must hold a file that is not hidden")
    return files


def _listed_files(paths: list[Path]) -> list[tuple[str, Path]]:
    """Return files with their names relative to the folder that they have in common."""
    if not paths:
        raise ValueError("a list of files must hold at least one file")
    try:
        if missing := [each for each in paths if not each.is_file()]:
            raise ValueError(f"{_quoted(missing[0])} is not a file: a list must hold files only")
        full = [each.absolute() for each in paths]
    except OSError as error:
        _refuse(error)
    root = os.path.commonpath([each.parent for each in full])
    files = sorted((each.relative_to(root).as_posix(), each) for each in full)
    names = [printable(name) for name, _ in files]
    if repeated := [name for name, other in itertools.pairwise(names) if name == other]:
        raise ValueError(f"a list of files must hold each of them once, got {repeated[0]!r} twice")
    return [(name, each) for name, (_, each) in zip(names, files, strict=True)]


def _without_transcripts(files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Omit text files beside recordings of the same name."""
    recordings = {each.with_suffix("") for _, each in files if each.suffix.lower() in AUDIO}
    return [
        (name, each)
        for name, each in files
        if each.suffix.lower() != ".txt" or each.with_suffix("") not in recordings
    ]


def _reader(path: Path) -> type[FilesDataset | ArrayDataset | AudioDataset]:
    suffix = path.suffix.lower()
    return ArrayDataset if suffix in ARRAYS else AudioDataset if suffix in AUDIO else FilesDataset


def _split(sequence: NDArray[Any], split: str) -> NDArray[Any]:
    validate_split(split)
    return train_eval_split(sequence, split)


def _read_bytes(path: Path) -> NDArray[np.uint8]:
    try:
        _check_bytes(path, path.stat().st_size)
        return np.fromfile(path, np.uint8)
    except OSError as error:
        _refuse(error, path)


@functools.cache
def _warn_of_binary(path: Path) -> None:
    """Warn once per file, not once per split and environment."""
    advice = "remove it if it should not be read as one of them"
    warnings.warn(f"{_quoted(path)} is a binary file beside texts: {advice}", stacklevel=2)


def _read_arrays(path: Source) -> Iterator[tuple[str, str, NDArray[Any]]]:
    files = _files(path)
    for name, each in files:
        try:
            size = each.stat().st_size
            if zipfile.is_zipfile(each):
                with zipfile.ZipFile(each) as archive:
                    size = sum(member.file_size for member in archive.infolist())
        except OSError as error:
            _refuse(error, each)
        except Exception as error:
            raise ValueError(f"{_quoted(each)} must be an .npy or .npz file of numbers") from error
        _check_bytes(each, size)
        try:
            loaded = np.load(each, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                arrays = {"": loaded}
            else:
                with loaded:
                    arrays = {key: loaded[key] for key in loaded.files}
        except OSError as error:
            _refuse(error, each)
        # For a damaged file NumPy raises almost any exception, even tokenize.TokenError.
        except Exception as error:
            raise ValueError(f"{_quoted(each)} must be an .npy or .npz file of numbers") from error
        for key, array in arrays.items():
            key = printable(key)
            content_type = name if not key else key if len(files) == 1 else f"{name}/{key}"
            yield content_type, f"array {key!r} in {_quoted(each)}" if key else _quoted(each), array


def _as_sequences(content: Any, where: str) -> list[NDArray[Any]]:
    if isinstance(content, torch.Tensor):
        # NumPy has no bfloat16.
        content = (content.float() if content.is_floating_point() else content).numpy(force=True)
    array = np.asarray(content)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            given = f"{array.min()}..{array.max()}"
            raise ValueError(f"{where} must hold bytes, integers in 0..255, got {given}")
        return [array.astype(np.uint8)]
    if array.ndim not in (2, 3) or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{where} must be integers of shape (tokens,) or floating of shape (tokens, channels) "
            f"or (sequences, tokens, channels), got {array.dtype} of shape {array.shape}"
        )
    if not array.size:
        raise ValueError(f"{where} must not be empty, got shape {array.shape}")
    with np.errstate(over="ignore"):
        frames = array.astype(np.float32)
    if not np.isfinite(frames).all():
        raise ValueError(f"{where} must hold finite numbers of float32, got NaN or infinite ones")
    return list(frames) if frames.ndim == 3 else [frames]


def _form(sequence: NDArray[Any]) -> str:
    return f"frames of {sequence.shape[1]} channels" if sequence.ndim > 1 else "bytes"


def _soundfile() -> Any:
    try:
        import soundfile
    # libsndfile may be missing.
    except (ImportError, OSError) as error:
        raise ValueError("audio needs the extra: pip install 'spangym[audio]'") from error
    return soundfile


def _refuse(error: OSError, path: str | Path | None = None) -> NoReturn:
    name = _quoted(path or error.filename)
    raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error


def _quoted(path: Source) -> str:
    if isinstance(path, str | Path):
        return f"'{printable(path)}'"
    return " and ".join(map(_quoted, path)) if len(path) < 3 else f"the list of {len(path)} files"
