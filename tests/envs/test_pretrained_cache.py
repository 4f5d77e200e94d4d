"""Environments in which the key-value cache of a pretrained model is trimmed."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from spangym.attention.transformers.load_model import load_model, token_bytes
from spangym.envs import SpanControlEnv, SpanControlVectorEnv, make_config, tabulate
from spangym.envs.model.pretrained_cache import PretrainedCacheStack
from tests.factories import tiny_model_kwargs

NAME = "spangym/PretrainedCache-v0"
CTX, BLOCK, SINKS = 48, 16, 2
SPANS = [1, 2, 3, 4, 6, 8, 12, 16, 24, CTX]


def make_kwargs(**more: Any) -> dict[str, Any]:
    return tiny_model_kwargs(NAME, **more)


def visible(actions: tuple[int, int]) -> Tensor:
    """Which keys each query sees after two decisions, boolean (CTX, CTX)."""
    position = torch.arange(CTX)
    mask = position[:, None] >= position
    is_held = torch.ones(CTX, dtype=torch.bool)
    for index, action in enumerate(actions):
        past = (index + 1) * BLOCK
        is_held &= (position >= past - SPANS[action]) | (position < SINKS)
        later = position[:, None] >= past
        mask = mask & (~later | is_held)
    return mask


def losses(model: Any, tokens: Tensor, sizes: Tensor, mask: Tensor | None) -> list[float]:
    """Loss of the second and of the third block, in bits a byte of both."""
    attention_mask = None if mask is None else mask[None, None]
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=attention_mask).logits[0, :-1]
    nats = -logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    total = sizes[tokens[0, BLOCK + 1 :]].sum().item() * math.log(2)
    return [nats[start : start + BLOCK].sum().item() / total for start in (BLOCK, 2 * BLOCK)]


@pytest.mark.parametrize("actions", [(9, 9), (0, 9), (4, 6), (9, 0), (8, 8)])
def test_rewards_are_those_of_a_masked_pass(actions: tuple[int, int]):
    loaded = load_model(make_kwargs()["model"])
    objects = {"model": loaded.model, "tokenizer": loaded.tokenizer}
    env: Any = SpanControlEnv(**make_kwargs(**objects, cost_coef=0.4))
    env.reset(seed=3)
    tokens = env.core.episode.content[:, 0]
    sizes, mask = token_bytes(loaded.tokenizer), visible(actions)
    found = losses(loaded.model, tokens, sizes, mask)
    full = losses(loaded.model, tokens, sizes, None)
    for index, action in enumerate(actions):
        *_, info = env.step(action)
        held = int(mask[(index + 1) * BLOCK, : (index + 1) * BLOCK].sum())
        past = (index + 1) * BLOCK
        parts = info["reward_components"]
        assert parts["task"] == pytest.approx(full[index] - found[index], abs=2e-5)
        assert parts["cost"] == pytest.approx(-0.4 * held / past / 2)
        assert (info["span"], info["qk_pairs"]) == (held, held * BLOCK)
        assert info["span_scale"] == pytest.approx(held / past)


def test_what_is_trimmed_is_gone():
    env: Any = SpanControlEnv(**make_kwargs())
    env.reset(seed=0)
    env.step(0)
    cache = env.core.state.caches[1]
    held = [0, 1, *range(BLOCK - 1, 2 * BLOCK)]
    assert cache.is_held[0].nonzero()[:, 0].tolist() == held
    assert not cache.keys[0, :, :, 2 : BLOCK - 1].any()
    assert cache.keys[0, :, :, held].all(-1).all()
    *_, info = env.step(9)
    assert info["span"] == len(held)
    assert env.core.state.caches[0].is_held.sum() == BLOCK


def test_the_observation_is_of_the_last_block():
    kwargs = make_kwargs(encoding="features", pool_groups=0)
    env: Any = SpanControlEnv(**kwargs)
    observation, _ = env.reset(seed=1)
    model, tokens = env.core.stack.model, env.core.episode.content[0, 0]
    for index in range(2):
        block = tokens[index * BLOCK : (index + 1) * BLOCK]
        local = torch.nn.functional.layer_norm(model.get_input_embeddings()(block), (32,))
        np.testing.assert_allclose(observation[:32], local.mean(0).detach(), atol=1e-5)
        observation, *_ = env.step(index)


def test_the_oracle_sees_every_action_sequence():
    env: Any = SpanControlEnv(**make_kwargs(cost_coef=0.3))
    env.reset(seed=5)
    returns = np.zeros((10, 10))
    for first, second in np.ndindex(10, 10):
        fork = env.fork()
        returns[first, second] = fork.step(first)[1] + fork.step(second)[1]
    np.testing.assert_allclose(env.lookahead(), returns.max(1), atol=1e-6)


def test_a_block_is_read_once_for_all_actions_that_hold_the_same():
    env: Any = SpanControlEnv(**make_kwargs(spans=[4, BLOCK, CTX], num_actions=3))
    env.reset(seed=0)
    model, reads = env.core.stack.model, []
    model.base_model.register_forward_hook(lambda *_: reads.append(1))
    core = env.core
    # All 16 tokens of the first block stay with the second and the third action.
    core.try_all_actions(core.search_state, 0)
    assert len(reads) == 2


def test_tables_are_bit_equal():
    own = make_kwargs()
    tabulate(NAME, 2, **own)
    arguments = {**own, "num_levels": 2, "cost_coef": 0.7}
    live: Any = SpanControlVectorEnv(2, **arguments)
    stored: Any = SpanControlVectorEnv(2, backend="table", **arguments)
    assert data_equivalence(live.reset(seed=0), stored.reset(seed=0), exact=True)
    for action in [0, 9, 4, 7, 2, 5]:
        actions = np.array([action, 9 - action])
        assert data_equivalence(live.lookahead(), stored.lookahead(), exact=True)
        assert data_equivalence(live.step(actions), stored.step(actions), exact=True)


def test_a_stored_state_continues_bit_exactly():
    one, two = (SpanControlEnv(**make_kwargs()) for _ in range(2))
    one.reset(seed=2)
    one.step(3)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for action in [7, 0, 9]:
        assert data_equivalence(one.step(action), two.step(action), exact=True)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"blocks": 1}, "blocks must be at least 2 and divide ctx=48, got 1"),
    ({"blocks": 5}, "blocks must be at least 2 and divide ctx=48, got 5"),
    ({"groups": 2}, "give either groups or blocks"),
    ({"reward": "fidelity"}, "reward must not be 'fidelity' with blocks"),
    ({"observation_time": "previous"}, "observation_time must be 'current' with blocks"),
    ({"num_layers": 3}, "num_layers is set by blocks: omit it, or give 2, not 3"),
    ({"sinks": 48}, "sinks must be less than ctx=48"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda each: str(each)[:30])
def test_bad_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        gym.make(NAME, **make_kwargs(**arguments))


@torch.no_grad()
def test_models_of_other_families():
    """Learned positions stay those in the document; windows of the model itself are refused."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(config).eval()
    stack = PretrainedCacheStack(model, 24, 3, spans=(4, "full"), sinks=0)
    tokens = torch.arange(24)[None]
    caches = stack.start_caches(tokens, (None, None))
    prepared = stack.prepare_layer(0, tokens, cache=caches[0])
    output = stack.run_prepared(0, prepared, torch.tensor([0])).output
    mask = torch.ones(16, 16, dtype=torch.bool).tril()
    mask[8:, :4] = False
    expected = model.transformer(input_ids=tokens[:, :16], attention_mask=mask[None, None])
    torch.testing.assert_close(output, expected.last_hidden_state[:, 8:])
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    mistral = MistralConfig(**sizes, **heads, num_hidden_layers=1, sliding_window=16)
    with pytest.raises(ValueError, match="windows of 16 tokens"):
        PretrainedCacheStack(MistralForCausalLM(mistral).eval(), 24, 3)


def test_the_default_config_needs_no_model():
    config = make_config(NAME, {})
    assert (config.num_layers, config.num_actions, config.groups) == (3, 4, 0)
    assert config.full_qk_pairs == 128 * 128 * 2
