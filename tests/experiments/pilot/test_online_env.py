"""The environment of a model that trains, against training without an environment."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.envs import parse_env_kwargs
from spangym.envs.data.sample_batch import sample_batch
from spangym.envs.model.model_optimizer import ModelOptimizer
from spangym.experiments.pilot.evaluate_model import run_model
from spangym.experiments.pilot.models import PilotModel, make_model
from spangym.experiments.pilot.online_env import ONLINE_REWARDS, OnlineVecEnv
from spangym.experiments.pilot.pilot_tasks import TextTask, batch_rngs
from spangym.experiments.pilot.span_policies import SpanPolicy
from spangym.utils.serialization import from_bytes, to_bytes
from tests.factories import tiny_pilot_study

STUDY = tiny_pilot_study()
NUM_ENVS, LAYERS, CHUNKS = 3, 2, 2


class TrainableModel:
    """A minimal trainer."""

    def __init__(self, model: PilotModel) -> None:
        self.optimizer = ModelOptimizer(model, 8, 1e-3)
        self.losses: list[Tensor] = []
        self.qk_pairs: list[list[list[int]]] = []
        self.batches = 0

    @property
    def ema_loss(self) -> float | None:
        return self.optimizer.ema_loss

    def update_model(self, losses: Tensor, layer_outputs: Sequence[LayerOutput]) -> None:
        self.losses.append(losses.detach())
        self.qk_pairs.append([each.qk_pairs.tolist() for each in layer_outputs])
        self.optimizer.step(losses)

    def next_batch_rngs(self) -> list[np.random.Generator]:
        self.batches += 1
        return batch_rngs(0, self.batches - 1, NUM_ENVS)


class Listed(SpanPolicy):
    """Takes the actions of a list."""

    def __init__(self, actions: list[np.ndarray]) -> None:
        self.left = [*actions]

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        del index, layer, hidden
        return torch.from_numpy(self.left.pop(0))


def make(reward: str = "loss_improvement") -> tuple[OnlineVecEnv, TrainableModel, PilotModel]:
    variant = next(each for each in STUDY.variants if each.name == "predictor")
    model = make_model("text", STUDY.model, variant, 256, STUDY.text.ctx, seed=0).train()
    trained = TrainableModel(model)
    config, parts = parse_env_kwargs(
        {
            "layers": model,
            "dataset": TextTask(STUDY.text).dataset,
            "reward": ONLINE_REWARDS[reward](0.5),
            "ctx": STUDY.text.ctx,
            "chunks_per_episode": CHUNKS,
            "observation_time": "previous",
            "encoding": "box",
        }
    )
    return OnlineVecEnv(config, NUM_ENVS, parts, trained), trained, model


def chosen(steps: int) -> list[np.ndarray]:
    return [*np.random.default_rng(1).integers(0, 10, (steps, NUM_ENVS))]


def test_a_model_learns_in_the_environment_as_it_does_alone():
    actions = chosen(2 * CHUNKS * LAYERS)
    env, trained, model = make()
    env.reset()
    dones = [env.step(each)[2].all() for each in actions]
    assert np.flatnonzero(dones).tolist() == [3, 7]
    alone = make_model("text", STUDY.model, STUDY.variants[5], 256, STUDY.text.ctx, seed=0).train()
    optimizer, task, span_policy = (
        ModelOptimizer(alone, 8, 1e-3),
        TextTask(STUDY.text),
        Listed(actions),
    )
    losses = []
    for batch in range(2):
        generators = batch_rngs(0, batch, NUM_ENVS)
        drawn = sample_batch(task.dataset, generators, CHUNKS + 1, STUDY.text.ctx)
        content, targets = (each[:, :CHUNKS] for each in drawn)
        for chunk in run_model(alone, content, targets, span_policy):
            losses.append(chunk.losses.detach())
            optimizer.step(chunk.losses)
    assert len(losses) == 4
    assert all(torch.equal(*pair) for pair in zip(losses, trained.losses, strict=True))
    ours, theirs = model.state_dict(), alone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(losses[0], losses[2])


def test_reward_is_loss_improvement_minus_cost():
    env, trained, _ = make()
    env.reset()
    infos = [env.step(each)[3] for each in chosen(CHUNKS * LAYERS)]
    first, second = trained.losses
    assert [info["reward_components"]["loss_improvement"] for info in infos[0]] == [0.0] * NUM_ENVS
    after_first = [info["reward_components"]["loss_improvement"] for info in infos[1]]
    np.testing.assert_allclose(after_first, (first.mean() - first).numpy(), atol=1e-6)
    after_second = [info["reward_components"]["loss_improvement"] for info in infos[3]]
    np.testing.assert_allclose(after_second, (first.mean() - second).numpy(), atol=1e-5)
    pairs = STUDY.text.ctx * (STUDY.text.ctx + 1) // 2 * LAYERS
    for step, info in enumerate(infos):
        qk_pairs = trained.qk_pairs[step // LAYERS][step % LAYERS]
        prices = [each["reward_components"]["cost"] for each in info]
        np.testing.assert_allclose(prices, [-0.5 * own / pairs for own in qk_pairs])


def test_quality_reward_while_the_model_trains():
    env, _, _ = make("quality")
    env.reset()
    info = env.step(np.array([0, 5, 9]))[3]
    assert [*info[1]["reward_components"]] == ["coverage", "entropy", "cost"]
    assert info[0]["reward_components"]["cost"] == 0 > info[1]["reward_components"]["cost"]


@pytest.mark.parametrize("stop", range(1, 8))
def test_resuming_is_bit_exact_from_any_step(stop: int):
    actions = chosen(8)
    env, trained, model = make()
    env.reset()
    for each in actions[:stop]:
        env.step(each)
    kept = from_bytes(to_bytes([env.state_dict(), trained.optimizer.state_dict()]))
    again, other, copy = make()
    other.optimizer.load_state_dict(kept[1])
    other.batches = trained.batches
    again.load_state_dict(kept[0])
    for each in actions[stop:]:
        one, two = env.step(each), again.step(each)
        for ours, theirs in zip(one[:2], two[:2], strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    ours, theirs = model.state_dict(), copy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert trained.optimizer.ema_loss == other.optimizer.ema_loss
