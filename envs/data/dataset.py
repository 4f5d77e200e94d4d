"""Datasets: the interface, texts that come with CPython, and generated content."""

from __future__ import annotations

import hashlib
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.data.library_texts import read_library_texts
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import as_int
from spangym.utils.suggestions import did_you_mean
from spangym.utils.text import printable

SPLITS = ("train", "evaluation")
"""Four fifths of the content are for training, one fifth is for evaluation."""

BYTES = 256

NO_TARGET = -100
"""Target of tokens without one; PyTorch's losses ignore it."""


class Stream(NamedTuple):
    """The consecutive chunks of one episode.

    Attributes:
        content: Bytes, uint8 of shape (chunks, ctx); token ids, int64 of the same shape; or frames,
            float32 of shape (chunks, ctx, channels).
        content_types: Content type of each chunk, for ``info``, where it is printable.
        targets: Target class of each token, int64 of shape (chunks, ctx), `NO_TARGET` for none; the
            next byte or token of the chunk if None.
    """

    __repr__ = readable_repr

    content: NDArray[Any]
    content_types: tuple[str, ...]
    targets: NDArray[np.int64] | None = None


class Dataset(ABC):
    """Samples streams. A custom dataset only needs `sample`.

    Attributes:
        channels: Channels of a frame; 0 for datasets of bytes or token ids.
        vocab_size: Number of different tokens; 256 for bytes, unused for frames.

    Example:
        >>> class Ramp(Dataset):
        ...     def sample(self, generator, chunks, ctx):
        ...         start = generator.integers(256)
        ...         ramp = (start + np.arange(chunks * ctx)) % 256
        ...         return Stream(ramp.astype(np.uint8).reshape(chunks, ctx), ("ramp",) * chunks)
        >>> Ramp().sample(np.random.default_rng(0), 2, 3).content.tolist()
        [[217, 218, 219], [220, 221, 222]]
    """

    __repr__ = readable_repr

    channels: int = 0
    vocab_size: int = BYTES

    @abstractmethod
    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample a stream of ``chunks`` chunks of ``ctx`` tokens; a `ValueError` if too short.

        The generator must be the only source of randomness.
        """

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the content by content type, for the manifests of runs; empty by default."""
        return {}


class TextDataset(Dataset):
    """Documentation and source code of CPython's library, as bytes.

    ``code`` is 53 modules of the standard library that are the same in CPython 3.11, 3.12 and 3.13,
    ``documentation`` their docstrings (`spangym.envs.data.library_texts`). A fifth of the modules,
    by size, is for evaluation. Each stream is a random slice of one of the texts, drawn with equal
    probability.

    Args:
        split: ``train`` or ``evaluation``.
        content_types: ``documentation``, ``code`` or both.

    Attributes:
        texts: The texts of the split by content type, uint8 of shape (tokens,).

    Raises:
        ValueError: The split is unknown, or a file of the library is missing or differs.

    Example:
        >>> stream = TextDataset("train").sample(np.random.default_rng(0), 2, 40)
        >>> stream.content_types, stream.content.shape, stream.content.dtype
        (('code', 'code'), (2, 40), dtype('uint8'))
    """

    def __init__(
        self, split: str, content_types: Sequence[str] = ("documentation", "code")
    ) -> None:
        self._split = split
        self._content_types = tuple(content_types)
        validate_split(split)
        texts = read_library_texts(split)
        self.texts = {name: np.frombuffer(texts[name], np.uint8) for name in content_types}

    def __reduce__(self) -> tuple[type[TextDataset], tuple[str, tuple[str, ...]]]:
        """Copies and pickles read the texts again instead of storing them."""
        return TextDataset, (self._split, self._content_types)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample a slice of one of the texts; too short a text is a `ValueError`."""
        content_type = self._content_types[generator.integers(len(self._content_types))]
        text, name = self.texts[content_type], f"the {content_type} text"
        passage = random_slice(generator, text, chunks * ctx, name)
        return Stream(passage.reshape(chunks, ctx), (content_type,) * chunks)

    def fingerprint(self) -> dict[str, str]:
        """SHA-256 of the texts by content type."""
        return {content_type: sha256(text) for content_type, text in self.texts.items()}


class NoiseDataset(Dataset):
    """Independent, uniformly distributed bytes: context does not help to predict them.

    Args:
        alphabet: The bytes to draw from, default all 256.
        content_type: Content type of the chunks.
    """

    def __init__(self, alphabet: bytes = bytes(range(256)), content_type: str = "noise") -> None:
        self._alphabet = np.frombuffer(alphabet, np.uint8)
        self._content_type = content_type

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample every byte independently."""
        drawn = generator.integers(len(self._alphabet), size=(chunks, ctx))
        return Stream(self._alphabet[drawn], (self._content_type,) * chunks)


class RepeatedLetterDataset(Dataset):
    """Chunks of one repeated letter."""

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample a letter for each chunk."""
        letters = np.frombuffer(string.ascii_lowercase.encode(), np.uint8)
        drawn = letters[generator.integers(len(letters), size=chunks)]
        return Stream(np.repeat(drawn[:, None], ctx, axis=1), ("repeated letters",) * chunks)


class RepetitionDataset(Dataset):
    """Chunks of one repeated passage of another dataset.

    The passage's length is drawn on a logarithmic scale, so that short and long distances to the
    previous repeat are equally frequent.

    Args:
        dataset: Dataset of bytes or tokens to sample passages from.
        shortest: Tokens of the shortest passage, default 8.
        longest: Tokens of the longest passage, default 192; at most three quarters of a chunk.

    Raises:
        ValueError: The dataset is of frames, or the lengths are invalid.
    """

    def __init__(self, dataset: Dataset, shortest: int = 8, longest: int = 192) -> None:
        if dataset.channels:
            raise ValueError("dataset must be of bytes or tokens, it is of frames")
        self._dataset, self._longest = dataset, as_int("longest", longest, 1)
        self.vocab_size = dataset.vocab_size
        self._shortest = as_int("shortest", shortest, 1, self._longest)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample a passage for each chunk."""
        longest = max(1, min(self._longest, ctx * 3 // 4))
        shortest = min(self._shortest, longest)
        bounds = np.log([shortest, longest + 1])
        rows = []
        for _ in range(chunks):
            length = min(int(np.exp(generator.uniform(*bounds))), longest)
            passage = self._dataset.sample(generator, 1, length).content[0]
            rows.append(np.resize(passage, ctx))
        return Stream(np.stack(rows), ("repeated text",) * chunks)

    def fingerprint(self) -> dict[str, str]:
        """Fingerprint of the dataset of the passages."""
        return self._dataset.fingerprint()


class MixtureDataset(Dataset):
    """Chunks that are each drawn from one of several datasets.

    Args:
        datasets: Datasets of bytes, of tokens with the same size of the vocabulary, or of frames
            with the same number of channels.
        weights: Relative frequency of each dataset; equal if None.

    Raises:
        ValueError: There is no dataset, a weight is negative or all are 0, or the channels or the
            sizes of the vocabulary differ.

    Example:
        >>> mixture = MixtureDataset([NoiseDataset(b"01", "bits"), RepeatedLetterDataset()], [3, 1])
        >>> stream = mixture.sample(np.random.default_rng(2), 4, 6)
        >>> stream.content_types
        ('bits', 'bits', 'repeated letters', 'bits')
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float] | None = None) -> None:
        if not datasets:
            raise ValueError("datasets must name at least one dataset")
        odds = np.array([1.0] * len(datasets) if weights is None else list(weights))
        if odds.shape != (len(datasets),) or (odds < 0).any() or not 0 < odds.sum() < np.inf:
            wanted = f"{len(datasets)} numbers, none negative and not all 0"
            raise ValueError(f"weights must be {wanted}, got {odds.tolist()}")
        if len({*(channels := [dataset.channels for dataset in datasets])}) > 1:
            raise ValueError(f"datasets of a mixture must have the same channels, got {channels}")
        if len({*(sizes := [dataset.vocab_size for dataset in datasets])}) > 1:
            raise ValueError(f"datasets of a mixture must have the same vocab_size, got {sizes}")
        self._datasets = tuple(datasets)
        self._odds = odds / odds.sum()
        self.channels, self.vocab_size = datasets[0].channels, datasets[0].vocab_size

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Sample each chunk from one of the datasets.

        Raises:
            ValueError: Only some of the datasets give targets.
        """
        drawn = generator.choice(len(self._datasets), size=chunks, p=self._odds)
        streams = [self._datasets[index].sample(generator, 1, ctx) for index in drawn]
        targets = [each.targets for each in streams if each.targets is not None]
        if targets and len(targets) < chunks:
            raise ValueError("datasets of a mixture must all give targets, or none")
        return Stream(
            np.concatenate([each.content for each in streams]),
            tuple(each.content_types[0] for each in streams),
            np.concatenate(targets) if targets else None,
        )

    def fingerprint(self) -> dict[str, str]:
        """Fingerprints of all datasets."""
        fingerprints: dict[str, str] = {}
        for dataset in self._datasets:
            fingerprints |= dataset.fingerprint()
        return fingerprints


def sample_streams(
    dataset: Dataset,
    generators: Sequence[np.random.Generator],
    chunks: int,
    ctx: int,
    num_classes: int | None,
) -> tuple[list[tuple[str, ...]], Tensor, Tensor | None]:
    """Sample a stream for each environment, and check it.

    Args:
        dataset: The dataset.
        generators: Random generator of each environment.
        chunks: Chunks of a stream.
        ctx: Tokens in a chunk.
        num_classes: Classes of the task; None if no targets are needed.

    Returns:
        Content types of each environment's chunks; content, int64 of shape (num_envs, chunks, ctx)
        or float32 (num_envs, chunks, ctx, channels); targets, int64 of shape (num_envs, chunks,
        ctx), or None.

    Raises:
        ValueError: A stream has another shape, dtype or range.
    """
    name = f"dataset {type(dataset).__name__}"
    streams = [dataset.sample(generator, chunks, ctx) for generator in generators]
    for stream in streams:
        if not isinstance(stream, Stream):
            raise ValueError(f"{name} must give a Stream, it gave a {type(stream).__name__}")
        try:
            _check_content(stream, chunks, ctx, dataset)
            if num_classes is not None:
                _check_targets(stream, num_classes, dataset.vocab_size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    stacked = np.stack([stream.content for stream in streams])
    content = torch.from_numpy(stacked.astype(np.float32 if dataset.channels else np.int64))
    targets = None
    if num_classes is not None:
        given = [each.targets for each in streams if each.targets is not None]
        targets = torch.from_numpy(np.stack(given)) if given else next_token_targets(content)
    content_types = [tuple(map(printable, stream.content_types)) for stream in streams]
    return content_types, content, targets


def _check_content(stream: Stream, chunks: int, ctx: int, dataset: Dataset) -> None:
    content, channels, vocab_size = stream.content, dataset.channels, dataset.vocab_size
    size = (chunks, ctx, channels) if channels else (chunks, ctx)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"content must be a NumPy array, it is a {type(content).__name__}")
    types = len(stream.content_types)
    if content.shape != size or types != chunks:
        wanted = f"shape {size} and {chunks} content types"
        raise ValueError(f"content must have {wanted}, it has {content.shape} and {types}")
    name = "bytes" if vocab_size == BYTES else "token ids"
    wanted = "floating frames" if channels else f"{name}, integers in 0..{vocab_size - 1}"
    if not np.issubdtype(content.dtype, np.floating if channels else np.integer):
        raise ValueError(f"content must be {wanted}, it is {content.dtype}")
    if channels and not np.isfinite(content).all():
        raise ValueError("content must be finite numbers, it holds NaN or infinite ones")
    if not channels and not 0 <= content.min() <= content.max() < vocab_size:
        raise ValueError(f"content must be {wanted}, it is in {content.min()}..{content.max()}")


def _check_targets(stream: Stream, num_classes: int, vocab_size: int) -> None:
    content, targets = stream.content, stream.targets
    if targets is None:
        if content.ndim > 2 or num_classes != vocab_size:
            raise ValueError(
                f"streams have no targets, but the layers have {num_classes} classes, not next "
                "tokens: add targets, or use another reward than 'task' or other layers"
            )
        return
    classes = targets[targets != NO_TARGET]
    is_valid = targets.shape == content.shape[:2] and np.issubdtype(targets.dtype, np.int64)
    if not is_valid or (classes.size and not 0 <= classes.min() <= classes.max() < num_classes):
        found = f" in {classes.min()}..{classes.max()}" if classes.size else ""
        raise ValueError(
            f"targets must be int64 of shape {content.shape[:2]}, 0..{num_classes - 1} or "
            f"{NO_TARGET}, they are {targets.dtype} of shape {targets.shape}{found}"
        )


def next_token_targets(content: Tensor) -> Tensor:
    """Next tokens, int64 (..., ctx), as targets; none for the last token of a chunk."""
    return torch.nn.functional.pad(content[..., 1:], (0, 1), value=NO_TARGET)


def random_slice(
    generator: np.random.Generator, text: NDArray[Any], tokens: int, name: str
) -> NDArray[Any]:
    """Take a random slice of ``tokens`` tokens of a text; a `ValueError` if it is shorter."""
    if len(text) < tokens:
        hint = f"an episode reads {tokens}: use fewer chunks or a smaller ctx"
        raise ValueError(f"{name} has {len(text)} tokens, {hint}")
    start = generator.integers(len(text) - tokens + 1)
    return text[start : start + tokens]


def sha256(content: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(content.tobytes()).hexdigest()


def default_mixture(split: str) -> MixtureDataset:
    """The dataset of `spangym/SpanBudget-v0`: five content types, equally frequent."""
    return MixtureDataset(
        [
            TextDataset(split, ["documentation"]),
            TextDataset(split, ["code"]),
            NoiseDataset(string.digits.encode(), "random digits"),
            RepeatedLetterDataset(),
            RepetitionDataset(TextDataset(split)),
        ]
    )


def validate_split(split: str) -> None:
    """Raise a `ValueError` if a split is unknown."""
    if split not in SPLITS:
        raise ValueError(f"split {short_repr(split)} is unknown{did_you_mean(str(split), SPLITS)}")


def train_eval_split(text: NDArray[Any], split: str) -> NDArray[Any]:
    """Return the first four fifths for ``train``, the last fifth for ``evaluation``."""
    boundary = len(text) * 4 // 5
    return text[:boundary] if split == "train" else text[boundary:]
