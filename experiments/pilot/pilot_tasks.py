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

from spangym.envs.data.dataset import BYTES, NO_TARGET, Source, Stream, next_tokens
from spangym.envs.data.dataset_registry import open_source
from spangym.experiments.pilot.augmentation import mask_frames
from spangym.experiments.pilot.corpus import Corpus, Utterances, decode, encode
from spangym.experiments.pilot.models import MELS, STRIDE, PilotModel, SpeechModel
from spangym.experiments.pilot.pilot_study import Plan, TextEntry
from spangym.experiments.pilot.recordings import read_recordings
from spangym.experiments.pilot.synthetic_speech import SpokenSpeech, speak_corpus
from spangym.experiments.runner.fingerprint import ContentHashes

MASKED = {"time": 25, "channels": 15}
"""Frames, and channels, that a mask may cover."""

_EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class EvaluationSet:
    """What models are judged by.

    Attributes:
        content: Bytes, int64 of shape (lanes, chunks, ctx), or frames, float32 of shape (lanes,
            chunks, ctx, channels).
        targets: Classes, int64 of shape (lanes, chunks, ctx).
        texts: What is said or written in each lane.
    """

    content: Tensor
    targets: Tensor
    texts: tuple[str, ...]

    def only(self, lanes: int) -> EvaluationSet:
        """The first lanes of it."""
        return EvaluationSet(self.content[:lanes], self.targets[:lanes], self.texts[:lanes])


@dataclass(frozen=True)
class Errors:
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
        source: What is trained on.
        sets: What models are judged by, by the name of the split.
        classes: What models tell apart.
        ctx: Tokens of a chunk.
        chunks: Chunks of a stream.
    """

    source: Source
    sets: dict[str, EvaluationSet]
    classes: int
    ctx: int
    chunks: int

    @abstractmethod
    def errors(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> Errors:
        """How far off a model is.

        Args:
            model: The model.
            hidden: What left its last block, shape (lanes, chunks, tokens, dims).
            losses: Its losses, shape (lanes, chunks).
            texts: What was to be found.
        """


class SpeechTask(Task):
    """Characters of utterances.

    Args:
        corpus: What is said, and by whom.
        masking: How much of each utterance may be masked, as a share of `MASKED`.

    Raises:
        ValueError: The extra ``speech`` is not installed.
    """

    chunks = 1

    def __init__(self, corpus: Corpus, masking: float) -> None:
        _jiwer()
        self.alphabet = corpus.alphabet
        self.classes = 1 + len(self.alphabet)
        self.source = UtteranceSource(corpus.train, self.alphabet, masking)
        self.ctx = corpus.train.frames.shape[1] // STRIDE
        splits = {"seen": corpus.seen, "unseen": corpus.unseen}
        self.sets = {
            name: self._set(utterances)
            for name, utterances in splits.items()
            if utterances is not None
        }

    def _set(self, utterances: Utterances) -> EvaluationSet:
        targets = padded(encode(utterances.texts, self.alphabet), self.ctx)
        return EvaluationSet(
            torch.from_numpy(as_tokens(utterances.frames))[:, None],
            torch.from_numpy(targets)[:, None],
            utterances.texts,
        )

    def read(self, model: PilotModel, hidden: Tensor) -> list[str]:
        """What a model has understood, greedily.

        Args:
            model: The recogniser.
            hidden: What left its last block, shape (lanes, chunks, tokens, dims).
        """
        assert isinstance(model, SpeechModel)
        return [decode(row, self.alphabet) for row in model.best(hidden[:, 0]).cpu().numpy()]

    def errors(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> Errors:
        """Word and character error rates over all utterances together."""
        del losses
        jiwer = _jiwer()
        understood = self.read(model, hidden)
        return Errors(jiwer.wer([*texts], understood), jiwer.cer([*texts], understood))


class TextTask(Task):
    """Bytes of text, each from those before it.

    Args:
        entry: What is read.

    Raises:
        ValueError: The source is unknown, cannot be read or is not of bytes.
    """

    classes = BYTES

    def __init__(self, entry: TextEntry) -> None:
        self.source = open_source(entry.source, "train")
        if self.source.channels:
            raise ValueError(f"source {entry.source!r} must be of bytes, it is of frames")
        self.ctx, self.chunks = entry.ctx, entry.chunks
        held_out = open_source(entry.source, "evaluation")
        generators = [
            np.random.default_rng(_EVALUATION_SEED + lane)
            for lane in range(entry.evaluation_streams)
        ]
        content, targets = draw(held_out, generators, self.chunks, self.ctx)
        texts = tuple(bytes(row.flatten().tolist()).decode("utf-8", "replace") for row in content)
        self.sets = {"held out": EvaluationSet(content, targets, texts)}

    def errors(
        self, model: PilotModel, hidden: Tensor, losses: Tensor, texts: tuple[str, ...]
    ) -> Errors:
        """Bits a byte."""
        del model, hidden, texts
        return Errors(losses.mean().item(), float("nan"))


class UtteranceSource(Source):
    """Utterances at equal odds, with some of their frames and channels masked, one a chunk.

    Frames come four at a time, as the recogniser's front takes them.

    Args:
        utterances: What is drawn from.
        alphabet: Characters, in the order of their classes.
        masking: How much of each utterance may be masked, as a share of `MASKED`.
    """

    channels = STRIDE * MELS

    def __init__(self, utterances: Utterances, alphabet: str, masking: float) -> None:
        self._utterances = utterances
        self._masked = {name: int(most * masking) for name, most in MASKED.items()}
        self._targets = encode(utterances.texts, alphabet)

    def stream(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        """Draw an utterance for each chunk.

        Raises:
            ValueError: Chunks are shorter than the utterances.
        """
        frames = self._utterances.frames
        if ctx * STRIDE != frames.shape[1]:
            raise ValueError(f"ctx must be {frames.shape[1] // STRIDE}, got {ctx}")
        drawn = generator.integers(len(frames), size=chunks)
        lengths = self._utterances.lengths[drawn]
        masked = mask_frames(frames[drawn], generator, lengths, **self._masked)
        kinds = tuple(self._utterances.voices[index] for index in drawn)
        return Stream(as_tokens(masked), kinds, padded(self._targets[drawn], ctx))


def _jiwer() -> Any:
    # Of the extra: imported where speech is, so that text needs none.
    try:
        import jiwer
    except ImportError as error:
        raise ValueError("speech needs the extra: pip install 'spangym[speech]'") from error
    return jiwer


def as_tokens(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frames (utterances, frames, channels), four at a time: (utterances, tokens, 4 channels)."""
    return np.ascontiguousarray(frames).reshape(len(frames), -1, STRIDE * frames.shape[2])


def padded(targets: NDArray[np.int64], ctx: int) -> NDArray[np.int64]:
    """Targets with as many columns as there are tokens."""
    return np.pad(targets, ((0, 0), (0, ctx - targets.shape[1])), constant_values=NO_TARGET)


def draw(
    source: Source, generators: list[np.random.Generator], chunks: int, ctx: int
) -> tuple[Tensor, Tensor]:
    """Streams and their targets, lanes first, a lane from each generator."""
    streams = [source.stream(generator, chunks, ctx) for generator in generators]
    kind = np.float32 if source.channels else np.int64
    content = torch.from_numpy(np.stack([each.content for each in streams]).astype(kind))
    given = [each.targets for each in streams if each.targets is not None]
    return content, torch.from_numpy(np.stack(given)) if given else next_tokens(content)


def batch_generators(seed: int, batch: int, lanes: int) -> list[np.random.Generator]:
    """Generators of the lanes of a batch: all variants read the same batches in the same order."""
    return [np.random.default_rng([seed, batch, lane]) for lane in range(lanes)]


def make_task(plan: Plan) -> Task:
    """What the models of a plan learn.

    Raises:
        ValueError: What is to be read is not there, or not as it should be.
    """
    if plan.task == "text":
        return TextTask(plan.text)
    return SpeechTask(_read_corpus(plan.recordings, plan.speech), plan.masking)


def check_task(plan: Plan) -> None:
    """Refuse a plan whose content is too short, or not there.

    Raises:
        ValueError: The message says what would be right.
    """
    try:
        task = make_task(plan)
        draw(task.source, batch_generators(0, 0, 1), task.chunks + 1, task.ctx)
    except ValueError as error:
        where = " (in the plan's table text)" if plan.task == "text" else ""
        raise ValueError(f"{error}{where}") from error


def content_hashes(plan: Plan, hashes: ContentHashes) -> dict[str, Any]:
    """Hashes of what is trained on and judged by.

    Args:
        plan: The plan.
        hashes: Of what sources read.

    Raises:
        ValueError: What is to be read is not there, or not as it should be.
    """
    if plan.task == "text":
        return {plan.text.source: hashes.of(plan.text.source)}
    return {"speech": _read_corpus(plan.recordings, plan.speech).content_sha256}


@functools.lru_cache(maxsize=1)
def _read_corpus(recordings: str, speech: SpokenSpeech) -> Corpus:
    """Utterances; kept, since every training of a process reads the same."""
    if recordings:
        return read_recordings(Path(recordings), 0, STRIDE)
    return speak_corpus(speech)
