"""Depth-v0: what its layers need, and who can find it."""

import numpy as np
import pytest
import torch

from spangym.envs import SpanControlEnv, SpanControlVectorEnv
from spangym.envs.data.depth import CHAINS, DepthDataset
from spangym.envs.model.model_checkpoint import load_stack
from spangym.envs.model.pretrain import loss_bits
from spangym.envs.registration import default_kwargs

NAME = "spangym/Depth-v0"
LAYERS = 6
Chunks = tuple[torch.Tensor, torch.Tensor, list[str]]


@pytest.fixture(scope="module")
def chunks() -> Chunks:
    stream = DepthDataset().sample(np.random.default_rng(3), 160, 128)
    content = torch.from_numpy(stream.content.astype(np.int64))
    return content, torch.from_numpy(stream.targets), [*stream.content_types]


@torch.no_grad()
def losses(chunks: Chunks, plan: list[int], prefix: str = "") -> dict[str, float]:
    """Mean loss of the chunks of each content type, in bits a target."""
    content, targets, content_types = chunks
    rows = [row for row, name in enumerate(content_types) if name.startswith(prefix)]
    actions = torch.tensor(plan)[:, None].expand(-1, len(rows))
    loss = loss_bits(load_stack("depth"), content[rows], targets[rows], actions)
    names = [content_types[row] for row in rows]
    return {each: loss[[name == each for name in names]].mean().item() for each in {*names}}


def test_full_span_answers_and_no_span_guesses(chunks: Chunks):
    assert max(losses(chunks, [9] * LAYERS).values()) < 0.1
    assert min(losses(chunks, [0] * LAYERS).values()) > 1.5


def test_no_layer_answers_alone_and_six_hops_take_all_layers(chunks: Chunks):
    for layer in range(LAYERS):
        alone = losses(chunks, [9 * (index == layer) for index in range(LAYERS)], "2")
        assert min(alone.values()) > 1
        without = losses(chunks, [9 * (index != layer) for index in range(LAYERS)], "6")
        assert min(without.values()) > 0.5


def test_a_long_hop_needs_its_layer(chunks: Chunks):
    """Six hops leave no choice: hop ``n`` is made by layer ``n``."""
    for hop in range(LAYERS):
        name = next(each.content_type for each in CHAINS if each == (LAYERS, (hop,)))
        plans = np.where(np.eye(LAYERS, dtype=bool), 7, 1).tolist()
        found = [losses(chunks, plan, name)[name] for plan in plans]
        assert found[hop] < 0.25
        assert min(found[:hop] + found[hop + 1 :]) > 0.5


def test_the_answer_is_rewarded_at_the_last_layer_alone():
    env = SpanControlEnv(**default_kwargs(NAME), chunks_per_episode=1, split="evaluation")
    env.reset(seed=0)
    rewards = [env.step(0)[4]["reward_components"]["task"] for _ in range(LAYERS)]
    assert rewards[:-1] == [0] * (LAYERS - 1)
    assert rewards[-1] < -1


def test_a_beam_comes_near_all_plans_of_three_spans():
    envs = SpanControlVectorEnv(2, **default_kwargs(NAME), num_actions=3, split="evaluation")
    envs.reset(seed=1_000_000)
    exact, narrow = envs.lookahead(beam=3**LAYERS), envs.lookahead(beam=10)
    assert (narrow <= exact + 1e-6).all()
    np.testing.assert_allclose(narrow.max(1), exact.max(1), atol=0.03)


def test_credit_for_immediate_rewards_turns_everything_off():
    """The best action of each layer by its own reward, as a bandit finds it."""
    envs = SpanControlVectorEnv(8, **default_kwargs(NAME), chunks_per_episode=1)
    envs.reset(seed=0)
    returns = np.zeros(8)
    for layer in range(LAYERS):
        actions = envs.peek().argmax(1)
        assert layer + 1 == LAYERS or not actions.any()
        returns += envs.step(actions)[1]
    envs.reset(seed=0)
    full = sum(envs.step(np.full(8, 7))[1] for _ in range(LAYERS))
    assert returns.mean() < np.mean(full) - 0.2
