"""The environment of a model that trains does what the model does by itself."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import Outcome
from spangym.envs import split_arguments
from spangym.experiments.pilot.evaluate_model import read
from spangym.experiments.pilot.model_optimizer import Learner
from spangym.experiments.pilot.models import ControlledStack, PilotModel, make_model
from spangym.experiments.pilot.online_env import TRAINING_REWARDS, TrainingVecEnv
from spangym.experiments.pilot.pilot_tasks import TextTask, batch_generators, draw
from spangym.experiments.pilot.span_policies import Decider
from spangym.utils.serialization import from_bytes, to_bytes

from .plans import tiny_plan

PLAN = tiny_plan()
LANES, LAYERS, CHUNKS = 3, 2, 2


class Trained:
    """The smallest training there can be."""

    def __init__(self, model: PilotModel) -> None:
        self.learner = Learner(model, 8, 1e-3)
        self.losses: list[Tensor] = []
        self.visited: list[list[list[int]]] = []
        self.batches = 0

    @property
    def recent_loss(self) -> float | None:
        return self.learner.recent

    def learn_from(self, losses: Tensor, outcomes: Sequence[Outcome]) -> None:
        self.losses.append(losses.detach())
        self.visited.append([each.visited_keys.tolist() for each in outcomes])
        self.learner.learn(losses)

    def next_batch(self) -> list[np.random.Generator]:
        self.batches += 1
        return batch_generators(0, self.batches - 1, LANES)


class Listed(Decider):
    """Decides what is written down."""

    def __init__(self, actions: list[np.ndarray]) -> None:
        self.left = [*actions]

    def actions(self, index: int, layer: object, hidden: Tensor) -> Tensor:
        del index, layer, hidden
        return torch.from_numpy(self.left.pop(0))


def make(reward: str = "learning") -> tuple[TrainingVecEnv, Trained, PilotModel]:
    variant = next(each for each in PLAN.variants if each.label == "predictor")
    model = make_model("text", PLAN.model, variant, 256, PLAN.text.ctx, seed=0).train()
    trained = Trained(model)
    settings, parts = split_arguments(
        {
            "layers": ControlledStack(model),
            "source": TextTask(PLAN.text).source,
            "reward": TRAINING_REWARDS[reward](0.5),
            "ctx": PLAN.text.ctx,
            "chunks": CHUNKS,
            "observe": "previous",
            "encoding": "box",
        }
    )
    return TrainingVecEnv(settings, LANES, parts, trained), trained, model


def chosen(steps: int) -> list[np.ndarray]:
    return [*np.random.default_rng(1).integers(0, 10, (steps, LANES))]


def test_a_model_learns_in_the_environment_as_it_does_alone():
    actions = chosen(2 * CHUNKS * LAYERS)
    env, trained, model = make()
    env.reset()
    dones = [env.step(each)[2].all() for each in actions]
    assert np.flatnonzero(dones).tolist() == [3, 7]
    alone = make_model("text", PLAN.model, PLAN.variants[5], 256, PLAN.text.ctx, seed=0).train()
    learner, task, decider = Learner(alone, 8, 1e-3), TextTask(PLAN.text), Listed(actions)
    losses = []
    for batch in range(2):
        generators = batch_generators(0, batch, LANES)
        drawn = draw(task.source, generators, CHUNKS + 1, PLAN.text.ctx)
        content, targets = (each[:, :CHUNKS] for each in drawn)
        for chunk in read(alone, content, targets, decider):
            losses.append(chunk.losses.detach())
            learner.learn(chunk.losses)
    assert len(losses) == 4
    assert all(torch.equal(*pair) for pair in zip(losses, trained.losses, strict=True))
    ours, theirs = model.state_dict(), alone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(losses[0], losses[2])


def test_the_reward_is_the_drop_of_the_loss_minus_the_price():
    env, trained, _ = make()
    env.reset()
    infos = [env.step(each)[3] for each in chosen(CHUNKS * LAYERS)]
    first, second = trained.losses
    assert [info["reward_parts"]["learning"] for info in infos[0]] == [0.0] * LANES
    after_first = [info["reward_parts"]["learning"] for info in infos[1]]
    np.testing.assert_allclose(after_first, (first.mean() - first).numpy(), atol=1e-6)
    after_second = [info["reward_parts"]["learning"] for info in infos[3]]
    np.testing.assert_allclose(after_second, (first.mean() - second).numpy(), atol=1e-5)
    pairs = PLAN.text.ctx * (PLAN.text.ctx + 1) // 2 * LAYERS
    for step, info in enumerate(infos):
        visited = trained.visited[step // LAYERS][step % LAYERS]
        prices = [each["reward_parts"]["price"] for each in info]
        np.testing.assert_allclose(prices, [-0.5 * keys / pairs for keys in visited])


def test_quality_can_be_the_reward_of_a_training():
    env, _, _ = make("quality")
    env.reset()
    info = env.step(np.array([0, 5, 9]))[3]
    assert [*info[1]["reward_parts"]] == ["coverage", "entropy", "price"]
    assert info[0]["reward_parts"]["price"] == 0 > info[1]["reward_parts"]["price"]


@pytest.mark.parametrize("stop", range(1, 8))
def test_it_goes_on_to_the_bit_from_anywhere(stop: int):
    actions = chosen(8)
    env, trained, model = make()
    env.reset()
    for each in actions[:stop]:
        env.step(each)
    kept = from_bytes(to_bytes([env.state_dict(), trained.learner.state_dict()]))
    again, other, copy = make()
    other.learner.load_state_dict(kept[1])
    other.batches = trained.batches
    again.load_state_dict(kept[0])
    for each in actions[stop:]:
        one, two = env.step(each), again.step(each)
        for ours, theirs in zip(one[:2], two[:2], strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    ours, theirs = model.state_dict(), copy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert trained.learner.recent == other.learner.recent
