from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from spangym.agents.baselines.content_oracle import ContentOracleAgent

from ...factories import make_training_env


class ContentEnv:
    """Rewards the best action sequence of a content type, with noise, at the end of a chunk."""

    best = {"high": (7, 2), "low": (0, 4)}  # noqa: RUF012

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.sequences: Counter[tuple[str, int, int]] = Counter()
        self.generator = np.random.default_rng(0)
        self.chunk_actions: list[NDArray[Any]] = []
        self.reset()

    def get_attr(self, name: str) -> list[Any]:
        assert name == "config"
        return [SimpleNamespace(num_layers=2)] * self.num_envs

    def reset(self) -> NDArray[Any]:
        self.chunk_actions = []
        self.content_types = self.generator.choice([*self.best], self.num_envs).tolist()
        return np.zeros((self.num_envs, 1))

    def content_type(self) -> list[str]:
        return self.content_types

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], None, None]:
        self.chunk_actions.append(actions)
        rewards = np.zeros(self.num_envs, np.float32)
        if len(self.chunk_actions) == 2:
            for env_index, content_type in enumerate(self.content_types):
                first, second = (int(each[env_index]) for each in self.chunk_actions)
                self.sequences[content_type, first, second] += 1
                off = np.abs(np.subtract((first, second), self.best[content_type])).sum()
                rewards[env_index] = -0.2 * off + 0.1 * self.generator.standard_normal()
            self.reset()
        return np.zeros((self.num_envs, 1)), rewards, None, None


def train(
    steps: int = 4000, num_envs: int = 4, seed: int = 0
) -> tuple[ContentOracleAgent, ContentEnv]:
    agent, env = ContentOracleAgent(seed=seed), ContentEnv(num_envs)
    agent.learn(cast(Any, env), steps)
    return agent, env


def test_finds_the_best_sequence_of_each_content_type():
    agent, env = train()
    assert {content_type: agent.best_sequence(content_type) for content_type in agent.stats} == {
        "high": 72,
        "low": 4,
    }
    for content_type, stats in agent.stats.items():
        assert stats.counts.min() >= 1
        for sequence, count in enumerate(stats.counts):
            assert env.sequences[content_type, sequence // 10, sequence % 10] == count
    observations = env.reset()
    agent.on_episode_start(env)
    for layer in [0, 1] * 5:
        content_types, actions = env.content_type(), agent.predict(observations)
        assert actions.tolist() == [env.best[content_type][layer] for content_type in content_types]
        observations, *_ = env.step(actions)


def test_tries_every_sequence_once_first():
    agent, _ = train(steps=2 * 4 * 30)
    for stats in agent.stats.values():
        assert stats.counts.max() == 1


def test_ignores_incomplete_chunks():
    agent, _ = train(steps=4)
    assert not agent.stats
    agent, _ = train(steps=4 * 7)
    assert sum(stats.counts.sum() for stats in agent.stats.values()) == 4 * 3


def test_unseen_content_types():
    """Weighted by the frequency of content types, not by how often a sequence was tried."""
    agent, _ = train(16)
    for content_type, often, (good, other) in (("high", 30, (1.0, 0.0)), ("low", 10, (-1.5, 0.0))):
        stats = agent.stats[content_type]
        stats.counts[:], stats.totals[:] = 0, 0
        stats.counts[[11, 22]] = often - 1, 1
        stats.totals[[11, 22]] = good * (often - 1), other
    assert agent.best_sequence("high") == 11
    assert agent.best_sequence("low") == 22
    assert agent.best_sequence("new") == 11
    agent.stats["low"].totals[11] = -4.0 * 9
    assert agent.best_sequence("new") == 22


def test_seeds_and_storage(tmp_path: Path):
    agent, _ = train(400)
    same, other = train(400)[0], train(400, seed=1)[0]
    agent.save(tmp_path / "agent")
    saved = (tmp_path / "agent.json").read_text()
    same.save(tmp_path / "same")
    other.save(tmp_path / "other")
    assert saved == (tmp_path / "same.json").read_text() != (tmp_path / "other.json").read_text()
    loaded = ContentOracleAgent()
    loaded.load(tmp_path / "agent")
    for each in (agent, loaded):
        each.learn(cast(Any, ContentEnv(4)), 80)
        each.save(tmp_path / "on")
        assert sum(stats.counts.sum() for stats in each.stats.values()) == 240
        if each is agent:
            (tmp_path / "on.json").rename(tmp_path / "expected.json")
    assert (tmp_path / "on.json").read_text() == (tmp_path / "expected.json").read_text()


def test_more_than_three_layers():
    with pytest.raises(ValueError, match=r"3 layers.*4"):
        ContentOracleAgent().learn(make_training_env("digits", num_layers=4), 8)
