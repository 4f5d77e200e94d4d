"""Baselines that ask the environment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spangym.agents.baselines.constant import BaselinePolicy, FixedSpanPolicy
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.env_aware import (
    CoverageThresholdPolicy,
    EnvAwarePolicy,
    MyopicPolicy,
    OracleAgent,
    SpanPredictorPolicy,
)
from spangym.agents.baselines.learned_span import LearnedSpanAgent
from spangym.attention import IntegratedAttention, SpanConfig
from spangym.envs import SpanControlEnv, SpanControlVectorEnv, make_config

from ...factories import make_task_env, make_training_env, played_actions

AGENTS: list[type[EnvAwarePolicy]] = [
    SpanPredictorPolicy,
    CoverageThresholdPolicy,
    MyopicPolicy,
    OracleAgent,
    ContentOracleAgent,
    LearnedSpanAgent,
]
EACH_AGENT = pytest.mark.parametrize("make", AGENTS)


def play(agent: BaselinePolicy, steps: int = 5, num_envs: int = 2) -> list[list[int]]:
    return played_actions(agent, make_task_env(num_envs, split="evaluation"), steps)


@EACH_AGENT
def test_steps_storage_and_environment(make: type[EnvAwarePolicy], tmp_path: Path):
    env, agent = make_task_env(2), make()
    agent.learn(env, 10)
    assert env.steps == 10
    with pytest.raises(RuntimeError, match=r"on_episode_start\(env\)"):
        agent.predict(np.zeros((2, 1)))
    agent.save(tmp_path / "agent")
    assert [each.name for each in tmp_path.iterdir()] == ["agent.json"]
    loaded = make()
    loaded.load(tmp_path / "agent")
    actions = play(loaded)
    assert actions == play(agent)
    assert np.shape(actions) == (5, 2)


@EACH_AGENT
def test_all_interfaces_get_the_same_actions(make: type[EnvAwarePolicy]):
    """In the scalar, Gymnasium's vector and Stable-Baselines3's environment."""
    agent = make()
    if isinstance(agent, ContentOracleAgent | LearnedSpanAgent):
        agent.learn(make_task_env(2), 8)
    expected = played_actions(agent, make_task_env(1, split="evaluation"), 4)
    config = make_config("spangym/LongRange-v0", {"chunks_per_episode": 2, "split": "evaluation"})
    scalar, vector = SpanControlEnv(**vars(config)), SpanControlVectorEnv(1, **vars(config))
    envs: list[Any] = [scalar, vector]
    for env in envs:
        seen = env.reset(seed=0)[0]
        agent.on_episode_start(env)
        for (action,) in expected:
            observations = seen[None] if env is scalar else seen
            assert agent.predict(observations).tolist() == [action]
            seen = env.step(action if env is scalar else np.array([action]))[0]


def test_predictor():
    layers = [
        IntegratedAttention(
            16, 8, 2, SpanConfig(win_size=8, max_span=16, action_scale="absolute")
        ).eval()
        for _ in range(2)
    ]
    for layer, prediction in zip(layers, (0.2, 0.6), strict=True):
        layer.span_pred.linear.weight.data.zero_()
        layer.span_pred.linear.bias.data.fill_(np.log(prediction / (1 - prediction)))
    env = SpanControlVectorEnv(3, layers=layers, chunks_per_episode=2)
    observations, _ = env.reset(seed=0)
    agent = SpanPredictorPolicy()
    agent.on_episode_start(env)
    for action in (2, 5, 2, 5):
        assert agent.predict(observations).tolist() == [action] * 3
        env.step(np.full(3, action))


class FakeEnv:
    """An environment with given answers."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, lambda *_, answer=answer: np.array(answer))


def test_threshold_is_the_smallest_span_that_reaches_it():
    rising = [0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 0.95, 1.0, 1.0, 1.0]
    agent = CoverageThresholdPolicy(0.9)
    agent.on_episode_start(FakeEnv(action_coverages=[rising, [0.0] * 9 + [0.89], [1.0] * 10]))
    assert agent.predict(np.zeros(3)).tolist() == [5, 9, 0]


def test_myopic_and_oracle_choose_the_best_action():
    for agent, name in ((MyopicPolicy(), "peek"), (OracleAgent(), "lookahead")):
        agent.on_episode_start(FakeEnv(**{name: np.eye(10)[[4, 0]]}))
        assert agent.predict(np.zeros(2)).tolist() == [4, 0]
        agent.on_episode_start(FakeEnv(**{name: np.zeros(10)}))
        assert agent.predict(np.zeros(1)).tolist() == [0]
        # With control of the cache, the span changes slowest.
        agent.on_episode_start(FakeEnv(**{name: np.eye(40)[[4 * 7 + 2, 39]]}))
        assert agent.predict(np.zeros(2)).tolist() == [[7, 1, 0], [9, 1, 1]]


def test_oracle_uses_its_beam():
    env = FakeEnv()
    env.lookahead = lambda beam: np.eye(10)[[beam]]  # pyright: ignore[reportAttributeAccessIssue]
    agent = OracleAgent(3)
    agent.on_episode_start(env)
    assert agent.predict(np.zeros(1)).tolist() == [3]


@pytest.mark.parametrize("make", [CoverageThresholdPolicy, MyopicPolicy, OracleAgent])
def test_control_of_the_cache(make: type[EnvAwarePolicy]):
    arguments: Any = {
        "dims": 8,
        "heads": 2,
        "ctx": 16,
        "chunks_per_episode": 1,
        "control_kv_cache": True,
    }
    env = SpanControlVectorEnv(2, **arguments, cost_coef=0.5)
    observations, _ = env.reset(seed=0)
    agent = make()
    agent.on_episode_start(env)
    actions = agent.predict(observations)
    assert actions.shape == (2, 3)
    assert env.action_space.contains(actions)


def test_oracle_has_the_highest_return():
    def earned(agent: BaselinePolicy) -> float:
        env = SpanControlVectorEnv(
            4, **vars(make_config("spangym/LongRange-v0", {"chunks_per_episode": 2}))
        )
        observations, _ = env.reset(seed=5)
        if isinstance(agent, EnvAwarePolicy):
            agent.on_episode_start(env)
        total = 0.0
        for _ in range(4):
            observations, rewards, *_ = env.step(agent.predict(observations))
            total += rewards.sum()
        return total

    oracle = earned(OracleAgent())
    assert oracle >= earned(MyopicPolicy())
    assert oracle > max(earned(FixedSpanPolicy(action)) for action in range(10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoverageThresholdPolicy(1.5), "target .*1.5"),
        (lambda: OracleAgent(0), "beam .*0"),
        (lambda: ContentOracleAgent(-0.1), "epsilon .*-0.1"),
        (lambda: LearnedSpanAgent(-1.0), "cost_coef .*-1.0"),
        (lambda: LearnedSpanAgent(0.5, float("nan")), "learning_rate .*nan"),
    ],
)
def test_invalid_options(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [ContentOracleAgent, LearnedSpanAgent])
def test_trained_agents(make: type[EnvAwarePolicy]):
    agent = make()
    agent.on_episode_start(FakeEnv(content_type=["text"]))
    with pytest.raises(RuntimeError, match=r"learn\(\) or load\(\)"):
        agent.predict(np.zeros(1))
    agent.learn(make_task_env(1), 4)
    with pytest.raises(ValueError, match=r"2 layers.*1"):
        agent.learn(make_training_env("digits", num_layers=1), 4)
