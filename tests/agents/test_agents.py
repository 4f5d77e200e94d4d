"""Contracts of every shipped agent, and of refiners of one's own."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from spangym.agents import NAMES, Agent, ControllerAgent, DeepAgent, Refiner, find_agent
from spangym.envs import Settings, SpanControlVecEnv

AGENTS = pytest.mark.parametrize("name", ["random", "fixed:4", "refiner", "dqn", "ppo"])


class CountingEnv(VecEnvWrapper):
    """Counts the steps that an agent takes, and keeps its actions."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = 0
        self.actions: list[int] = []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.steps += self.num_envs
        return self.venv.step_wait()

    def step_async(self, actions: NDArray[Any]) -> None:
        self.actions += actions.tolist()
        self.venv.step_async(actions)


def make_env(name: str, lanes: int = 1) -> CountingEnv:
    settings = Settings(
        dims=8, heads=2, ctx=16, chunks=2, encoding=find_agent(name).encoding, win_size=16
    )
    env = CountingEnv(SpanControlVecEnv(settings, lanes))
    env.seed(0)
    return env


def train(name: str, steps: int = 192, lanes: int = 1, **options: Any) -> tuple[Agent, CountingEnv]:
    agent, env = find_agent(name).make(seed=0, **options), make_env(name, lanes)
    agent.learn(env, steps)
    return agent, env


def decisions(agent: Agent, name: str) -> list[int]:
    env = make_env(name, lanes=4)
    observations, chosen = env.reset(), []
    for _ in range(8):
        actions = agent.predict(np.asarray(observations))
        chosen += actions.tolist()
        observations, *_ = env.step(actions)
    return chosen


@AGENTS
@pytest.mark.parametrize(("steps", "lanes"), [(192, 1), (130, 1), (33, 1), (192, 4), (200, 4)])
def test_takes_exactly_its_steps(name: str, steps: int, lanes: int):
    assert train(name, steps, lanes)[1].steps == steps


def test_dqn_with_returns_of_several_steps_takes_exactly_its_steps():
    assert train("dqn", 130, 1, n_steps=2)[1].steps == 130


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_learning_goes_on_with_what_was_loaded(name: str, tmp_path: Path):
    agent, _ = train(name)
    agent.save(tmp_path / "agent")
    fresh = find_agent(name).make(seed=9)
    fresh.load(tmp_path / "agent")
    env = make_env(name)
    fresh.learn(env, 40)
    assert env.steps == 40
    assert isinstance(fresh, DeepAgent)
    # Too short for PPO to learn from, so that only what was loaded decides.
    if name == "ppo":
        assert decisions(fresh, name) == decisions(agent, name)


@AGENTS
def test_same_seed_same_agent(name: str):
    (one, first), (other, second) = train(name), train(name)
    assert first.actions == second.actions
    assert decisions(one, name) == decisions(other, name)


@AGENTS
def test_saved_and_loaded_it_decides_alike(name: str, tmp_path: Path):
    agent, _ = train(name)
    agent.save(tmp_path / "agent")
    assert len(list(tmp_path.iterdir())) == 1
    fresh = find_agent(name).make(seed=9)
    fresh.load(tmp_path / "agent")
    assert decisions(fresh, name) == decisions(agent, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_name_is_found(name: str):
    kind = find_agent(name)
    assert kind.name == name
    kind.make(seed=0)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_deep_agents_learn_what_there_is_to_learn(name: str):
    """The best action is found in a problem where it is plain to see."""

    class NineIsBest(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_async(self, actions: NDArray[Any]) -> None:
            self._earned = (actions == 9).astype(np.float32)
            self.venv.step_async(actions)

        def step_wait(self) -> Any:
            observations, _, dones, infos = self.venv.step_wait()
            return observations, self._earned, dones, infos

    options: dict[str, Any] = {"gamma": 0.0, "learning_rate": 3e-3}
    agent = find_agent(name).make(seed=0, **options)
    agent.learn(NineIsBest(make_env(name, 4)), 2048)
    assert np.mean(np.array(decisions(agent, name)) == 9) > 0.9


@pytest.mark.parametrize(("steps", "rollouts"), [(128, 1), (256, 2), (300, 2)])
def test_ppo_learns_from_every_whole_rollout(steps: int, rollouts: int):
    agent, _ = train("ppo", steps, n_epochs=3)
    assert isinstance(agent, DeepAgent)
    assert vars(agent._trained())["_n_updates"] == 3 * rollouts


def test_refiner_learns_from_what_follows(monkeypatch: pytest.MonkeyPatch):
    """What the controller is told is what the environment did, over the end of episodes too."""
    told: list[tuple[int, int, float, int]] = []
    monkeypatch.setattr(Refiner, "update", lambda _, *decision: told.append(decision))
    env = make_env("refiner")
    ControllerAgent(Refiner(seed=0)).learn(env, 10)
    replay = make_env("refiner")
    states = np.asarray(replay.reset())
    for decision, action in zip(told, env.actions, strict=True):
        before = states[0]
        observations, rewards, dones, infos = replay.step(np.array([action]))
        states = np.asarray(observations)
        last = infos[0]["terminal_observation"] if dones[0] else states[0]
        assert decision == (before, action, rewards[0], last)


def test_a_rollout_longer_than_the_training_is_an_error():
    with pytest.raises(ValueError, match=r"n_steps=512 in 1 lanes is longer than the 100 steps"):
        DeepAgent("ppo", 0, n_steps=512).learn(make_env("ppo"), 100)


def test_an_untrained_agent_says_so():
    with pytest.raises(RuntimeError, match=r"call learn\(\) or load\(\) first"):
        DeepAgent("dqn").predict(np.zeros((1, 16), np.float32))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


OWN = """
    import random

    class Mine:
        def __init__(self, favourite=3, seed=None):
            self.favourite, self.random = favourite, random.Random(seed)
        def choose_action(self, state):
            return self.favourite if self.random.random() < 0.5 else 0
        def update(self, state, action, reward, next_state):
            pass

    class NoUpdate:
        def choose_action(self, state):
            return 0

    NotAClass = 3
"""


def test_a_refiner_of_ones_own(own_module: Any):
    module = own_module("own_refiner_a", OWN)
    kind = find_agent(f"{module}:Mine")
    assert kind.encoding == "state"
    kind.check_options({"favourite": 7})
    first, second = (kind.make(seed=1, favourite=7) for _ in range(2))
    chosen = first.predict(np.arange(20)).tolist()
    assert set(chosen) == {0, 7}
    assert chosen == second.predict(np.arange(20)).tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refinr", "did you mean 'refiner'?"),
        ("fixed:10", "did you mean 'fixed:1'"),
        ("no_such_module:X", "there is no module 'no_such_module' in the working folder"),
        ("own_refiner_b:Mne", "has no class 'Mne'; did you mean 'Mine'?"),
        ("own_refiner_b:NotAClass", "is not a class"),
        ("own_refiner_b:NoUpdate", "no method update(state, action, reward, next_state)"),
        ("own_refiner_broken:X", "module 'own_refiner_broken' fails: ZeroDivisionError"),
        ("own_refiner_mis:X", "module 'own_refiner_mis' fails: No module named 'own_refiner_m'"),
        ("own_refiner_missing:X", "module 'own_refiner_missing' fails: No module named 'nowhere'"),
    ],
)
def test_a_bad_name_says_what_would_be_right(own_module: Any, name: str, message: str):
    own_module("own_refiner_b", OWN)
    own_module("own_refiner_broken", "1 / 0")
    own_module("own_refiner_missing", "import nowhere")
    own_module("own_refiner_mis", "import own_refiner_m")
    with pytest.raises(ValueError, match="agent") as caught:
        find_agent(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("dqn", "learning_rte", "did you mean 'learning_rate'"),
        ("refiner", "gama", "did you mean 'gamma'"),
        ("random", "gamma", "it takes none"),
        ("ppo", "env", "no option 'env'"),
    ],
)
def test_unknown_options_name_the_nearest(name: str, option: str, message: str):
    with pytest.raises(ValueError, match="has no option") as caught:
        find_agent(name).check_options({option: 1})
    assert message in str(caught.value)
