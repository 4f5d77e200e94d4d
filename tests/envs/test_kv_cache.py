"""The environment in which a small model's key-value cache is trimmed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.agents import make_agent
from spangym.agents.export import export_policy
from spangym.envs import (
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)
from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.deadlines import needed_blocks
from spangym.envs.model.build_model import build_model
from spangym.envs.model.cache_transformer import CacheTransformer
from spangym.envs.registration import ENVIRONMENTS

NAME = "spangym/KVCache-v0"
BLOCK, CTX, CUT = 16, 256, 32
MODEL: Any = build_model(make_config(NAME, {}), None, 0)


def make_env(**more: Any) -> Any:
    return SpanControlEnv(**{**ENVIRONMENTS[NAME], "encoding": "features", **more})


def visible(actions: list[int]) -> Tensor:
    """Which keys each query sees, boolean (CTX, CTX)."""
    position = torch.arange(CTX)
    mask = position[:, None] >= position
    is_held = torch.ones(CTX, dtype=torch.bool)
    for index, action in enumerate(actions):
        past = (index + 1) * BLOCK
        if action == 0:
            is_held = is_held & (position >= past - CUT)
        mask = mask & ((position[:, None] < past) | is_held)
    return mask


def whole_pass(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and attention of a pass over the whole document, (ctx, classes) and (ctx, ctx)."""
    model: CacheTransformer = MODEL.frontend
    parts = model.project(tokens.view(-1, BLOCK))
    hidden = parts.hidden.flatten(0, 1)[None]
    query, keys, values = (each.transpose(0, 1).flatten(1, 2)[None] for each in parts[1:])
    output, weights = model.attend(hidden, query, keys, values, mask[None])
    return model.head(output)[0], weights[0, 0, :, :CTX]


def random_actions(seed: int) -> list[int]:
    return (np.random.default_rng(seed).random(15) < 0.8).astype(int).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_rewards_and_shares_are_those_of_a_masked_pass(seed: int):
    env, actions = make_env(cost_coef=0.4), random_actions(seed)
    env.reset(seed=seed)
    tokens, targets = env.core.episode.content[0, 0], env.core.episode.targets[0, 0]
    mask = visible(actions)
    logits, weights = whole_pass(tokens, mask)
    full, _ = whole_pass(tokens, visible([1] * 15))
    asked = (targets != NO_TARGET).sum()
    for index, action in enumerate(actions):
        observation, _, *_, info = env.step(action)
        past = (index + 1) * BLOCK
        block, held = slice(past, past + BLOCK), int(mask[past, :past].sum())
        losses = [
            torch.nn.functional.cross_entropy(each[block], targets[block], reduction="sum")
            for each in (full, logits)
        ]
        excess = (losses[1] - losses[0]) / asked / np.log(2)
        parts = info["reward_components"]
        assert parts["task"] == pytest.approx(-excess.item(), abs=2e-5)
        # A cache that drops nothing costs the coefficient, a token the same before every block.
        assert parts["cost"] == pytest.approx(-0.4 * held / (BLOCK * 120))
        assert (info["span"], info["qk_pairs"]) == (held, held * BLOCK)
        if index + 1 < len(actions):
            share = weights[block, : max(past - CUT, 0)].sum(1).mean()
            assert observation[-1] == pytest.approx(share.item(), abs=1e-6)


def test_keeping_everything_costs_the_coefficient_and_loses_nothing():
    env = make_env(cost_coef=0.7)
    env.reset(seed=0)
    steps = [env.step(1) for _ in range(15)]
    assert sum(step[1] for step in steps) == pytest.approx(-0.7)
    assert all(step[-1]["reward_components"]["task"] == 0 for step in steps)
    assert steps[-1][3]


def test_what_is_dropped_is_gone():
    env = make_env()
    env.reset(seed=1)
    for _ in range(3):
        env.step(1)
    env.step(0)
    cache = env.core.state.caches[4]
    kept = torch.arange(CTX)[cache.is_held[0]].tolist()
    assert kept == [*range(32, 80)]
    assert not cache.keys[0, :, :, :32].any()
    assert not cache.values[0, :, :, :32].any()
    # Keeping later brings nothing back.
    *_, info = env.step(1)
    assert info["span"] == len(kept)


def test_the_size_of_the_cache_is_observed_on_request_only():
    plain, sized = make_env(), make_env(include_cache_size=True)
    width = plain.observation_space.shape[0]
    assert sized.observation_space.shape == (width + 1,)
    observations = [env.reset(seed=2)[0] for env in (plain, sized)]
    for index, action in enumerate([1, 1, 1, 0, 1, 1]):
        np.testing.assert_array_equal(observations[1][:-1], observations[0])
        held = [1, 2, 3, 4, 3, 4][index]
        assert observations[1][-1] == pytest.approx(held / 16)
        observations = [env.step(action)[0] for env in (plain, sized)]


def test_attention_does_not_show_how_much_is_held():
    """In blocks that ask for nothing, next to nothing goes beyond the cut, whatever is there."""
    envs = SpanControlVectorEnv(32, **{**ENVIRONMENTS[NAME], "encoding": "features"})
    envs.reset(seed=0)
    episode = envs.core.episode
    assert episode is not None
    assert episode.targets is not None
    asked = (episode.targets[:, 0] != NO_TARGET).view(32, -1, BLOCK).any(-1)
    idle, answered = [], []
    for index in range(14):
        observations = envs.step(np.ones(32, int))[0]
        shares = observations[:, -1]
        idle.append(shares[~asked[:, index + 1]])
        answered.append(shares[asked[:, index + 1]])
    shares = np.concatenate(idle)
    # Keys that are told look a little for earlier ones.
    assert (shares.max() < 0.06, np.quantile(shares, 0.9) < 0.01) == (True, True)
    # Far and middle facts, half of all, are beyond the cut.
    assert (np.concatenate(answered) > 0.1).mean() > 0.3


def test_results_do_not_depend_on_the_number_of_environments():
    arguments = {**ENVIRONMENTS[NAME], "encoding": "features"}
    rows = {}
    for number in (1, 2, 7, 19):
        envs = SpanControlVectorEnv(number, **arguments)
        first = [envs.reset(seed=[*range(number)])[0][0]]
        for action in random_actions(5):
            observations, rewards, *_ = envs.step(np.full(number, action))
            first += [observations[0], rewards[:1]]
        rows[number] = np.concatenate(first)
    assert all((row == rows[1]).all() for row in rows.values())


@pytest.mark.parametrize("spans", [[32, "full"], [16, 48, "full"]])
def test_the_oracle_is_exact(spans: list[Any]):
    env = make_env(ctx=96, spans=spans, cost_coef=2.0)
    for seed in range(3):
        env.reset(seed=seed)
        returns = {
            plan: sum(fork.step(action)[1] for action in plan)
            for plan in itertools.product(range(len(spans)), repeat=5)
            for fork in [env.fork()]
        }
        best = [max(v for k, v in returns.items() if k[0] == first) for first in range(len(spans))]
        np.testing.assert_allclose(env.lookahead(), best, atol=1e-5)


def test_deadlines_must_be_remembered():
    """Counting deadlines is far above every fixed action, and near the oracle."""
    number = 48
    envs = SpanControlVectorEnv(number, **ENVIRONMENTS[NAME], split="evaluation")

    def mean_return(actions: Any) -> float:
        envs.reset(seed=0)
        return sum(envs.step(actions(index))[1].mean() for index in range(15))

    envs.reset(seed=0)
    assert envs.core.episode is not None
    needed = needed_blocks(envs.core.episode.content[:, 0].numpy())
    fixed = [mean_return(lambda _, action=action: np.full(number, action)) for action in range(2)]
    remembering = mean_return(lambda index: (needed[:, index] > 2).astype(int))
    envs.reset(seed=0)
    oracle = envs.lookahead().max(1).mean()
    assert remembering > max(fixed) + 0.4
    assert remembering < oracle < remembering + 0.15


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ctx": 100}, "ctx must be a multiple of 16 in 32..256"),
        ({"ctx": 512}, "ctx must be a multiple of 16 in 32..256"),
        ({"ctx": 64, "blocks": 3}, "blocks must be 4, as in the checkpoint 'kv-cache', got 3"),
        ({"num_actions": 10}, "num_actions must be 2"),
        ({"dims": 64}, "dims must be 32"),
        ({"reward": "quality"}, "reward must not be 'quality' with blocks"),
        ({"reward": "fidelity"}, "reward must not be 'fidelity' with blocks"),
        ({"temperature_law": "none"}, "temperature_law is not for the checkpoint 'kv-cache'"),
        ({"control_kv_cache": True}, "control_kv_cache is not for the checkpoint"),
        ({"groups": 2}, "give either groups or blocks"),
        ({"observation_time": "previous"}, "observation_time must be 'current' with blocks"),
        ({"spans": ["full", 32]}, "spans"),
        ({"sinks": 256}, "sinks must be less than ctx=256"),
        ({"backend": "table", "num_levels": 2}, "at most 3 layers"),
    ],
)
def test_arguments_that_do_not_fit(more: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_config(NAME, more)


def test_other_layers_have_no_cache_to_observe():
    with pytest.raises(ValueError, match="include_cache_size is for a checkpoint that reads in"):
        make_config("LongRange-v0", {"include_cache_size": True})


def test_blocks_set_the_length_of_a_document():
    config = make_config(NAME, {"blocks": 6})
    assert (config.ctx, config.num_layers) == (96, 5)


def test_the_picture_shows_what_each_block_can_see():
    env = make_env(render_mode="rgb_array")
    env.reset(seed=0)
    for action in (1, 1, 1, 0):
        env.step(action)
    document = env.render()[92:332, 216:456]
    rows = document[np.arange(16) * 15 + 7]
    # Gray levels of keys that are not seen, and of blocks that were not read.
    is_plain = (rows.max(-1) == rows.min(-1)) & (rows.max(-1) > 200)
    seen = [(~row).nonzero()[0] // 15 for row in is_plain]
    spans = [(each.min(), each.max()) if each.size else None for each in seen]
    assert spans[:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (2, 4)]
    assert spans[5:] == [None] * 11


def test_the_text_shows_the_tokens_that_stay():
    env = make_env(render_mode="ansi")
    env.reset(seed=0)
    for action in (1, 1, 0):
        env.step(action)
    bars = [line[-33:-1] for line in env.render().splitlines()[1:4]]
    assert bars == [f"{each:32}" for each in ("\u2588" * 2, "\u2588" * 4, "  " + "\u2588" * 4)]


def test_an_agent_that_observes_a_cache_is_not_exported():
    agent = make_agent("ppo", seed=0)
    config = make_config(NAME, {"encoding": "features"})
    agent.learn(SB3SpanControlVecEnv(config, n_envs=4), 16)
    with pytest.raises(ValueError, match="observes the key-value cache of a model"):
        export_policy(agent, config.observation_spec)
