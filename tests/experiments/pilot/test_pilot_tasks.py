"""Speech and text tasks: streams, targets and error rates."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from spangym.envs.data.log_mel import MELS
from spangym.envs.data.sample_batch import sample_batch
from spangym.experiments.pilot.corpus import BLANK, Corpus, decode
from spangym.experiments.pilot.model_training import ModelTrainingJob
from spangym.experiments.pilot.models import STRIDE, SpeechModel, make_model
from spangym.experiments.pilot.pilot_tasks import SpeechTask, TextTask, batch_rngs
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus
from tests.factories import tiny_pilot_study

STUDY = tiny_pilot_study()
SPEECH = SyntheticSpeechConfig(
    train_utterances=20,
    test_seen_utterances=5,
    test_unseen_utterances=5,
    voices=3,
    unseen_voices=1,
    noise=0.0,
    reverberation=0.0,
    digits=2,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(cache: Path) -> Corpus:
    return build_corpus(SPEECH, cache / "spangym")


def test_a_stream_of_speech_is_utterances_with_their_characters(corpus: Corpus):
    task = SpeechTask(corpus, masking=0.0)
    content, targets = sample_batch(task.dataset, batch_rngs(0, 0, 3), 2, task.ctx)
    assert content.shape == (3, 2, task.ctx, STRIDE * MELS)
    frames = corpus.train.frames.reshape(20, task.ctx, -1)
    for utterance, classes in zip(content.flatten(0, 1), targets.flatten(0, 1), strict=True):
        (index,) = np.flatnonzero((frames == utterance.numpy()).all((1, 2)))
        spoken = "".join(task.alphabet[each - 1] for each in classes if each > 0)
        assert spoken == corpus.train.texts[index]
    with pytest.raises(ValueError, match=f"ctx must be {task.ctx}"):
        sample_batch(task.dataset, batch_rngs(0, 0, 1), 1, task.ctx - 1)


def test_masks_cover_the_configured_share(corpus: Corpus):
    whole, masked = (
        sample_batch(
            SpeechTask(corpus, each).dataset, batch_rngs(0, 0, 8), 1, SpeechTask(corpus, 0).ctx
        )
        for each in (0.0, 0.4)
    )
    changed = (whole[0] != masked[0]).float().mean().item()
    assert torch.equal(whole[1], masked[1])
    # Two times of 10 frames and two bands of 6 channels at most, half of that on average.
    assert 0.02 < changed < 0.25


def test_errors_are_of_words_and_characters(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    task = SpeechTask(corpus, 0.0)
    examples = task.eval_sets["seen"]
    model = make_model("speech", STUDY.model, STUDY.variants[0], task.num_classes, task.ctx, 0)
    heard = examples.targets[:, 0].clamp_min(BLANK)
    # Between equal characters CTC needs a blank.
    spaced = torch.stack([heard, torch.zeros_like(heard)], dim=-1).flatten(1)
    monkeypatch.setattr(SpeechModel, "greedy_decode_ids", lambda *_: spaced)
    hidden, losses = torch.zeros(5, 1, task.ctx, STUDY.model.dims), torch.zeros(5, 1)
    perfect = task.error_rates(model, hidden, losses, examples.texts)
    assert (perfect.error, perfect.character_error) == (0.0, 0.0)
    spaced[0] = BLANK
    words, characters = (
        [len(text.split()) for text in examples.texts],
        [len(text) for text in examples.texts],
    )
    deaf = task.error_rates(model, hidden, losses, examples.texts)
    assert deaf.error == pytest.approx(words[0] / sum(words))
    assert deaf.character_error == pytest.approx(characters[0] / sum(characters))
    assert decode(spaced[1].numpy(), task.alphabet) == examples.texts[1]


@pytest.mark.parametrize("name", ["standard", "refiner"])
def test_recognizers_train(
    name: str, corpus: Corpus, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    del corpus
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    study = dataclasses.replace(STUDY, task="speech", speech=SPEECH, updates=30, batch=8)
    variant = next(each for each in study.variants if each.name == name)
    ModelTrainingJob(study, variant, 0).run(tmp_path, lambda _: None, lambda _: None, 60.0)
    evaluation = pd.read_csv(tmp_path / "evaluation.csv")
    assert evaluation["split"].tolist() == ["seen", "unseen"] * 2
    assert min(evaluation["error"]) > 0
    losses = pd.read_csv(tmp_path / "curve.csv")["loss"].to_numpy(float)
    # From some fifteen bits a character, of random weights, to where nearly all is blank.
    assert losses[-1] < losses[0] / 2


def test_without_the_extra_the_error_names_it(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ValueError, match=r"pip install 'spangym\[speech\]'"):
        SpeechTask(corpus, 0.0)


def test_text_targets_are_the_next_bytes():
    task = TextTask(STUDY.text)
    (examples,) = task.eval_sets.values()
    assert examples.content.shape == (2, 2, 24)
    flat = examples.content.flatten(1)
    targets = examples.targets.flatten(1)
    assert torch.equal(targets[:, :23], flat[:, 1:24])
    assert examples.texts[0].encode()[:20] == bytes(flat[0, :20].tolist())
