"""Datasets of bytes as token ids of a pretrained model."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spangym.envs.data.dataset import Dataset, Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTES_PER_TOKEN = 4
"""About the mean of English text; other text is sampled again, with twice the bytes."""

_MAX_BYTES_PER_TOKEN = 256


class TokenDataset(Dataset):
    """Chunks of a dataset of bytes, tokenized.

    Each chunk is sampled and tokenized on its own, so that it depends on no other chunk. Bytes are
    read as UTF-8, the text that tokenizers are made for; bytes that are no UTF-8, such as a
    character that the start of a chunk divides, are left out. A chunk starts with the special
    tokens that the tokenizer puts before a text, if any.

    Args:
        dataset: Dataset of bytes.
        tokenizer: Tokenizer of a Transformers model.

    Attributes:
        dataset: The dataset of bytes.
        tokenizer: The tokenizer; copies of the dataset share it.
        vocab_size: Number of tokens in the vocabulary.

    Raises:
        ValueError: The dataset is not of bytes.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        if dataset.channels or dataset.vocab_size != Dataset.vocab_size:
            found = "frames" if dataset.channels else "tokens"
            raise ValueError(f"dataset must be of bytes, it is of {found}")
        self.dataset, self.tokenizer = dataset, tokenizer
        self.vocab_size = len(tokenizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenDataset:
        """The copy shares the tokenizer, which has no state of its own."""
        return TokenDataset(copy.deepcopy(self.dataset, memo), self.tokenizer)

    def sample(self, generator: Generator, chunks: int, ctx: int) -> Stream:
        """Sample each chunk and tokenize it.

        Raises:
            ValueError: The dataset is too short, or its text gives too few tokens.
        """
        drawn = [self._sample_chunk(generator, ctx) for _ in range(chunks)]
        return Stream(np.stack([ids for ids, _ in drawn]), tuple(name for _, name in drawn))

    def _sample_chunk(self, generator: Generator, ctx: int) -> tuple[NDArray[np.int64], str]:
        state = generator.bit_generator.state
        size, ids = _BYTES_PER_TOKEN * ctx, []
        while size <= _MAX_BYTES_PER_TOKEN * ctx:
            # Sampling again from the same state keeps content types equally frequent, whether
            # their tokens are short or long.
            generator.bit_generator.state = state
            stream = self.dataset.sample(generator, 1, size)
            text = stream.content[0].astype(np.uint8).tobytes().decode("utf-8", errors="ignore")
            ids = self.tokenizer(text, verbose=False).input_ids
            if len(ids) >= ctx:
                return np.array(ids[:ctx], np.int64), stream.content_types[0]
            size *= 2
        raise ValueError(f"{size // 2} bytes give {len(ids)} tokens, a chunk needs {ctx}")

    def fingerprint(self) -> dict[str, str]:
        """Fingerprint of the dataset of bytes, and SHA-256 of the tokenizer."""
        return self.dataset.fingerprint() | {"tokenizer": _tokenizer_sha256(self.tokenizer)}


def _tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description = json.loads(backend.to_str()) if backend else {"vocab": tokenizer.get_vocab()}
    # Calls of the tokenizer change these two.
    for name in ("truncation", "padding"):
        description.pop(name, None)
    text = json.dumps([type(tokenizer).__name__, description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
