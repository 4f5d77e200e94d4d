"""Trainings of all kinds of variants: uninterrupted, killed and resumed, stopped."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from spangym.agents import SB3Agent
from spangym.attention import NUM_ACTIONS
from spangym.experiments.pilot.attention_maps import load_attention_maps
from spangym.experiments.pilot.evaluate_model import evaluate_model
from spangym.experiments.pilot.model_training import TABLES, ModelTrainingJob, attach_refiners
from spangym.experiments.pilot.models import PilotModel, make_model
from spangym.experiments.pilot.pilot_study import VariantConfig
from spangym.experiments.pilot.pilot_tasks import TextTask
from spangym.experiments.pilot.span_policies import SpanPolicy
from spangym.experiments.pilot.trainer import Trainer
from spangym.experiments.trials.checkpoints import Checkpoints
from tests.factories import tiny_pilot_study

STUDY = tiny_pilot_study()
VARIANTS = pytest.mark.parametrize("variant", STUDY.variants, ids=lambda each: each.slug)


class _Killed(BaseException):
    pass


def run(folder: Path, name: str, until: int | None = None, seconds: float = 0.0) -> None:
    variant = next(each for each in STUDY.variants if each.name == name)

    def progress(done: int) -> None:
        if done == until:
            raise _Killed

    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ModelTrainingJob(STUDY, variant, 0).run(folder, progress, lambda _: None, seconds)


def table(folder: Path, name: str) -> pd.DataFrame:
    rows = pd.read_csv(folder / f"{name}.csv")
    return rows.drop(columns=[each for each in ("seconds",) if each in rows])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a whole training, not to be changed; each variant is trained once."""

    @functools.cache
    def whole(name: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        run(folder, name)
        return folder

    return whole


@VARIANTS
def test_a_resumed_training_is_byte_identical(
    variant: VariantConfig, whole: Callable[[str], Path], tmp_path: Path
):
    with pytest.raises(_Killed):
        run(tmp_path / "killed", variant.name, until=9)
    assert not (tmp_path / "killed" / "result.json").exists()
    run(tmp_path / "killed", variant.name)
    once, again = whole(variant.name), tmp_path / "killed"
    weights, others = (load_file(each / "model.safetensors") for each in (once, again))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for name in TABLES:
        pd.testing.assert_frame_equal(table(once, name), table(again, name))


@VARIANTS
def test_files_of_a_training(variant: VariantConfig, whole: Callable[[str], Path]):
    tmp_path = whole(variant.name)
    curve, spans = table(tmp_path, "curve"), table(tmp_path, "spans")
    assert curve["update"].tolist() == [*range(1, 13)]
    assert 2 < min(curve["loss"]) <= max(curve["loss"]) < 9
    evaluations = table(tmp_path, "evaluation")
    assert evaluations["update"].tolist() == [6, 12]
    assert set(evaluations["split"]) == {"held out"}
    plain = variant.attention == "standard"
    assert len(spans) == (0 if plain else 24)
    assert evaluations["span"].isna().tolist() == [plain, plain]
    by_span = table(tmp_path, "by_span")
    controlled = variant.attention in ("focus", "integrated")
    assert by_span["action"].tolist() == ([*range(NUM_ACTIONS)] if controlled else [])
    attention_maps = load_attention_maps(tmp_path, variant.name)
    if variant.attention != "original":
        assert {each.layer for each in attention_maps} == {0, 1}
        assert {each.path for each in attention_maps} == (
            {"global"} if plain else {"local", "global"}
        )
        for each in attention_maps:
            sums = each.weights.sum(1)
            assert np.all(np.isclose(sums, 1, atol=1e-5) | np.isclose(sums, 0, atol=1e-6))
            assert 0 <= each.entropy <= np.log(24)
    assert bool([*tmp_path.glob("agent.*")]) == (variant.agent is not None)


def test_all_variants_read_the_same_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    read: dict[str, list[bytes]] = {}
    embed = PilotModel.embed
    for name in ("standard", "refiner"):
        seen = read.setdefault(name, [])

        def watched(
            self: PilotModel, content: torch.Tensor, seen: list[bytes] = seen
        ) -> torch.Tensor:
            if self.training and len(content) == 3:
                seen.append(content.numpy().tobytes())
            return embed(self, content)

        monkeypatch.setattr(PilotModel, "embed", watched)
        run(tmp_path / name, name, seconds=60.0)
    # The environment looks at one chunk more of each stream.
    assert len(read["standard"]) == 12
    assert [each for each in read["standard"] if each in read["refiner"]] == read["standard"]


def test_a_share_of_the_updates_is_at_random_spans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    chance = []
    episode = Trainer.run_batch
    monkeypatch.setattr(
        Trainer,
        "run_batch",
        lambda self, span_policy: (chance.append(self.episodes), episode(self, span_policy)),
    )
    run(tmp_path, "refiner", seconds=60.0)
    # 0.34 of 6 streams.
    assert chance == [2, 5]


@pytest.mark.parametrize("name", ["standard", "refiner", "ppo-frozen"])
def test_a_loss_that_is_not_finite_stops_a_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learn = Trainer.update_model

    def spoilt(self: Trainer, losses: torch.Tensor, layer_outputs) -> None:
        learn(self, losses * (float("nan") if self.updates == 7 else 1), layer_outputs)

    monkeypatch.setattr(Trainer, "update_model", spoilt)
    run(tmp_path, name, seconds=60.0)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"].endswith("nan in update 8")
    assert result["updates"] == 7
    assert table(tmp_path, "curve")["update"].tolist() == [*range(1, 8)]
    weights = load_file(tmp_path / "model.safetensors")
    assert all(each.isfinite().all() for each in weights.values())


def test_an_agent_learns_in_the_environment_and_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[int] = []
    asked: list[np.ndarray] = []
    learn, predict = SB3Agent.learn, SB3Agent.predict

    def watched_learn(self: SB3Agent, env, count: int, checkpoint_callback) -> None:
        steps.append(count)
        learn(self, env, count, checkpoint_callback)

    def watched_predict(self: SB3Agent, observations: np.ndarray) -> np.ndarray:
        asked.append(observations)
        return predict(self, observations)

    monkeypatch.setattr(SB3Agent, "learn", watched_learn)
    monkeypatch.setattr(SB3Agent, "predict", watched_predict)
    monkeypatch.setattr(Checkpoints, "remove", lambda _: None)
    study = dataclasses.replace(STUDY, evaluations=6)
    variant = next(each for each in STUDY.variants if each.name == "ppo-frozen")
    ModelTrainingJob(study, variant, 0).run(tmp_path, lambda _: None, lambda _: None, 1e6)
    assert steps == [STUDY.agent_steps]
    assert {each.shape[1] for each in asked} == {2 * STUDY.model.dims}
    assert {each.dtype for each in asked} == {np.dtype(np.float32)}
    # Spans are full until the agent has learned, half-way.
    spans = table(tmp_path, "evaluation")["span"].tolist()
    assert len(spans) == 6
    assert spans[:2] == [STUDY.model.max_span] * 2
    # Each phase ended with a checkpoint, whatever the interval.
    kept = Checkpoints(tmp_path / "checkpoints").read(lambda _: None)
    assert kept is not None
    assert (kept["agent_is_frozen"], kept["trainer"]["optimizer"]["updates"]) == (True, 12)
    assert kept["number"] >= 3


def test_outputs_that_are_not_finite_stop_an_online_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    embed = PilotModel.embed

    read: list[int] = []

    def spoilt(self: PilotModel, content: torch.Tensor) -> torch.Tensor:
        read.extend([1] * self.training)
        return embed(self, content) * (float("inf") if len(read) == 9 else 1)

    monkeypatch.setattr(PilotModel, "embed", spoilt)
    run(tmp_path, "dqn-online", seconds=60.0)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"].startswith("the output of layer 0")


def test_original_layers_are_evaluated_row_by_row_and_do_not_learn():
    variant = next(each for each in STUDY.variants if each.name == "original")
    model = make_model("text", STUDY.model, variant, 256, STUDY.text.ctx, 0)
    attach_refiners(model, 0)
    task = TextTask(STUDY.text)
    (examples,) = task.eval_sets.values()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    together = evaluate_model(model, task, examples, SpanPolicy(), 2)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    alone = evaluate_model(model, task, examples, SpanPolicy(), 1)
    assert (alone.loss, alone.span, alone.qk_pairs) == (
        *(together.loss, together.span, together.qk_pairs),
    )
