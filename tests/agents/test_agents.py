"""Contracts of every shipped agent, and of refiners of one's own."""

import pickle
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from spangym.agents import BUILTIN_AGENTS, Agent, Refiner, SB3Agent, TabularAgent, get_agent_spec
from spangym.envs import EnvConfig, SB3SpanControlVecEnv

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


def make_env(name: str, num_envs: int = 1) -> CountingEnv:
    config = EnvConfig(
        dims=8,
        heads=2,
        ctx=16,
        chunks_per_episode=2,
        encoding=get_agent_spec(name).encoding,
        win_size=16,
    )
    env = CountingEnv(SB3SpanControlVecEnv(config, num_envs))
    env.seed(0)
    return env


def train(
    name: str, steps: int = 192, num_envs: int = 1, seed: int = 0, **options: Any
) -> tuple[Agent, CountingEnv]:
    agent, env = get_agent_spec(name).make(seed=seed, **options), make_env(name, num_envs)
    agent.learn(env, steps)
    return agent, env


def decisions(agent: Agent, name: str) -> list[int]:
    env = make_env(name, num_envs=4)
    observations, chosen = env.reset(), []
    for _ in range(8):
        actions = agent.predict(np.asarray(observations))
        chosen += actions.tolist()
        observations, *_ = env.step(actions)
    return chosen


@AGENTS
@pytest.mark.parametrize(("steps", "num_envs"), [(192, 1), (130, 1), (33, 1), (192, 4), (200, 4)])
def test_takes_exactly_its_steps(name: str, steps: int, num_envs: int):
    assert train(name, steps, num_envs)[1].steps == steps


def test_dqn_with_returns_of_several_steps_takes_exactly_its_steps():
    assert train("dqn", 130, 1, n_steps=2)[1].steps == 130


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_learning_goes_on_with_what_was_loaded(name: str, tmp_path: Path):
    # At this rate nothing is learned, so that only what was loaded decides.
    agent, _ = train(name, learning_rate=0.0)
    agent.save(tmp_path / "agent")
    fresh = get_agent_spec(name).make(seed=9)
    fresh.load(tmp_path / "agent")
    env = make_env(name)
    fresh.learn(env, 40)
    assert env.steps == 40
    assert decisions(fresh, name) == decisions(agent, name)
    assert decisions(fresh, name) != decisions(train(name, seed=9, learning_rate=0.0)[0], name)


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
    fresh = get_agent_spec(name).make(seed=9)
    fresh.load(tmp_path / "agent")
    assert decisions(fresh, name) == decisions(agent, name)


@pytest.mark.parametrize("name", BUILTIN_AGENTS)
def test_every_shipped_name_is_found(name: str):
    kind = get_agent_spec(name)
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
    agent = get_agent_spec(name).make(seed=0, **options)
    agent.learn(NineIsBest(make_env(name, 4)), 2048)
    assert np.mean(np.array(decisions(agent, name)) == 9) > 0.9


@pytest.mark.parametrize(("steps", "rollouts"), [(128, 1), (256, 2), (300, 2)])
def test_ppo_learns_from_every_whole_rollout(steps: int, rollouts: int):
    agent, _ = train("ppo", steps, n_epochs=3)
    assert isinstance(agent, SB3Agent)
    assert vars(agent.model)["_n_updates"] == 3 * rollouts


def test_refiner_learns_from_what_follows(monkeypatch: pytest.MonkeyPatch):
    """What the controller is told is what the environment did, over the end of episodes too."""
    told: list[tuple[int, int, float, int]] = []
    monkeypatch.setattr(Refiner, "update", lambda _, *decision, **__: told.append(decision))
    env = make_env("refiner")
    TabularAgent(Refiner(seed=0)).learn(env, 10)
    replay = make_env("refiner")
    states = np.asarray(replay.reset())
    for decision, action in zip(told, env.actions, strict=True):
        before = states[0]
        observations, rewards, dones, infos = replay.step(np.array([action]))
        states = np.asarray(observations)
        last = infos[0]["terminal_observation"] if dones[0] else states[0]
        assert decision == (before, action, rewards[0], last)


def test_a_rollout_longer_than_the_training_is_an_error():
    with pytest.raises(
        ValueError, match=r"n_steps=512 in 1 environments is longer than the 100 steps"
    ):
        SB3Agent("ppo", 0, n_steps=512).learn(make_env("ppo"), 100)


AGENT = """
    import numpy as np
    from stable_baselines3 import PPO

    class Plays:
        encoding = "features"
        def __init__(self, action=3):
            self.action = action
        def learn(self, env, steps):
            env.reset()
            for _ in range(steps // env.num_envs):
                env.step(self.predict(np.zeros(env.num_envs)))
        def predict(self, observations):
            return np.full(len(observations), self.action)
        def save(self, path):
            pass
        def load(self, path):
            pass

    class NoLoad:
        def learn(self, env, steps): pass
        def predict(self, observations): pass
        def save(self, path): pass

    class Nothing:
        pass

    class MyPPO(PPO):
        pass
"""


class TestClassesOfOnesOwn:
    def test_an_agent(self, own_module: Any):
        kind = get_agent_spec(f"{own_module('own_agent', AGENT)}:Plays")
        assert (kind.encoding, kind.is_trainable, kind.is_stochastic) == ("features", True, True)
        kind.check_options({"action": 5})
        with pytest.raises(ValueError, match="has no option 'acton'; did you mean 'action'"):
            kind.check_options({"acton": 5})
        assert kind.make(seed=0, action=5).predict(np.zeros((2, 3))).tolist() == [5, 5]

    @pytest.mark.parametrize("name", ["MyPPO", "PPO"])
    def test_an_algorithm(self, own_module: Any, name: str):
        kind = get_agent_spec(f"{own_module('own_agent', AGENT)}:{name}")
        assert kind.encoding == "box"
        with pytest.raises(ValueError, match="did you mean 'ent_coef'"):
            kind.check_options({"ent_coeff": 0.1})
        agent, env = kind.make(seed=0, n_epochs=1), make_env("ppo")
        agent.learn(env, 64)
        assert env.steps == 64
        assert isinstance(agent, SB3Agent)
        assert type(agent.model).__name__ == name

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("NoLoad", "has no method load(path): an agent needs learn(env, steps) and predict"),
            ("Nothing", "is neither a refiner (choose_action, update) nor an agent (learn, "),
        ],
    )
    def test_what_is_none_of_these(self, own_module: Any, name: str, message: str):
        module = own_module("own_agent", AGENT)
        with pytest.raises(ValueError, match="agent") as caught:
            get_agent_spec(f"{module}:{name}")
        assert message in str(caught.value)


def test_packages_register_agents(own_module: Any, tmp_path: Path):
    own_module("own_agent", AGENT)
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[spangym.agents]\nplays = own_agent:Plays\nbroken = own_agent:Gone\n"
    )
    assert get_agent_spec("plays").make(seed=0, action=2).predict(np.zeros((1, 3))).tolist() == [2]
    with pytest.raises(ValueError, match="did you mean 'plays'"):
        get_agent_spec("play")
    with pytest.raises(ValueError, match=r"agent 'broken': module 'own_agent' .* no class 'Gone'"):
        get_agent_spec("broken")


def test_an_algorithm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ValueError, match=r"pip install 'spangym\[contrib\]'"):
        get_agent_spec("qrdqn")


def test_hyperparameters_that_toml_can_hold(tmp_path: Path):
    options: dict[str, Any] = {
        "n_steps": 16,
        "batch_size": 16,
        "learning_rate": {"start": 1e-2, "end": 1e-3},
        "clip_range": {"start": 0.3, "end": 0.1, "fraction": 0.5},
        "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU", "optimizer_class": "SGD"},
    }
    agent, _ = train("ppo", 64, **options)
    assert isinstance(agent, SB3Agent)
    model = agent.model
    assert model.lr_schedule(0.5) == pytest.approx(5.5e-3)
    assert isinstance(model.policy.optimizer, torch.optim.SGD)
    assert "ReLU" in str(model.policy)
    agent.save(tmp_path / "agent")
    fresh = get_agent_spec("ppo").make(seed=1)
    fresh.load(tmp_path / "agent")
    assert decisions(fresh, "ppo") == decisions(agent, "ppo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": {"begin": 1.0}}, "learning_rate has no key 'begin'"),
        ({"learning_rate": {"start": 1.0}}, "learning_rate must be a number or {start"),
        ({"policy_kwargs": {"activation_fn": "Tanhh"}}, "did you mean 'Tanh'"),
    ],
)
def test_bad_hyperparameters_say_what_would_be_right(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=r"learning_rate|policy_kwargs") as caught:
        get_agent_spec("ppo").make(seed=0, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_observations_are_normalized(name: str, tmp_path: Path):
    agent, _ = train(name, normalize=True)
    assert isinstance(agent, SB3Agent)
    env = make_env(name)
    rows = [np.asarray(env.reset())]
    rows += [np.asarray(env.step(np.array([3]))[0]) for _ in range(50)]
    assert agent.normalization is not None
    scaled = agent.normalization(np.concatenate(rows))
    assert scaled.dtype == np.float32
    assert np.abs(scaled).max() <= 10
    inner = agent.model.get_vec_normalize_env()
    assert inner is not None
    expected = np.asarray(inner.normalize_obs(np.concatenate(rows)))
    assert np.array_equal(scaled, expected)
    agent.save(tmp_path / "agent")
    fresh = get_agent_spec(name).make(seed=9)
    fresh.load(tmp_path / "agent")
    assert decisions(fresh, name) == decisions(agent, name)


def test_digits_are_not_normalized():
    config = EnvConfig(dims=8, heads=2, ctx=16, chunks_per_episode=2, win_size=16)
    agent = SB3Agent("ppo", 0, normalize=True)
    with pytest.raises(ValueError, match="set the encoding 'box' or 'features'"):
        agent.learn(SB3SpanControlVecEnv(config, 1), 64)


class TestArchives:
    """Stable-Baselines3's own files hold pickles."""

    def test_one_is_read_on_the_users_word_only(self, tmp_path: Path):
        agent, _ = train("dqn")
        assert isinstance(agent, SB3Agent)
        agent.model.save(tmp_path / "theirs.zip")
        fresh = SB3Agent("dqn")
        with pytest.raises(
            ValueError, match="holds pickles and can run code: give allow_pickle=True"
        ):
            fresh.load(tmp_path / "theirs.zip")
        fresh.load(tmp_path / "theirs.zip", allow_pickle=True)
        assert decisions(fresh, "dqn") == decisions(agent, "dqn")

    def test_what_is_stored_here_holds_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        agent, _ = train("dqn")
        agent.save(tmp_path / "agent")
        for module in (pickle, torch):
            monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("a pickle was read"))
        SB3Agent("dqn").load(tmp_path / "agent")

    def test_another_algorithms_network_is_refused(self, tmp_path: Path):
        train("dqn")[0].save(tmp_path / "agent")
        with pytest.raises(ValueError, match=r"is no network of .*PPO, but of .*DQN"):
            SB3Agent("ppo").load(tmp_path / "agent")


@pytest.mark.parametrize("bootstrap_from", ["next_obs", "layer_output"])
def test_what_a_refiner_bootstraps_on(bootstrap_from: str, monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(Refiner, "update", lambda *decision, **_: told.append(decision[4]))
    env = make_env("refiner", 2)
    agent = get_agent_spec("refiner").make(seed=0, bootstrap_from=bootstrap_from)
    agent.learn(env, 16)
    replay = make_env("refiner", 2)
    replay.reset()
    expected: list[int] = []
    for actions in np.array(env.actions).reshape(-1, 2):
        observations, _, dones, infos = replay.step(actions)
        if bootstrap_from == "layer_output":
            rows = replay.venv.output_observations()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            rows = [
                infos[env_index]["terminal_observation"] if dones[env_index] else row
                for env_index, row in enumerate(np.asarray(observations))
            ]
        expected += [int(row) for row in rows]
    assert told == expected


def test_an_unknown_bootstrap_is_an_error():
    with pytest.raises(
        ValueError, match="bootstrap_from 'layer_outputs' is unknown; did you mean 'layer_output'"
    ):
        get_agent_spec("refiner").make(seed=0, bootstrap_from="layer_outputs")


def test_an_untrained_agent_says_so():
    with pytest.raises(RuntimeError, match=r"call learn\(\) or load\(\) first"):
        SB3Agent("dqn").predict(np.zeros((1, 16), np.float32))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


CUSTOM = """
    import random

    class Mine:
        def __init__(self, favorite=3, seed=None):
            self.favorite, self.random = favorite, random.Random(seed)
        def choose_action(self, state):
            return self.favorite if self.random.random() < 0.5 else 0
        def update(self, state, action, reward, next_state):
            pass

    class NoUpdate:
        def choose_action(self, state):
            return 0

    NotAClass = 3
"""


def test_a_refiner_of_ones_own(own_module: Any):
    module = own_module("own_refiner_a", CUSTOM)
    kind = get_agent_spec(f"{module}:Mine")
    assert kind.encoding == "state"
    kind.check_options({"favorite": 7})
    first, second = (kind.make(seed=1, favorite=7) for _ in range(2))
    chosen = first.predict(np.arange(20)).tolist()
    assert set(chosen) == {0, 7}
    assert chosen == second.predict(np.arange(20)).tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refinr", "did you mean 'refiner'"),
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
    own_module("own_refiner_b", CUSTOM)
    own_module("own_refiner_broken", "1 / 0")
    own_module("own_refiner_missing", "import nowhere")
    own_module("own_refiner_mis", "import own_refiner_m")
    with pytest.raises(ValueError, match="agent") as caught:
        get_agent_spec(name)
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
        get_agent_spec(name).check_options({option: 1})
    assert message in str(caught.value)
