"""Policies that stand in comparisons: what each decides, and the contracts that all keep."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper

from spangym.agents.baselines.constant import BaselinePolicy, FixedSpanPolicy, RandomPolicy
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
from spangym.envs import (
    EnvConfig,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)

TASK = "spangym/LongRange-v0"
SEEING: list[type[EnvAwarePolicy]] = [
    SpanPredictorPolicy,
    CoverageThresholdPolicy,
    MyopicPolicy,
    OracleAgent,
    ContentOracleAgent,
    LearnedSpanAgent,
]
EACH_SEEING = pytest.mark.parametrize("make", SEEING)


class Counting(VecEnvWrapper):
    """Counts the steps that an agent takes, and keeps its actions."""

    def __init__(self, num_envs: int, **arguments: Any) -> None:
        name = TASK if "reward" not in arguments else "spangym/SpanControl-v0"
        super().__init__(
            SB3SpanControlVecEnv(
                make_config(name, {"chunks_per_episode": 2, **arguments}), num_envs
            )
        )
        self.venv.seed(0)
        self.actions: list[list[int]] = []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        self.actions.append(actions.tolist())
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def play(agent: BaselinePolicy, decisions: int = 6, num_envs: int = 3) -> list[list[int]]:
    """What an agent decides in an environment of its own, over the end of an episode."""
    env = SB3SpanControlVecEnv(
        make_config(TASK, {"chunks_per_episode": 2, "split": "evaluation"}), num_envs
    )
    env.seed(7)
    observations: Any = env.reset()
    if isinstance(agent, EnvAwarePolicy):
        agent.on_episode_start(env)
    chosen = []
    for _ in range(decisions):
        actions = agent.predict(observations)
        assert actions.shape == (num_envs,)
        assert actions.dtype.kind == "i"
        chosen.append(actions.tolist())
        observations, *_ = env.step(actions)
    return chosen


@EACH_SEEING
def test_contracts(make: type[EnvAwarePolicy], tmp_path: Path):
    """Takes its steps, is stored and read back, and has to be shown what it plays."""
    env, agent = Counting(2), make()
    agent.learn(env, 14)
    assert len(env.actions) == 7
    with pytest.raises(RuntimeError, match=r"call on_episode_start\(env\) after env.reset\(\)"):
        agent.predict(np.zeros((2, 1)))
    agent.save(tmp_path / "agent")
    assert [each.name for each in tmp_path.iterdir()] == ["agent.json"]
    fresh = make()
    fresh.load(tmp_path / "agent")
    assert play(fresh) == play(agent)


@EACH_SEEING
def test_one_env_alone_is_decided_alike(make: type[EnvAwarePolicy]):
    """In the scalar face and in Gymnasium's vector face as in Stable-Baselines3's."""
    agent = make()
    if isinstance(agent, ContentOracleAgent | LearnedSpanAgent):
        agent.learn(Counting(2), 8)
    expected = play(agent, 4, 1)
    arguments = vars(make_config(TASK, {"chunks_per_episode": 2, "split": "evaluation"}))
    scalar, vector = SpanControlEnv(**arguments), SpanControlVectorEnv(1, **arguments)
    faces: list[Any] = [scalar, vector]
    for env in faces:
        seen = env.reset(seed=7)[0]
        agent.on_episode_start(env)
        for (action,) in expected:
            observations = seen[None] if env is scalar else seen
            assert agent.predict(observations).tolist() == [action]
            seen = env.step(action if env is scalar else np.array([action]))[0]


def test_the_predictor_plays_what_the_layers_predict():
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


class Shown:
    """An environment that shows what it is told to show."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, lambda *_, answer=answer: np.array(answer))


def test_the_threshold_is_the_smallest_span_that_passes():
    rising = [0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 0.95, 1.0, 1.0, 1.0]
    agent = CoverageThresholdPolicy(0.9)
    agent.on_episode_start(Shown(action_coverages=[rising, [0.0] * 9 + [0.89], [1.0] * 10]))
    assert agent.predict(np.zeros(3)).tolist() == [5, 9, 0]


def test_greedy_and_oracle_play_the_best_that_they_see():
    for agent, name in ((MyopicPolicy(), "one_step_rewards"), (OracleAgent(), "lookahead")):
        agent.on_episode_start(Shown(**{name: np.eye(10)[[4, 0]]}))
        assert agent.predict(np.zeros(2)).tolist() == [4, 0]
        agent.on_episode_start(Shown(**{name: np.zeros(10)}))
        assert agent.predict(np.zeros(1)).tolist() == [0]
        # With `refresh`, the span changes slowest.
        agent.on_episode_start(Shown(**{name: np.eye(40)[[4 * 7 + 2, 39]]}))
        assert agent.predict(np.zeros(2)).tolist() == [[7, 1, 0], [9, 1, 1]]


def test_the_oracle_follows_its_beam():
    shown = Shown()
    shown.lookahead = lambda beam: np.eye(10)[[beam]]  # pyright: ignore[reportAttributeAccessIssue]
    agent = OracleAgent(3)
    agent.on_episode_start(shown)
    assert agent.predict(np.zeros(1)).tolist() == [3]


@pytest.mark.parametrize("make", [CoverageThresholdPolicy, MyopicPolicy, OracleAgent])
def test_those_that_try_actions_decide_on_keys_and_values_too(make: type[EnvAwarePolicy]):
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


def test_the_oracle_earns_most():
    def earned(agent: BaselinePolicy) -> float:
        env = SpanControlVectorEnv(4, **vars(make_config(TASK, {"chunks_per_episode": 2})))
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


class PaidByKind:
    """Pays for nearness to the way that is best for a chunk's content_type, noisily, when it is through."""

    best = {"high": (7, 2), "low": (0, 4)}  # noqa: RUF012

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.plans: Counter[tuple[str, int, int]] = Counter()
        self._generator = np.random.default_rng(0)
        self._taken: list[NDArray[Any]] = []
        self.reset()

    def get_attr(self, name: str) -> list[Any]:
        assert name == "config"
        return [SimpleNamespace(num_layers=2)] * self.num_envs

    def reset(self) -> NDArray[Any]:
        self._taken = []
        self._content_types = self._generator.choice([*self.best], self.num_envs).tolist()
        return np.zeros((self.num_envs, 1))

    def content_type(self) -> list[str]:
        return self._content_types

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], None, None]:
        self._taken.append(actions)
        rewards = np.zeros(self.num_envs, np.float32)
        if len(self._taken) == 2:
            for env_index, content_type in enumerate(self._content_types):
                first, second = (int(each[env_index]) for each in self._taken)
                self.plans[content_type, first, second] += 1
                off = np.abs(np.subtract((first, second), self.best[content_type])).sum()
                rewards[env_index] = -0.2 * off + 0.1 * self._generator.standard_normal()
            self.reset()
        return np.zeros((self.num_envs, 1)), rewards, None, None


def train_told(
    steps: int = 4000, num_envs: int = 4, seed: int = 0
) -> tuple[ContentOracleAgent, PaidByKind]:
    agent, env = ContentOracleAgent(seed=seed), PaidByKind(num_envs)
    agent.learn(cast(Any, env), steps)
    return agent, env


def test_told_finds_the_best_way_for_each_kind():
    agent, env = train_told()
    assert {
        content_type: agent.best_plan(content_type) for content_type in agent.stats_by_content_type
    } == {
        "high": 72,
        "low": 4,
    }
    for content_type, stats in agent.stats_by_content_type.items():
        assert stats.counts.min() >= 1
        for plan, count in enumerate(stats.counts):
            assert env.plans[content_type, plan // 10, plan % 10] == count
    observations = env.reset()
    agent.on_episode_start(env)
    for layer in [0, 1] * 5:
        content_types, actions = env.content_type(), agent.predict(observations)
        assert actions.tolist() == [env.best[content_type][layer] for content_type in content_types]
        observations, *_ = env.step(actions)


def test_told_tries_every_way_once_before_any_twice():
    agent, _ = train_told(steps=2 * 4 * 30)
    for stats in agent.stats_by_content_type.values():
        assert stats.counts.max() == 1


def test_told_does_not_count_a_chunk_that_was_not_finished():
    agent, _ = train_told(steps=4)
    assert not agent.stats_by_content_type
    agent, _ = train_told(steps=4 * 7)
    assert sum(stats.counts.sum() for stats in agent.stats_by_content_type.values()) == 4 * 3


def test_told_plays_what_is_best_over_all_on_a_kind_it_never_met():
    """By the frequency of the content_types, not by how often a way was tried on each."""
    agent, _ = train_told(16)
    for content_type, often, (good, other) in (("high", 30, (1.0, 0.0)), ("low", 10, (-1.5, 0.0))):
        stats = agent.stats_by_content_type[content_type]
        stats.counts[:], stats.totals[:] = 0, 0
        stats.counts[[11, 22]] = often - 1, 1
        stats.totals[[11, 22]] = good * (often - 1), other
    assert agent.best_plan("high") == 11
    assert agent.best_plan("low") == 22
    assert agent.best_plan("new") == 11
    agent.stats_by_content_type["low"].totals[11] = -4.0 * 9
    assert agent.best_plan("new") == 22


def test_told_is_the_same_for_a_seed_and_learns_on(tmp_path: Path):
    agent, _ = train_told(400)
    same, other = train_told(400)[0], train_told(400, seed=1)[0]
    agent.save(tmp_path / "told")
    saved = (tmp_path / "told.json").read_text()
    same.save(tmp_path / "same")
    other.save(tmp_path / "other")
    assert saved == (tmp_path / "same.json").read_text() != (tmp_path / "other.json").read_text()
    loaded = ContentOracleAgent()
    loaded.load(tmp_path / "told")
    for each in (agent, loaded):
        each.learn(cast(Any, PaidByKind(4)), 80)
        each.save(tmp_path / "on")
        assert sum(stats.counts.sum() for stats in each.stats_by_content_type.values()) == 240
        if each is agent:
            (tmp_path / "on.json").rename(tmp_path / "expected.json")
    assert (tmp_path / "on.json").read_text() == (tmp_path / "expected.json").read_text()


def test_soft_spans_are_the_same_again_and_shrink_by_their_price():
    learned: dict[float, list[float]] = {}
    for cost_coef in (0.0, 2.0, 2.0, 20.0):
        env, agent = Counting(2), LearnedSpanAgent(cost_coef, learning_rate=0.05)
        agent.learn(env, 48)
        scales = agent.scales.tolist()
        assert learned.setdefault(cost_coef, scales) == scales
        assert not agent.scales.requires_grad
        # While it learns it plays the nearest actions, one a layer.
        assert all(len({*actions}) == 1 for actions in env.actions)
        assert env.actions[0] == [9, 9]
        layers = itertools.cycle(range(2))
        assert play(agent) == [[round(9 * scales[next(layers)])] * 3 for _ in range(6)]
    assert learned[0.0] == [1.0, 1.0]
    assert max(learned[20.0]) < 0.6
    # Beyond the longest distance the price alone has a say.
    assert max(learned[2.0]) < 0.95


def test_a_price_of_none_is_the_environments():
    for cost_coef in (0.0, 3.0):
        asked, given = LearnedSpanAgent(), LearnedSpanAgent(cost_coef)
        asked.learn(Counting(2, cost_coef=cost_coef), 24)
        given.learn(Counting(2, cost_coef=0.5), 24)
        assert asked.scales.tolist() == given.scales.tolist()


def test_soft_spans_are_never_off_for_good():
    agent = LearnedSpanAgent(cost_coef=1000.0, learning_rate=2.0)
    agent.learn(Counting(1), 2)
    assert agent.scales.tolist() == pytest.approx([1e-3, 1e-3])
    agent.cost_coef = 0.0
    agent.learn(Counting(1), 2)
    assert agent.scales.max() == 1


def test_soft_spans_leave_the_layers_alone():
    env = Counting(2)
    layers: list[torch.nn.Module] = env.get_attr("core")[0].layers
    for layer in layers:
        layer.requires_grad_()
    before = [parameter.clone() for layer in layers for parameter in layer.parameters()]
    LearnedSpanAgent().learn(env, 8)
    after = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(parameter.grad is None for parameter in after)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_soft_spans_need_a_task():
    with pytest.raises(ValueError, match="needs a loss: use trained layers and the reward 'task'"):
        LearnedSpanAgent().learn(Counting(1, reward="quality", ctx=16, dims=8, heads=2), 4)


@pytest.mark.parametrize("make", [ContentOracleAgent, LearnedSpanAgent])
def test_learners_say_that_they_have_not_learned(make: type[EnvAwarePolicy]):
    agent = make()
    agent.on_episode_start(Shown(content_type=["text"]))
    with pytest.raises(RuntimeError, match=r"call learn\(\) or load\(\) first"):
        agent.predict(np.zeros(1))


@pytest.mark.parametrize("make", [ContentOracleAgent, LearnedSpanAgent])
def test_what_was_learned_is_of_so_many_layers(make: type[EnvAwarePolicy]):
    agent = make()
    agent.learn(Counting(1), 4)
    small = EnvConfig(dims=8, heads=2, ctx=16, num_layers=1)
    with pytest.raises(ValueError, match="what was learned is of 2 layers, not of 1"):
        agent.learn(SB3SpanControlVecEnv(small), 4)


def test_told_refuses_more_than_three_layers():
    config = EnvConfig(dims=8, heads=2, ctx=16, num_layers=4)
    with pytest.raises(ValueError, match="use at most 3 layers, not 4"):
        ContentOracleAgent().learn(SB3SpanControlVecEnv(config), 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CoverageThresholdPolicy(1.5), r"target must be in \[0, 1\], got 1.5"),
        (lambda: OracleAgent(0), "beam must be at least 1, got 0"),
        (lambda: ContentOracleAgent(-0.1), r"epsilon must be in \[0, 1\], got -0.1"),
        (lambda: LearnedSpanAgent(-1.0), "cost_coef must be at least 0 and finite, got -1.0"),
        (
            lambda: LearnedSpanAgent(0.5, float("nan")),
            "learning_rate must be at least 0 and finite",
        ),
    ],
)
def test_bad_options_say_what_would_be_right(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_random_actions_are_the_same_for_a_seed(tmp_path: Path):
    agent, same = RandomPolicy(seed=3), RandomPolicy(seed=3)
    assert play(agent) == play(same)
    agent.save(tmp_path / "agent")
    same.load(tmp_path / "agent")
    assert play(agent) == play(same)
