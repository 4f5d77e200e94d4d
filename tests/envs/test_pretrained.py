"""Environments of pretrained models: objects and names, rewards, tables, interfaces, bad input."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence

from spangym.attention.transformers.load_model import load_model
from spangym.envs import SpanControlEnv, SpanControlVectorEnv, make_config, tabulate
from spangym.envs.data.dataset import Dataset, NoiseDataset, Stream
from spangym.envs.env_config import EnvConfig
from spangym.envs.rewards import FidelityReward
from spangym.experiments.tables.build_tables import plan_tables
from tests.factories import tiny_model_kwargs

NAME = "spangym/Pretrained-v0"
ACTIONS = [0, 9, 4, 7, 2, 5]


def play(env: Any, actions: list[int]) -> list[Any]:
    """Results of an episode's first steps, from seed 3."""
    env = env.unwrapped
    return [env.reset(seed=3), *(env.step(action) for action in actions)]


def make_objects() -> dict[str, Any]:
    """The tiny model and its tokenizer as objects."""
    loaded = load_model(tiny_model_kwargs()["model"])
    return {**tiny_model_kwargs(), "model": loaded.model, "tokenizer": loaded.tokenizer}


def test_a_model_as_an_object_is_the_one_of_the_folder():
    named, own = gym.make(NAME, **tiny_model_kwargs()), gym.make(NAME, **make_objects())
    for one, two in zip(play(named, ACTIONS), play(own, ACTIONS), strict=True):
        assert data_equivalence(one, two, exact=True)


def test_environments_share_the_model():
    objects = make_objects()
    envs = SpanControlVectorEnv(3, **objects)
    assert envs.core.stack.get_submodule("frontend") is objects["model"]
    config = make_config(NAME, tiny_model_kwargs(groups=1))
    assert (config.num_layers, config.num_actions, config.dims, config.heads) == (1, 10, 32, 4)


def test_the_specification_makes_the_same_environment():
    env = gym.make(NAME, **tiny_model_kwargs(cost_coef=0.1))
    assert env.spec is not None
    again = gym.make(env.spec)
    for one, two in zip(play(env, ACTIONS[:2]), play(again, ACTIONS[:2]), strict=True):
        assert data_equivalence(one, two, exact=True)
    assert again.unwrapped.config == env.unwrapped.config  # pyright: ignore[reportAttributeAccessIssue]


def test_full_span_costs_everything_and_loses_nothing():
    env: Any = SpanControlEnv(**tiny_model_kwargs(cost_coef=0.4, groups=1))
    env.reset(seed=0)
    *_, info = env.step(9)
    assert info["reward_components"] == {"task": 0.0, "cost": pytest.approx(-0.4)}
    assert (info["span"], info["window"], info["span_scale"]) == (32, 1, 1.0)
    assert info["qk_pairs"] == 32 * 33 // 2
    *_, info = env.step(1)
    assert info["qk_pairs"] == sum(min(2, q + 1) + max(0, min(2, q - 1)) for q in range(32))


def test_the_reward_task_is_the_excess_in_bits_a_byte():
    """One group, against losses of the model under a mask."""
    objects = make_objects()
    env: Any = SpanControlEnv(**{**objects, "groups": 1})
    env.reset(seed=1)
    tokens = env.core.episode.content[:, 0]
    *_, info = env.step(4)
    position = torch.arange(32)
    distance = position[:, None] - position
    mask = ((distance < 6) | (position < 2)) & (distance >= 0)
    text = objects["tokenizer"].decode(tokens[0, 1:])
    losses = []
    for attention_mask in (None, mask[None, None]):
        with torch.no_grad():
            logits = objects["model"](input_ids=tokens, attention_mask=attention_mask).logits
        picked = logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])
        losses.append(-picked.sum().item() / np.log(2) / len(text.encode()))
    excess = losses[1] - losses[0]
    assert info["reward_components"]["task"] == pytest.approx(-excess, abs=1e-5)


def test_fidelity_is_the_distance_to_the_outputs_at_full_span():
    objects = make_objects()
    env: Any = SpanControlEnv(**{**objects, "reward": "fidelity", "groups": 1})
    env.reset(seed=1)
    tokens = env.core.episode.content[:, 0]
    *_, info = env.step(4)
    position = torch.arange(32)
    distance = position[:, None] - position
    mask = ((distance < 6) | (position < 2)) & (distance >= 0)
    with torch.no_grad():
        one = objects["model"].model(input_ids=tokens).last_hidden_state
        two = objects["model"].model(input_ids=tokens, attention_mask=mask[None, None])
    cosine = torch.nn.functional.cosine_similarity(one, two.last_hidden_state, dim=-1).mean()
    assert info["reward_components"]["fidelity"] == pytest.approx(cosine.item() - 1, abs=1e-5)
    *_, info = env.step(9)
    assert info["reward_components"]["fidelity"] == pytest.approx(0, abs=1e-12)


def test_fidelity_of_layers_of_this_project():
    arguments = {"chunks_per_episode": 1, "reward": "fidelity", "cost_coef": 0.5}
    env: Any = gym.make("spangym/LongRange-v0", **arguments).unwrapped
    env.reset(seed=0)
    assert env.step(9)[-1]["reward_components"]["fidelity"] == 0
    assert env.step(2)[-1]["reward_components"]["fidelity"] < -1e-4


@pytest.mark.parametrize("groups", [1, 2])
def test_the_oracle_sees_every_action_sequence(groups: int):
    env: Any = SpanControlEnv(**tiny_model_kwargs(groups=groups, cost_coef=0.3))
    env.reset(seed=5)
    best = env.lookahead()
    returns = np.zeros((10, 10 ** (groups - 1)))
    for index in np.ndindex(10, 10 ** (groups - 1)):
        fork = env.fork()
        rewards = [fork.step(index[0])[1]]
        rewards += [fork.step(index[1])[1] for _ in range(groups - 1)]
        returns[index] = sum(rewards)
    np.testing.assert_allclose(best, returns.max(1), atol=1e-6)


@pytest.mark.parametrize("reward", ["task", "fidelity"])
def test_one_table_serves_both_rewards(reward: str):
    own = tiny_model_kwargs()
    table = tabulate(NAME, 2, **own)
    assert table.arrays["terms_1"].shape == (2, 100, 6)
    arguments = {**own, "num_levels": 2, "reward": reward, "cost_coef": 0.7}
    live: Any = SpanControlVectorEnv(2, **arguments)
    stored: Any = SpanControlVectorEnv(2, backend="table", **arguments)
    assert data_equivalence(live.reset(seed=0), stored.reset(seed=0), exact=True)
    for action in ACTIONS:
        actions = np.array([action, 9 - action])
        assert data_equivalence(live.peek(), stored.peek(), exact=True)
        assert data_equivalence(live.step(actions), stored.step(actions), exact=True)


def test_a_shipped_table_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It serves its levels, whatever code made it; live layers are made on demand."""
    own = tiny_model_kwargs()
    table = tabulate(NAME, 4, **own)
    arguments = {**own, "num_levels": 2, "start_level": 1, "backend": "table", "cost_coef": 0.2}
    exact: Any = SpanControlVectorEnv(2, **arguments)
    shutil.copytree(table.path, tmp_path / "any-name")
    file = tmp_path / "any-name" / "table.json"
    metadata = json.loads(file.read_text())
    metadata["identity"] |= {"code_sha256": "other", "torch": "other", "layers_sha256": "other"}
    file.write_text(json.dumps(metadata))
    monkeypatch.setattr("spangym.envs.tables.table_folder.SHIPPED_DIR", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("spangym.envs.core.load_components", None)
        shipped: Any = SpanControlVectorEnv(2, **arguments)
        assert shipped.core.table.path == tmp_path / "any-name"
        assert plan_tables([make_config(NAME, arguments)]) == []
        assert data_equivalence(exact.reset(seed=0), shipped.reset(seed=0), exact=True)
        assert data_equivalence(exact.lookahead(), shipped.lookahead(), exact=True)
        actions = np.array([3, 6])
        for _ in range(2):
            assert data_equivalence(exact.step(actions), shipped.step(actions), exact=True)
        with pytest.raises(ValueError, match="give no coverages"):
            shipped.action_coverages()
        twin = shipped.fork()
        assert data_equivalence(twin.step(actions), exact.step(actions), exact=True)
        shipped.step(actions)
    assert torch.equal(exact.core.state.hidden, shipped.core.state.hidden)
    other: Any = SpanControlVectorEnv(2, **{**arguments, "start_level": 0})
    assert other.core.table.path == tmp_path / "any-name"
    with pytest.raises(ValueError, match="there is no table of levels 3 to 4"):
        SpanControlVectorEnv(2, **{**arguments, "start_level": 3})


def test_a_stored_state_continues_bit_exactly():
    for reward in ("task", "fidelity"):
        one, two = (SpanControlEnv(**tiny_model_kwargs(reward=reward)) for _ in range(2))
        one.reset(seed=2)
        one.step(3)
        two.load_state_dict(copy.deepcopy(one.state_dict()))
        for action in ACTIONS[1:]:
            assert data_equivalence(one.step(action), two.step(action), exact=True)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_the_rendering_shows_the_span(mode: str):
    env = gym.make(NAME, render_mode=mode, **tiny_model_kwargs())
    env.reset(seed=0)
    pictures = []
    for action in (0, 9):
        env.step(action)
        pictures.append(env.render())
    assert not np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[1]))


class Ids(Dataset):
    """Token ids, without a tokenizer."""

    vocab_size = 290

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        return Stream(generator.integers(290, size=(chunks, ctx)), ("ids",) * chunks)


def test_a_dataset_of_tokens_needs_no_tokenizer():
    objects = {**make_objects(), "dataset": Ids(), "reward": "fidelity"}
    del objects["tokenizer"]
    env = SpanControlEnv(**objects)
    play(env, ACTIONS)
    with pytest.raises(ValueError, match="counts bits a byte: give the model's tokenizer"):
        SpanControlEnv(**{**objects, "reward": "task"})


class Frames(Dataset):
    """Frames of four channels."""

    channels = 4

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        return Stream(generator.random((chunks, ctx, 4), np.float32), ("frames",) * chunks)


class LargeIds(Ids):
    """More ids than the model knows."""

    vocab_size = 400


def test_datasets_that_the_model_cannot_read():
    for dataset, message in (
        (Frames(), "must be of text or tokens for a pretrained model, got frames"),
        (LargeIds(), "gives 400 different tokens, the model knows 296"),
    ):
        with pytest.raises(ValueError, match=message):
            SpanControlEnv(**tiny_model_kwargs(dataset=dataset))
    SpanControlEnv(**tiny_model_kwargs(dataset=NoiseDataset(b"ab")))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"spans": [0, 4]}, "at least 1"),
    ({"spans": [-3, "full"]}, "at least 1"),
    ({"spans": [8, 4]}, "ascending"),
    ({"spans": [8]}, "at least two"),
    ({"spans": ["full", 8]}, "ascending"),
    ({"spans": 8}, "must be a list of integers and 'full', got 8"),
    ({"spans": [4, 2.5]}, "positive integer or 'full', got 2.5"),
    ({"spans": [4, "all"]}, "positive integer or 'full', got 'all'"),
    ({"sinks": 32}, "sinks must be less than ctx=32, got 32"),
    ({"sinks": -1}, "sinks must be in 0..1048576, got -1"),
    ({"groups": 3}, "groups must be at most 2, the layers of the model"),
    ({"groups": -1}, "groups must be in 0..1024, got -1"),
    ({"groups": 1.5}, "groups must be an integer"),
    ({"ctx": 257}, "ctx must be at most 256, as the model"),
    ({"reward": "quality"}, "reward must not be 'quality' with a model"),
    ({"reward": "attention"}, "reward must not be 'attention' with a model"),
    ({"num_actions": 6}, "num_actions is set by spans: omit it, or give 10, not 6"),
    ({"num_layers": 1}, "num_layers is set by groups: omit it, or give 2, not 1"),
    ({"win_size": 8}, "win_size is set by model"),
    ({"dims": 64}, "dims is set by model"),
    ({"layer_class": "focus"}, "layer_class is not for the model"),
    ({"weights_seed": 3}, "weights_seed is not for the model"),
    ({"control_kv_cache": True}, "control_kv_cache is not for the model"),
    ({"checkpoint": "long-range"}, "either model or checkpoint"),
    ({"group": 2}, "did you mean 'groups'"),
    ({"model": "no/such/folder/at/all"}, "model 'no/such/folder/at/all' is neither a folder nor"),
    ({"model": 3}, "model must be a transformers.PreTrainedModel"),
    ({"model": torch.nn.Linear(2, 2)}, "got Linear"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda each: str(each)[:30])
def test_bad_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
        gym.make(NAME, **tiny_model_kwargs(**arguments))
    assert "\n" not in str(caught.value)


def test_arguments_of_models_without_one():
    for name, value in (("groups", 2), ("spans", [4, 8]), ("sinks", 1)):
        with pytest.raises(ValueError, match=f"{name} is for a pretrained model"):
            make_config("SpanControl-v0", {name: value})


def test_a_tokenizer_of_another_model():
    objects = make_objects()
    objects["tokenizer"].add_tokens([f"<more-{number}>" for number in range(5)])
    with pytest.raises(ValueError, match="gives 301 different tokens, the model knows 296"):
        SpanControlEnv(**objects)


def test_what_pretrained_models_cannot_answer():
    env: Any = SpanControlEnv(**tiny_model_kwargs())
    env.reset(seed=0)
    for question in (env.action_coverages, env.predictor_action):
        with pytest.raises(ValueError, match="layers of this model give no"):
            question()
    with pytest.raises(ValueError, match="edge can be soft"):
        env.soft_span_loss(torch.tensor([0.5, 0.5]))


def test_the_default_config_needs_no_model():
    config = make_config(NAME, {})
    assert (config.dims, config.heads, config.ctx, config.num_layers) == (576, 9, 512, 1)
    assert config.spans == (16, 32, 64, 128, 256, "full")
    assert config.full_qk_pairs == 512 * 513 // 2
    assert EnvConfig.from_arguments(vars(config)) == config
    assert isinstance(make_config(NAME, {"reward": "fidelity"}).make_reward(), FidelityReward)


def test_a_missing_extra_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spangym.attention.transformers.load_model._is_installed", lambda _: False)
    with pytest.raises(ValueError, match=r"model 'smollm2-135m' needs .* of the extra smollm"):
        gym.make(NAME)
