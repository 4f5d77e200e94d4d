"""Where the streams come from: what a source is, and those that every CPython carries or draws."""

from __future__ import annotations

import functools
import hashlib
import string
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPLITS = ("train", "evaluation")
"""The first four fifths of a text are for training, the last fifth for evaluation."""

BYTES = 256

NO_TARGET = -100
"""Stands in targets where there is nothing to predict; PyTorch's losses ignore it."""


class Stream(NamedTuple):
    """The chunks of one episode, one after the other.

    Attributes:
        content: Bytes, uint8 of shape (chunks, ctx), or frames, float32 of shape (chunks, ctx,
            channels).
        kinds: What each chunk is, for ``info``.
        targets: What a trained stack is to predict at each token: classes, int64 of shape (chunks,
            ctx), `NO_TARGET` where nothing; the next byte of the chunk if None.
    """

    content: NDArray[Any]
    kinds: tuple[str, ...]
    targets: NDArray[np.int64] | None = None


class Source(ABC):
    """Draws streams. One's own source needs only `stream`.

    Attributes:
        channels: Channels of a frame; 0 for sources of bytes.

    Example:
        >>> class Ramp(Source):
        ...     def stream(self, generator, chunks, ctx):
        ...         start = generator.integers(256)
        ...         ramp = (start + np.arange(chunks * ctx)) % 256
        ...         return Stream(ramp.astype(np.uint8).reshape(chunks, ctx), ("ramp",) * chunks)
        >>> Ramp().stream(np.random.default_rng(0), 2, 3).content.tolist()
        [[217, 218, 219], [220, 221, 222]]
    """

    channels: int = 0

    @abstractmethod
    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw a stream, all randomness from the generator.

        Args:
            generator: What to draw from.
            chunks: Chunks of the stream.
            ctx: Tokens in a chunk.

        Raises:
            ValueError: What is read is too short.
        """

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of what is read, by kind: a run's numbers hang on it. Nothing by default."""
        return {}


class TextSource(Source):
    """Documentation and source code of the running CPython, read offline, as bytes.

    ``documentation`` is `pydoc_data.topics`, the language reference behind ``help()``; ``code`` is
    the standard library's top-level modules. Each stream comes from one of the kinds, at equal
    odds, from a random place. The texts differ between versions of Python: see `content_hashes`.

    Args:
        split: ``train`` or ``evaluation``.
        kinds: Which of ``documentation`` and ``code``.

    Example:
        >>> stream = TextSource("train").stream(np.random.default_rng(0), 2, 40)
        >>> stream.kinds, stream.content.shape, stream.content.dtype
        (('code', 'code'), (2, 40), dtype('uint8'))
    """

    def __init__(self, split: str, kinds: Sequence[str] = ("documentation", "code")) -> None:
        self._split = split
        self._kinds = tuple(kinds)
        self._texts = {kind: cut(_texts()[kind], split) for kind in kinds}

    def __reduce__(self) -> tuple[type[TextSource], tuple[str, tuple[str, ...]]]:
        """Copies and pickles read the texts again rather than carry them."""
        return TextSource, (self._split, self._kinds)

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw a stream from one of the texts.

        Raises:
            ValueError: The texts are shorter than that.
        """
        kind = self._kinds[generator.integers(len(self._kinds))]
        passage = draw_passage(generator, self._texts[kind], chunks * ctx, f"the {kind} text")
        return Stream(passage.reshape(chunks, ctx), (kind,) * chunks)

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of the texts that are read, by kind."""
        return {kind: sha256(text) for kind, text in self._texts.items()}


class NoiseSource(Source):
    """Bytes drawn at equal odds, each by itself: nothing to be learnt from a context.

    Args:
        alphabet: The bytes; all 256 by default.
        kind: What the chunks are called.
    """

    def __init__(self, alphabet: bytes = bytes(range(256)), kind: str = "noise") -> None:
        self._alphabet = np.frombuffer(alphabet, np.uint8)
        self._kind = kind

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw every byte anew."""
        drawn = generator.integers(len(self._alphabet), size=(chunks, ctx))
        return Stream(self._alphabet[drawn], (self._kind,) * chunks)


class LettersSource(Source):
    """Chunks of one letter, over and over."""

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw a letter for each chunk."""
        letters = np.frombuffer(string.ascii_lowercase.encode(), np.uint8)
        drawn = letters[generator.integers(len(letters), size=chunks)]
        return Stream(np.repeat(drawn[:, None], ctx, axis=1), ("repeated letters",) * chunks)


class RepetitionSource(Source):
    """Chunks in which one passage of another source stands over and over.

    The passage's length is drawn on a logarithmic scale, so that short and long distances to the
    last repeat are alike frequent.

    Args:
        source: What the passages are drawn from, a source of bytes.
        shortest: Tokens of the shortest passage.
        longest: Tokens of the longest; three quarters of a chunk if that is less.

    Raises:
        ValueError: The source is of frames, or the lengths are none.
    """

    def __init__(self, source: Source, shortest: int = 8, longest: int = 192) -> None:
        if source.channels:
            raise ValueError("source must be of bytes, it is of frames")
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"shortest must be in 1..longest, got shortest={shortest}, longest={longest}"
            )
        self._source = source
        self._shortest = shortest
        self._longest = longest

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw a passage for each chunk."""
        longest = max(1, min(self._longest, ctx * 3 // 4))
        shortest = min(self._shortest, longest)
        bounds = np.log([shortest, longest + 1])
        rows = []
        for _ in range(chunks):
            length = min(int(np.exp(generator.uniform(*bounds))), longest)
            passage = self._source.stream(generator, 1, length).content[0]
            rows.append(np.resize(passage, ctx))
        return Stream(np.stack(rows), ("repeated text",) * chunks)

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of what the passages are drawn from."""
        return self._source.content_hashes()


class MixtureSource(Source):
    """Chunks of several sources; each chunk is of one of them, drawn by itself.

    Args:
        sources: The sources, all of bytes or all of frames with as many channels.
        weights: How often each is drawn; alike often if None.

    Raises:
        ValueError: There is no source, a weight is negative or all are 0, or the sources do not
            go together.

    Example:
        >>> mixture = MixtureSource([NoiseSource(b"01", "bits"), LettersSource()], [3, 1])
        >>> stream = mixture.stream(np.random.default_rng(2), 4, 6)
        >>> stream.kinds
        ('bits', 'bits', 'repeated letters', 'bits')
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        if not sources:
            raise ValueError("sources must name at least one source")
        odds = np.array([1.0] * len(sources) if weights is None else list(weights))
        if odds.shape != (len(sources),) or (odds < 0).any() or not 0 < odds.sum() < np.inf:
            raise ValueError(
                f"weights must be {len(sources)} numbers, none negative and not all 0, "
                f"got {odds.tolist()}"
            )
        if len({source.channels for source in sources}) > 1:
            raise ValueError(
                "sources of a mixture must have the same channels, got "
                f"{[source.channels for source in sources]}"
            )
        self._sources = tuple(sources)
        self._odds = odds / odds.sum()
        self.channels = sources[0].channels

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw each chunk from one of the sources.

        Raises:
            ValueError: One source says what is to be predicted, and another does not.
        """
        drawn = generator.choice(len(self._sources), size=chunks, p=self._odds)
        streams = [self._sources[index].stream(generator, 1, ctx) for index in drawn]
        targets = [each.targets for each in streams if each.targets is not None]
        if targets and len(targets) < chunks:
            raise ValueError("sources of a mixture must all say what is to be predicted, or none")
        return Stream(
            np.concatenate([each.content for each in streams]),
            tuple(each.kinds[0] for each in streams),
            np.concatenate(targets) if targets else None,
        )

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of what the sources read, by kind."""
        return {
            kind: digest
            for source in self._sources
            for kind, digest in source.content_hashes().items()
        }


def check_stream(stream: Stream, chunks: int, ctx: int, channels: int) -> None:
    """Refuse a stream that is not what was asked for.

    Raises:
        ValueError: The message says what would be right.
    """
    content, size = stream.content, (chunks, ctx, channels) if channels else (chunks, ctx)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"content must be a NumPy array, it is a {type(content).__name__}")
    if content.shape != size or len(stream.kinds) != chunks:
        raise ValueError(
            f"content must have shape {size} and {chunks} kinds, it has {content.shape} and "
            f"{len(stream.kinds)}"
        )
    wanted = np.floating if channels else np.integer
    if not np.issubdtype(content.dtype, wanted):
        what = "floating frames" if channels else "bytes, integers in 0..255"
        raise ValueError(f"content must be {what}, it is {content.dtype}")
    if channels and not np.isfinite(content).all():
        raise ValueError("content must be finite numbers, it holds NaN or infinite ones")
    if not channels and not 0 <= content.min() <= content.max() <= 255:
        raise ValueError(
            f"content must be bytes, integers in 0..255, it is in {content.min()}..{content.max()}"
        )


def check_targets(stream: Stream, classes: int) -> None:
    """Refuse a stream that does not go with a task of so many classes.

    Raises:
        ValueError: The message says what would be right.
    """
    content, targets = stream.content, stream.targets
    if targets is None:
        if content.ndim > 2 or classes != BYTES:
            raise ValueError(
                f"its streams have no targets, and the layers tell {classes} classes apart, not "
                "next bytes: give it targets, or use another reward than 'task' or other layers"
            )
        return
    fits = targets.shape == content.shape[:2] and np.issubdtype(targets.dtype, np.int64)
    named = targets[targets != NO_TARGET]
    if not fits or (named.size and not 0 <= named.min() <= named.max() < classes):
        raise ValueError(
            f"targets must be int64 of shape {content.shape[:2]}, 0..{classes - 1} or {NO_TARGET}, "
            f"they are {targets.dtype} of shape {targets.shape}"
            + (f" in {named.min()}..{named.max()}" if named.size else "")
        )


def next_tokens(content: Tensor) -> Tensor:
    """What a language model is to predict: of every token but the last of a chunk, the next one.

    Args:
        content: Bytes, int64 of shape (..., ctx).
    """
    return torch.nn.functional.pad(content[..., 1:], (0, 1), value=NO_TARGET)


def draw_passage(
    generator: np.random.Generator, text: NDArray[Any], tokens: int, name: str
) -> NDArray[Any]:
    """A passage from a random place.

    Raises:
        ValueError: The text is shorter than that; the message calls it by the name.
    """
    if len(text) < tokens:
        raise ValueError(
            f"{name} has {len(text)} tokens, an episode reads {tokens}: "
            "use fewer chunks or a smaller ctx"
        )
    start = generator.integers(len(text) - tokens + 1)
    return text[start : start + tokens]


def sha256(content: NDArray[Any]) -> str:
    """SHA-256 of an array's numbers."""
    return hashlib.sha256(content.tobytes()).hexdigest()


def mixed(split: str) -> MixtureSource:
    """What `spangym/SpanBudget-v0` reads: five kinds, alike often."""
    return MixtureSource(
        [
            TextSource(split, ["documentation"]),
            TextSource(split, ["code"]),
            NoiseSource(string.digits.encode(), "random digits"),
            LettersSource(),
            RepetitionSource(TextSource(split)),
        ]
    )


def cut(text: NDArray[Any], split: str) -> NDArray[Any]:
    """The first four fifths for training, the last fifth for evaluation."""
    boundary = len(text) * 4 // 5
    return text[:boundary] if split == "train" else text[boundary:]


@functools.cache
def _texts() -> dict[str, NDArray[np.uint8]]:
    from pydoc_data.topics import topics

    documentation = "\n".join(topics[name] for name in sorted(topics)).encode()
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = b"\n".join(path.read_bytes() for path in modules)
    texts = {"documentation": documentation, "code": code}
    return {kind: np.frombuffer(text, dtype=np.uint8) for kind, text in texts.items()}
