"""Where the streams come from: real text that every CPython carries."""

from __future__ import annotations

import functools
import hashlib
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "evaluation")
"""The first four fifths of a text are for training, the last fifth for evaluation."""


class Stream(NamedTuple):
    """One stream of an episode.

    Attributes:
        tokens: Bytes, uint8 of shape (tokens,).
        kind: What the stream is, for ``info``.
    """

    tokens: NDArray[np.uint8]
    kind: str


class Source(Protocol):
    """Draws streams."""

    def stream(self, generator: np.random.Generator, tokens: int) -> Stream:
        """Draw a stream of a length, all randomness from the generator."""
        ...

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of what is read, by kind: a run's numbers hang on it."""
        ...


class TextSource:
    """Documentation and source code of the running CPython, read offline, as bytes.

    ``documentation`` is `pydoc_data.topics`, the language reference behind ``help()``; ``code`` is
    the standard library's top-level modules. Each stream comes from one of the two, at equal odds,
    from a random place. The texts differ between versions of Python: see `content_hashes`.

    Args:
        split: ``train`` or ``evaluation``.

    Example:
        >>> stream = TextSource("train").stream(np.random.default_rng(0), 40)
        >>> stream.kind, stream.tokens.shape, stream.tokens.dtype
        ('code', (40,), dtype('uint8'))
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._texts = {kind: _cut(text, split) for kind, text in _texts().items()}

    def __reduce__(self) -> tuple[type[TextSource], tuple[str]]:
        """Copies and pickles read the texts again rather than carry them."""
        return TextSource, (self._split,)

    def stream(self, generator: np.random.Generator, tokens: int) -> Stream:
        """Draw a stream of a length.

        Raises:
            ValueError: The texts are shorter than that.
        """
        kinds = list(self._texts)
        kind = kinds[generator.integers(len(kinds))]
        text = self._texts[kind]
        if len(text) < tokens:
            raise ValueError(
                f"the {kind} text has {len(text)} bytes, an episode reads {tokens}: "
                "use fewer chunks or a smaller ctx"
            )
        start = generator.integers(len(text) - tokens + 1)
        return Stream(text[start : start + tokens], kind)

    def content_hashes(self) -> dict[str, str]:
        """SHA-256 of the texts that are read, by kind."""
        return {
            kind: hashlib.sha256(text.tobytes()).hexdigest() for kind, text in self._texts.items()
        }


def _cut(text: NDArray[np.uint8], split: str) -> NDArray[np.uint8]:
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


SOURCES: dict[str, Callable[[str], Source]] = {"text": TextSource}
"""Sources by name; each is made for a split."""
