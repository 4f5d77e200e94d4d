"""Rewards, datasets and layers of a user's own by ``module:Class``."""

import dataclasses
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import EnvConfig, SB3SpanControlVecEnv, make_config
from spangym.envs.rewards import make_reward

ENV_ID = "spangym/SpanControl-v0"
SMALL: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2}
OWN = """
    import numpy as np
    import torch

    from spangym.attention import IntegratedAttention, SpanConfig
    from spangym.envs import Dataset, Reward, Stream

    class ShortSpan(Reward):
        components = ("tokens", "cost")

        def __init__(self, cost_coef=0.0, factor=1.0):
            super().__init__(cost_coef)
            self.factor = factor

        def __call__(self, context):
            tokens = -self.factor * context.layer_output.span.double()
            return torch.stack([tokens, self.cost(context)], dim=-1)

    class Free(Reward):
        components = ("zero",)

        def __init__(self):
            super().__init__()

        def __call__(self, context):
            return torch.zeros(len(context.layer_output.output), 1)

    class NoContext(Reward):
        def __call__(self):
            return None

    class Ramp(Dataset):
        def __init__(self, split, step=1):
            self.step = step
            self.content_type = f"ramp for {split}"

        def sample(self, generator, chunks, ctx):
            content = generator.integers(256) + self.step * np.arange(chunks * ctx)
            content = (content % 256).astype(np.uint8).reshape(chunks, ctx)
            return Stream(content, (self.content_type,) * chunks)

    def make_layers(num_layers=3, causal=False):
        config = SpanConfig(win_size=4, max_span=8, max_dist=8, causal=causal)
        return [IntegratedAttention(24, 8, 2, config) for _ in range(num_layers)]

    def no_layers():
        return [torch.nn.Linear(2, 2)]

    class NoSample(Dataset):
        pass

    class Fails(Ramp):
        def __init__(self):
            raise LookupError("no such file")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    (tmp_path / "own_classes.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_classes", raising=False)
    return "own_classes:{}".format


def test_a_reward_by_name_in_every_interface(own: Callable[[str], str]):
    kwargs = {
        **SMALL,
        "reward": own("ShortSpan"),
        "reward_kwargs": {"factor": np.float32(2)},
        "cost_coef": 0.5,
    }
    env = gym.make(ENV_ID, **kwargs)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(9)
    assert info["reward_components"]["tokens"] == -2 * info["span"]
    assert info["reward_components"]["cost"] == -0.5 * info["qk_pairs"] / 16**2 / 2
    assert reward == pytest.approx(sum(info["reward_components"].values()))
    envs = gym.make_vec(ENV_ID, 2, **kwargs)
    envs.reset(seed=0)
    assert envs.step(np.array([9, 9]))[1][0] == np.float32(reward)
    sb3 = SB3SpanControlVecEnv(make_config(ENV_ID, kwargs), 2)
    sb3.seed(0)
    sb3.reset()
    assert sb3.step(np.array([9, 9]))[1][0] == np.float32(reward)


def test_a_dataset_by_name(own: Callable[[str], str]):
    for split in ("train", "evaluation"):
        kwargs = {"dataset": own("Ramp"), "dataset_kwargs": {"step": 3}, "split": split}
        env = gym.make(ENV_ID, **SMALL, **kwargs)
        assert env.reset(seed=0)[1]["content_type"] == f"ramp for {split}"
        content = env.unwrapped.core.episode.content  # pyright: ignore[reportAttributeAccessIssue]
        assert set(np.diff(content.flatten().numpy()).tolist()) <= {3, 3 - 256}


@pytest.mark.parametrize("name", ["quality", "attention"])
def test_weights_of_coverage_and_entropy(name: str):
    def components(**weights: float) -> dict[str, float]:
        env = gym.make(ENV_ID, **SMALL, reward=name, reward_kwargs=weights)
        env.reset(seed=0)
        return env.step(5)[4]["reward_components"]

    default = components()
    assert components(coverage_weight=1, entropy_weight=0.1) == default
    other = components(coverage_weight=0.5, entropy_weight=-0.2)
    assert other["coverage"] == pytest.approx(0.5 * default["coverage"], rel=1e-6)
    assert other["entropy"] == pytest.approx(-2 * default["entropy"], rel=1e-6)
    assert default["entropy"] != 0


def test_layers_by_name(own: Callable[[str], str]):
    kwargs = {"layers": own("make_layers"), "chunks_per_episode": 2}

    def rollout(**more: Any) -> list[float]:
        env = gym.make(ENV_ID, **kwargs, **more)
        env.reset(seed=0)
        return [float(env.step(5)[1]) for _ in range(4)]

    config = make_config(ENV_ID, kwargs)
    assert (config.num_layers, config.dims, config.heads, config.ctx) == (3, 8, 2, 24)
    assert (config.win_size, config.max_span) == (4, 8)
    assert rollout() == rollout()
    assert rollout() != rollout(weights_seed=1)
    assert make_config(ENV_ID, {**kwargs, "ctx": 16}).ctx == 16
    assert EnvConfig(**dataclasses.asdict(config)) == config
    causal = make_config(ENV_ID, {**kwargs, "layers_kwargs": {"num_layers": 1, "causal": True}})
    assert (causal.num_layers, causal.full_qk_pairs) == (1, 24 * 25 // 2)
    envs = gym.make_vec(ENV_ID, 2, **kwargs)
    envs.reset(seed=0)
    assert [float(envs.step(np.array([5, 5]))[1][0]) for _ in range(4)] == rollout()
    assert {*config.module_hashes()} == {"layers"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": "own_classes:make_layer"}, "did you mean 'make_layers'"),
        ({"layers": "own_classes:no_layers"}, r"cannot be made.*\['Linear'\]"),
        ({"layers": "own_classes:make_layers", "dims": 16}, "dims must be 8, as the layers"),
        ({"layers": "own_classes:make_layers", "ctx": 32}, "ctx must be at most 24"),
        ({"layers": "own_classes:make_layers", "temp_scale": 1}, "temp_scale is set by the layers"),
        ({"layers": "own_classes:make_layers", "checkpoint": "collapse"}, "must be|not both"),
        (
            {"layers": "own_classes:make_layers", "layers_kwargs": {"causl": True}},
            "no argument 'causl'; did you mean 'causal'",
        ),
        ({"layers": "three"}, "'three' must be named module:function"),
        ({"layers_kwargs": {"causal": True}}, "layers_kwargs is for layers"),
    ],
)
@pytest.mark.usefixtures("own")
def test_wrong_layers_are_named(kwargs: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        gym.make(ENV_ID, **kwargs)


def test_a_class_without_a_cost_is_free(own: Callable[[str], str]):
    assert make_reward(own("Free"), 0.0, {}).cost_coef == 0
    with pytest.raises(ValueError, match=r"own_classes:Free.*no argument 'cost_coef'"):
        make_reward(own("Free"), 0.5, {})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reward": "own_classes:ShortSpam"}, "no class 'ShortSpam'; did you mean 'ShortSpan'"),
        ({"reward": "absent_module:A"}, "there is no module 'absent_module'"),
        ({"reward": "own_classes:Ramp"}, r"not a subclass of spangym\.envs\.Reward"),
        ({"reward": "own_classes:np"}, "'np' .*not a class but a module"),
        ({"reward": "own_classes:NoContext"}, r"own_classes\.py:\d+.*must take \(context\)"),
        (
            {"reward": "own_classes:ShortSpan", "reward_kwargs": {"factr": 1}},
            "no argument 'factr'; did you mean 'factor'",
        ),
        ({"reward_kwargs": {"entropy_wait": 1}}, "'entropy_wait'; did you mean 'entropy_weight'"),
        ({"reward_kwargs": {"entropy_weight": "high"}}, "entropy_weight must be a number"),
        ({"reward": "task", "reward_kwargs": {"entropy_weight": 1}}, "no argument 'entropy_we"),
        ({"reward_kwargs": 3}, "reward_kwargs must be a table of arguments, got 3"),
        ({"dataset": "own_classes:ShortSpan"}, r"not a subclass of spangym\.envs\.Dataset"),
        ({"dataset": "own_classes:NoSample"}, "abstract|sample"),
        ({"dataset": "own_classes:Fails"}, "own_classes:Fails.* LookupError: no such file"),
        ({"dataset": "text", "dataset_kwargs": {"step": 1}}, "'text' takes no dataset_kwargs"),
        (
            {"dataset": "own_classes:Ramp", "dataset_kwargs": {"stp": 1}},
            "no argument 'stp'; did you mean 'step'",
        ),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_wrong_is_named(kwargs: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        gym.make(ENV_ID, **SMALL, **kwargs)


def test_module_hashes_follow_the_source(own: Callable[[str], str], tmp_path: Path):
    config = EnvConfig(dataset=own("Ramp"), reward=own("ShortSpan"))
    before = config.module_hashes()
    assert {*before} == {"dataset", "reward"}
    assert EnvConfig().module_hashes() == {}
    with (tmp_path / "own_classes.py").open("a") as file:
        file.write("\n# changed\n")
    after = config.module_hashes()
    assert all(before[name] != after[name] for name in before)
    assert EnvConfig(**dataclasses.asdict(config)) == config
