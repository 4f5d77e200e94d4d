"""What the models of a pilot learn: streams to train on, and sets that they are judged by."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.data.dataset import BYTES, NO_TARGET, Dataset, Stream, next_token_targets
from spangym.envs.data.dataset_registry import make_dataset
from spangym.experiments.pilot.augmentation import spec_augment
from spangym.experiments.pilot.corpus import Corpus, Utterances, decode, encode
from spangym.experiments.pilot.models import MELS, STRIDE, PilotModel, SpeechModel
from spangym.experiments.pilot.pilot_study import PilotStudy, TextConfig
from spangym.experiments.pilot.recordings import load_recordings
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus
from spangym.experiments.runner.fingerprint import DatasetHashes

MAX_MASK_SIZES = {"time": 25, "channels": 15}
"""Frames, and channels, that a mask may cover."""

_EVAL_SEED = 1_000_000


@dataclass(frozen=True)
class EvalSet:
    """What models are judged by.

    Attributes:
        content: Bytes, int64 of shape (batch, chunks, ctx), or frames, float32 of shape (batch,
            chunks, ctx, channels).
        targets: Classes, int64 of shape (batch, chunks, ctx).
        texts: What is said or written in each batch element.
    """

    content: Tensor
    targets: Tensor
    texts: tuple[str, ...]

    def head(self, batch_size: int) -> EvalSet:
        """The first batch elements of it."""
        return EvalSet(
            self.content[:batch_size], self.targets[:batch_size], self.texts[:batch_size]
        )


@dataclass(frozen=True)
class ErrorRates:
    """How far off a model is.

    Attributes:
        error: Word error rate as a share; bits a byte of text.
        character_error: Character error rate as a share; NaN of text.
    """

    error: float
    character_error: float


class Task(ABC):
    """What models learn.

    Attributes:
        dataset: What is trained on.
        eval_sets: What models are judged by, by the name of the split.
        num_classes: What models tell apart.
        ctx: Tokens of a chunk.
        chunks: Chunks of a stream.
    """

    dataset: Dataset
    eval_sets: dict[str, EvalSet]
    num_classes: int
    ctx: int
    chunks: int

    @abstractmethod
    def error_rates(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> ErrorRates:
        """How far off a model is.

        Args:
            model: The model.
            hidden: What left its last block, shape (batch, chunks, tokens, dims).
            losses: Its losses, shape (batch, chunks).
            texts: What was to be found.
        """


class SpeechTask(Task):
    """Characters of utterances.

    Args:
        corpus: What is said, and by whom.
        masking: How much of each utterance may be masked, as a share of `MAX_MASK_SIZES`.

    Raises:
        ValueError: The extra ``speech`` is not installed.
    """

    chunks = 1

    def __init__(self, corpus: Corpus, masking: float) -> None:
        _import_jiwer()
        self.alphabet = corpus.alphabet
        self.num_classes = 1 + len(self.alphabet)
        self.dataset = UtteranceDataset(corpus.train, self.alphabet, masking)
        self.ctx = corpus.train.frames.shape[1] // STRIDE
        splits = {"seen": corpus.test_seen, "unseen": corpus.test_unseen}
        self.eval_sets = {
            name: self._make_eval_set(utterances)
            for name, utterances in splits.items()
            if utterances is not None
        }

    def _make_eval_set(self, utterances: Utterances) -> EvalSet:
        targets = pad_targets(encode(utterances.texts, self.alphabet), self.ctx)
        return EvalSet(
            torch.from_numpy(stack_frames(utterances.frames))[:, None],
            torch.from_numpy(targets)[:, None],
            utterances.texts,
        )

    def transcribe(self, model: PilotModel, hidden: Tensor) -> list[str]:
        """What a model has understood, greedily.

        Args:
            model: The recognizer.
            hidden: What left its last block, shape (batch, chunks, tokens, dims).
        """
        assert isinstance(model, SpeechModel)
        return [
            decode(row, self.alphabet)
            for row in model.greedy_decode_ids(hidden[:, 0]).cpu().numpy()
        ]

    def error_rates(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> ErrorRates:
        """Word and character error rates over all utterances together."""
        del losses
        jiwer = _import_jiwer()
        understood = self.transcribe(model, hidden)
        return ErrorRates(jiwer.wer([*texts], understood), jiwer.cer([*texts], understood))


class TextTask(Task):
    """Bytes of text, each from those before it.

    Args:
        config: What is read.

    Raises:
        ValueError: The source is unknown, cannot be read or is not of bytes.
    """

    num_classes = BYTES

    def __init__(self, config: TextConfig) -> None:
        self.dataset = make_dataset(config.dataset, "train")
        if self.dataset.channels:
            raise ValueError(f"source {config.dataset!r} must be of bytes, it is of frames")
        self.ctx, self.chunks = config.ctx, config.chunks
        held_out = make_dataset(config.dataset, "evaluation")
        generators = [
            np.random.default_rng(_EVAL_SEED + index) for index in range(config.evaluation_streams)
        ]
        content, targets = sample_batch(held_out, generators, self.chunks, self.ctx)
        texts = tuple(bytes(row.flatten().tolist()).decode("utf-8", "replace") for row in content)
        self.eval_sets = {"held out": EvalSet(content, targets, texts)}

    def error_rates(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> ErrorRates:
        """Bits a byte."""
        del model, hidden, texts
        return ErrorRates(losses.mean().item(), float("nan"))


class UtteranceDataset(Dataset):
    """Utterances at equal odds, with some of their frames and channels masked, one a chunk.

    Frames come four at a time, as the recognizer's front takes them.

    Args:
        utterances: What is drawn from.
        alphabet: Characters, in the order of their classes.
        masking: How much of each utterance may be masked, as a share of `MAX_MASK_SIZES`.
    """

    channels = STRIDE * MELS

    def __init__(self, utterances: Utterances, alphabet: str, masking: float) -> None:
        self._utterances = utterances
        self._mask_sizes = {name: int(most * masking) for name, most in MAX_MASK_SIZES.items()}
        self._targets = encode(utterances.texts, alphabet)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw an utterance for each chunk.

        Raises:
            ValueError: Chunks are shorter than the utterances.
        """
        frames = self._utterances.frames
        if ctx * STRIDE != frames.shape[1]:
            raise ValueError(f"ctx must be {frames.shape[1] // STRIDE}, got {ctx}")
        drawn = generator.integers(len(frames), size=chunks)
        lengths = self._utterances.lengths[drawn]
        masked = spec_augment(frames[drawn], generator, lengths, **self._mask_sizes)
        content_types = tuple(self._utterances.speakers[index] for index in drawn)
        return Stream(stack_frames(masked), content_types, pad_targets(self._targets[drawn], ctx))


def _import_jiwer() -> Any:
    # Of the extra: imported where speech is, so that text needs none.
    try:
        import jiwer
    except ImportError as error:
        raise ValueError("speech needs the extra: pip install 'spangym[speech]'") from error
    return jiwer


def stack_frames(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frames (utterances, frames, channels), four at a time: (utterances, tokens, 4 channels)."""
    return np.ascontiguousarray(frames).reshape(len(frames), -1, STRIDE * frames.shape[2])


def pad_targets(targets: NDArray[np.int64], ctx: int) -> NDArray[np.int64]:
    """Targets with as many columns as there are tokens."""
    return np.pad(targets, ((0, 0), (0, ctx - targets.shape[1])), constant_values=NO_TARGET)


def sample_batch(
    dataset: Dataset, generators: list[np.random.Generator], chunks: int, ctx: int
) -> tuple[Tensor, Tensor]:
    """Streams and their targets, batch elements first, a batch element from each generator."""
    streams = [dataset.sample(generator, chunks, ctx) for generator in generators]
    dtype = np.float32 if dataset.channels else np.int64
    content = torch.from_numpy(np.stack([each.content for each in streams]).astype(dtype))
    given = [each.targets for each in streams if each.targets is not None]
    return content, torch.from_numpy(np.stack(given)) if given else next_token_targets(content)


def batch_rngs(seed: int, batch: int, batch_size: int) -> list[np.random.Generator]:
    """Generators of the batch elements of a batch: all variants read the same batches in the same order."""
    return [np.random.default_rng([seed, batch, index]) for index in range(batch_size)]


def make_task(study: PilotStudy) -> Task:
    """What the models of a study learn.

    Raises:
        ValueError: What is to be read is not there, or not as it should be.
    """
    if study.task == "text":
        return TextTask(study.text)
    return SpeechTask(_load_corpus(study.recordings, study.speech), study.masking)


def validate_task(study: PilotStudy) -> None:
    """Refuse a study whose content is too short, or not there.

    Raises:
        ValueError: The message says what would be right.
    """
    try:
        task = make_task(study)
        sample_batch(task.dataset, batch_rngs(0, 0, 1), task.chunks + 1, task.ctx)
    except ValueError as error:
        where = " (in the study's table text)" if study.task == "text" else ""
        raise ValueError(f"{error}{where}") from error


def fingerprint(study: PilotStudy, hashes: DatasetHashes) -> dict[str, Any]:
    """Hashes of what is trained on and judged by.

    Args:
        study: The study.
        hashes: Of what sources read.

    Raises:
        ValueError: What is to be read is not there, or not as it should be.
    """
    if study.task == "text":
        return {study.text.dataset: hashes.get(study.text.dataset)}
    return {"speech": _load_corpus(study.recordings, study.speech).content_sha256}


@functools.lru_cache(maxsize=1)
def _load_corpus(recordings: str, speech: SyntheticSpeechConfig) -> Corpus:
    """Utterances; kept, since every training of a process reads the same."""
    if recordings:
        return load_recordings(Path(recordings), 0, STRIDE)
    return build_corpus(speech)
