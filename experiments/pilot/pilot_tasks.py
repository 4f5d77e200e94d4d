"""Tasks of a pilot: streams to train on and sets to evaluate on."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.data.dataset import BYTES, NO_TARGET, Dataset, Stream
from spangym.envs.data.dataset_registry import find_dataset_class, make_dataset
from spangym.envs.data.log_mel import MELS
from spangym.envs.data.sample_batch import sample_batch
from spangym.experiments.pilot.augmentation import spec_augment
from spangym.experiments.pilot.corpus import Corpus, Utterances, decode, encode
from spangym.experiments.pilot.models import STRIDE, PilotModel, SpeechModel
from spangym.experiments.pilot.pilot_study import PilotStudy, TextConfig
from spangym.experiments.pilot.recordings import load_recordings
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.utils.importing import is_import_path, module_sha256

_MAX_MASKED_FRAMES = 25
_MAX_MASKED_CHANNELS = 15
_EVAL_SEED = 1_000_000


@dataclass(frozen=True)
class EvalSet:
    """One split that models are evaluated on.

    Attributes:
        content: Bytes, int64 of shape (batch, chunks, ctx), or frames, float32 of shape (batch,
            chunks, ctx, channels).
        targets: Classes, int64 of shape (batch, chunks, ctx).
        texts: Transcript or text of each sequence.
    """

    content: Tensor
    targets: Tensor
    texts: tuple[str, ...]

    def head(self, count: int) -> EvalSet:
        """Return the first sequences."""
        return EvalSet(self.content[:count], self.targets[:count], self.texts[:count])


class ErrorRates(NamedTuple):
    """Word and character error rates as fractions; bits a byte and NaN for text."""

    error: float
    character_error: float


class Task(ABC):
    """A task that models learn.

    Attributes:
        dataset: Training streams.
        eval_sets: Evaluation sets by the name of the split.
        num_classes: Number of target classes.
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
        """Return the error of a model whose last block's output is ``hidden``, against the texts.

        Shapes are (batch, chunks, tokens, dims) and, for losses in bits a target, (batch, chunks).
        """


class SpeechTask(Task):
    """Recognition of the characters of a corpus; ``masking`` is the strength of SpecAugment."""

    chunks = 1

    def __init__(self, corpus: Corpus, masking: float) -> None:
        _import_jiwer()
        self.alphabet = corpus.alphabet
        self.num_classes = 1 + len(self.alphabet)
        self.dataset = UtteranceDataset(corpus.train, self.alphabet, masking)
        self.ctx = corpus.train.frames.shape[1] // STRIDE
        self.eval_sets = {}
        for name, split in (("seen", corpus.test_seen), ("unseen", corpus.test_unseen)):
            if split is not None:
                content = torch.from_numpy(stack_frames(split.frames))[:, None]
                targets = pad_targets(encode(split.texts, self.alphabet), self.ctx)
                self.eval_sets[name] = EvalSet(
                    content, torch.from_numpy(targets)[:, None], split.texts
                )

    def error_rates(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> ErrorRates:
        """Return word and character error rates of greedy transcripts over all utterances."""
        del losses
        assert isinstance(model, SpeechModel)
        jiwer = _import_jiwer()
        class_ids = model.greedy_decode_ids(hidden[:, 0]).cpu().numpy()
        transcripts = [decode(row, self.alphabet) for row in class_ids]
        return ErrorRates(jiwer.wer([*texts], transcripts), jiwer.cer([*texts], transcripts))


class TextTask(Task):
    """Prediction of the next byte of a text."""

    num_classes = BYTES

    def __init__(self, config: TextConfig) -> None:
        self.dataset = make_dataset(config.dataset, "train")
        if self.dataset.channels or self.dataset.vocab_size != BYTES:
            found = "frames" if self.dataset.channels else "token ids"
            raise ValueError(f"dataset {config.dataset!r} must be of bytes, got {found}")
        self.ctx, self.chunks = config.ctx, config.chunks
        generators = [
            np.random.default_rng(_EVAL_SEED + index) for index in range(config.evaluation_streams)
        ]
        held_out = make_dataset(config.dataset, "evaluation")
        content, targets = sample_batch(held_out, generators, self.chunks, self.ctx)
        texts = tuple(bytes(row.flatten().tolist()).decode("utf-8", "replace") for row in content)
        self.eval_sets = {"held out": EvalSet(content, targets, texts)}

    def error_rates(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> ErrorRates:
        """Return bits a byte."""
        del model, hidden, texts
        return ErrorRates(losses.mean().item(), float("nan"))


class UtteranceDataset(Dataset):
    """Random training utterances under SpecAugment, one a chunk, four frames a token."""

    channels = STRIDE * MELS

    def __init__(self, utterances: Utterances, alphabet: str, masking: float) -> None:
        self._utterances = utterances
        self._max_frames = int(_MAX_MASKED_FRAMES * masking)
        self._max_channels = int(_MAX_MASKED_CHANNELS * masking)
        self._targets = encode(utterances.texts, alphabet)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw an utterance for each chunk; ``ctx`` must be their length."""
        frames = self._utterances.frames
        if ctx * STRIDE != frames.shape[1]:
            raise ValueError(f"ctx must be {frames.shape[1] // STRIDE}, got {ctx}")
        drawn = generator.integers(len(frames), size=chunks)
        masked = spec_augment(
            frames[drawn],
            generator,
            self._utterances.lengths[drawn],
            time=self._max_frames,
            channels=self._max_channels,
        )
        content_types = tuple(self._utterances.speakers[index] for index in drawn)
        return Stream(stack_frames(masked), content_types, pad_targets(self._targets[drawn], ctx))


def _import_jiwer() -> Any:
    # An optional extra: text needs none.
    try:
        import jiwer
    except ImportError as error:
        raise ValueError("speech needs the extra: pip install 'spangym[speech]'") from error
    return jiwer


def stack_frames(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stack four frames a token: (batch, frames, channels) to (batch, tokens, 4 channels)."""
    return np.ascontiguousarray(frames).reshape(len(frames), -1, STRIDE * frames.shape[2])


def pad_targets(targets: NDArray[np.int64], ctx: int) -> NDArray[np.int64]:
    """Pad targets to as many columns as tokens."""
    return np.pad(targets, ((0, 0), (0, ctx - targets.shape[1])), constant_values=NO_TARGET)


def batch_rngs(seed: int, batch: int, batch_size: int) -> list[np.random.Generator]:
    """Return the generators of a batch's sequences, the same for all variants."""
    return [np.random.default_rng([seed, batch, index]) for index in range(batch_size)]


def make_task(study: PilotStudy) -> Task:
    """Make the task of a study; a ValueError says why its content cannot be read."""
    if study.task == "text":
        return TextTask(study.text)
    return SpeechTask(_load_corpus(study.recordings, study.speech), study.masking)


def validate_task(study: PilotStudy) -> None:
    """Raise a ValueError if the content of a study cannot be read or is too short."""
    try:
        task = make_task(study)
        sample_batch(task.dataset, batch_rngs(0, 0, 1), task.chunks + 1, task.ctx)
    except ValueError as error:
        where = " (in the study's table text)" if study.task == "text" else ""
        raise ValueError(f"{error}{where}") from error


def fingerprint(study: PilotStudy, hashes: DatasetHashes) -> dict[str, Any]:
    """Return the hashes of a study's content."""
    if study.task == "text":
        name = study.text.dataset
        module = {"module": module_sha256(find_dataset_class(name))} if is_import_path(name) else {}
        return {name: {**hashes.get(name), **module}}
    return {"speech": _load_corpus(study.recordings, study.speech).content_sha256}


@functools.lru_cache(maxsize=1)
def _load_corpus(recordings: str, speech: SyntheticSpeechConfig) -> Corpus:
    # Every training of a process reads the same corpus.
    if recordings:
        return load_recordings(Path(recordings), 0, STRIDE)
    return build_corpus(speech)
