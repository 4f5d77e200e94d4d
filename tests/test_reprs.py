"""Reprs of public objects are short, and name the class and its options."""

import importlib
import inspect
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import pytest
import torch

from spangym.agents import (
    KMeansDiscretizer,
    LinearSchedule,
    Refiner,
    get_agent_spec,
)
from spangym.attention import (
    AdaptiveSpan,
    AdaptiveUpdateAttention,
    AttentionCombiner,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    MultiHeadAttention,
    ObservationSpec,
    PooledAttention,
    Predictor,
    ProjectionModule,
    RefreshPredictor,
    SlidingWindowAttention,
    SpanConfig,
)
from spangym.envs import (
    EnvComponents,
    EnvConfig,
    SB3SpanControlVecEnv,
    SpanControlCore,
    TableCore,
    tabulate,
)
from spangym.envs.data.dataset import MixtureDataset, NoiseDataset, TextDataset
from spangym.experiments.studies.load_study import load_study
from tests.factories import SMALL_ENV_KWARGS, make_exported_policy

AGENTS = [
    *("dqn", "refiner", "refiner-kmeans", "random", "fixed:3", "full", "predictor"),
    *("threshold", "content-oracle", "myopic", "oracle", "learned-span"),
]


def make_objects() -> list[Any]:
    config = EnvConfig(**SMALL_ENV_KWARGS)
    layers = [
        each(24, 16, 4)
        for each in (IntegratedAttention, FocusAttention, HybridAttention, LocalGlobalAttention)
    ]
    with_policy, with_refiner = IntegratedAttention(24, 16, 4), IntegratedAttention(24, 16, 4)
    with_policy.refiner = make_exported_policy()
    with_refiner.refiner = Refiner(epsilon=0.5)
    output = with_policy.step(torch.randn(20, 24, 16), return_stats=True)
    causal = IntegratedAttention(24, 16, 4, SpanConfig(causal=True))
    causal.refiner = Refiner()
    core = SpanControlCore(config, 2)
    _, infos = core.reset([np.random.default_rng(seed) for seed in range(2)])
    del infos
    on_table = {**SMALL_ENV_KWARGS, "num_levels": 1}
    table = tabulate("SpanControl-v0", **on_table)
    specs = [get_agent_spec(name) for name in AGENTS]
    return [
        *layers,
        with_policy,
        with_refiner,
        IntegratedAttention.original(24, 16, 4),
        AdaptiveSpan(2, SpanConfig()),
        SlidingWindowAttention(16, 2, SpanConfig(local_projections=True)),
        AdaptiveUpdateAttention(16, 2),
        MultiHeadAttention(16, 2),
        PooledAttention(16, 2),
        ProjectionModule(16, 2),
        AttentionCombiner(16),
        Predictor(16),
        RefreshPredictor(16),
        *(make_exported_policy(*each) for each in (("state", "lookup"), ("box", "kmeans"))),
        SpanConfig(),
        ObservationSpec(16),
        output,
        output.cache,
        output.cache.key_value,
        output.stats,
        causal.decode(torch.randn(20, 24, 16))[1],
        with_policy.attn_local.spans(torch.ones(2)),
        with_policy.attn_local(torch.randn(20, 24, 16), torch.ones(20)),
        config,
        EnvComponents(),
        table,
        TableCore(EnvConfig(**on_table, backend="table"), 2),
        core,
        core.state,
        core.step(np.zeros(2, np.int64)),
        core.reward,
        TextDataset("train"),
        MixtureDataset([NoiseDataset(), TextDataset("evaluation")], [1, 2]),
        NoiseDataset().sample(np.random.default_rng(0), 2, 200),
        SB3SpanControlVecEnv(config, 2),
        gym.make("spangym/SpanControl-v0", **SMALL_ENV_KWARGS),
        gym.make("spangym/SpanControl-v0", **SMALL_ENV_KWARGS).unwrapped,
        gym.make_vec("spangym/SpanControl-v0", 2, **SMALL_ENV_KWARGS),
        *specs,
        *(spec.make(seed=0) for spec in specs),
        KMeansDiscretizer(12),
        LinearSchedule(1.0, 0.0, 100),
        Refiner(tie_breaking="random"),
    ]


def test_reprs_name_the_class_and_are_short():
    objects = make_objects()
    for each in objects:
        text = repr(each)
        assert type(each).__name__ in text or isinstance(each, gym.Wrapper)
        assert " at 0x" not in text, text
        assert len(text) < 1300, text
    types = {base for each in objects for base in type(each).__mro__}
    public: set[type] = set()
    for package in ("attention", "envs", "agents"):
        module = importlib.import_module(f"spangym.{package}")
        values = (getattr(module, name) for name in module.__all__)
        public |= {value for value in values if inspect.isclass(value)}
    # Arguments of methods, and classes without instances of their own.
    other = {"RewardContext", "LayerStack"}
    forgotten = {each.__name__ for each in public - types if Protocol not in each.__bases__}
    assert forgotten <= other


@pytest.mark.parametrize(
    "config",
    [
        SpanConfig(win_size=32, causal=True, temperature_law="shorter"),
        ObservationSpec(16, encoding="box", pool_groups=4),
        EnvConfig(ctx=64, layer_variant="original", fixes=("cut",)),
        LinearSchedule(1.0, 0.1, 100),
        IntegratedAttention.original(24, 16, 4, fixes="cut").config,
    ],
    ids=lambda each: type(each).__name__,
)
def test_repr_of_a_config_makes_it(config: Any):
    assert eval(repr(config), vars(importlib.import_module(type(config).__module__))) == config


def test_repr_of_a_refiner_counts():
    refiner = Refiner(alpha=0.2, states=50, double_q=True)
    for state in (3, 4, 3):
        refiner.update(state, action=1, reward=1.0, next_state=0)
    text = repr(refiner)
    assert "alpha=0.2" in text
    assert "states=50" in text
    assert "known states: 2, updates: 3" in text
    assert "gamma" not in text


def test_repr_of_an_exported_policy_says_where_it_comes_from():
    metadata = {"algo": "ppo", "environment": "spangym/SpanBudget-v0", "kwargs": {"x": 1}}
    text = repr(make_exported_policy("digits", metadata=metadata))
    assert "algo='ppo', environment='spangym/SpanBudget-v0'" in text
    assert "MLPPolicy(355-20-10, ReLU, 10 actions)" in text


def test_repr_of_a_study_is_short():
    text = repr(load_study("quickstart"))
    assert "quickstart" in text
    assert len(text) < 2000
