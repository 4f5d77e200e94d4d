"""Algorithms of Stable-Baselines3 in the environment; `test_check_agent` has their contracts."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from spangym.agents import SB3Agent
from spangym.agents.agent_names import ALGORITHMS
from spangym.agents.registry import spec_from_class
from spangym.agents.sb3.algorithms import find_algorithm, hyperparameters_of

from ...factories import make_training_env, played_actions


def train(algorithm: str, steps: int = 64, num_envs: int = 1, **options: Any) -> SB3Agent:
    agent = SB3Agent(algorithm, **{"seed": 0, **options})
    agent.learn(make_training_env("box", num_envs), steps)
    return agent


def decisions(agent: SB3Agent) -> list[list[int]]:
    return played_actions(agent, make_training_env("box", 4))


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
@pytest.mark.parametrize(("steps", "num_envs"), [(130, 1), (33, 1), (200, 4)])
def test_takes_exactly_its_steps(algorithm: str, steps: int, num_envs: int):
    env = make_training_env("box", num_envs)
    SB3Agent(algorithm, 0).learn(env, steps)
    assert env.steps == steps


def test_n_step_dqn_takes_exactly_its_steps():
    env = make_training_env()
    SB3Agent("dqn", 0, n_steps=2).learn(env, 130)
    assert env.steps == 130


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_training_continues_from_a_loaded_network(algorithm: str, tmp_path: Path):
    # At a learning rate of 0 the actions depend on the loaded network alone.
    agent = train(algorithm, learning_rate=0.0)
    agent.save(tmp_path / "agent")
    other = SB3Agent(algorithm, seed=9)
    other.load(tmp_path / "agent")
    env = make_training_env()
    other.learn(env, 16)
    assert env.steps == 16
    assert decisions(other) == decisions(agent)
    assert decisions(other) != decisions(train(algorithm, 16, seed=9, learning_rate=0.0))


class NineIsBest(gym.Env[Any, np.int64]):
    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(10)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(4, np.float32), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(4, np.float32), float(action == 9), True, False, {}


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_learns_the_best_action(algorithm: str):
    env = DummyVecEnv([NineIsBest] * 4)
    agent = SB3Agent(algorithm, 0, gamma=0.0, learning_rate=3e-3)
    agent.learn(env, 2048)
    assert np.mean(np.array(played_actions(agent, env)) == 9) > 0.9


@pytest.mark.parametrize(("steps", "rollouts"), [(16, 1), (32, 2), (40, 2)])
def test_ppo_learns_from_every_complete_rollout(steps: int, rollouts: int):
    agent = train("ppo", steps, n_steps=16, n_epochs=3)
    assert vars(agent.model)["_n_updates"] == 3 * rollouts


def test_rollout_longer_than_the_training():
    with pytest.raises(ValueError, match=r"n_steps=512 .*100 steps"):
        train("ppo", 100, n_steps=512)


def subclass(algorithm: str, kind: str) -> type[Any]:
    """A class of a user's, whose constructor passes everything on, adds or sets arguments."""
    base = find_algorithm(algorithm)

    class Forwards(base):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)

        def learn(self, *args: Any, **kwargs: Any) -> Any:
            return super().learn(*args, **kwargs)

    class Adds(Forwards):
        def __init__(self, policy: Any, env: Any, bonus: float = 0.0, **kwargs: Any):
            self.bonus = bonus
            super().__init__(policy, env, **kwargs)

    class Sets(Forwards):
        def __init__(self, env: Any, **kwargs: Any):
            policy = next(iter(base.policy_aliases))
            super().__init__(policy, env, device="cpu", **kwargs)

    class Closed(Forwards):
        def __init__(self, env: Any, seed: int | None = None):
            super().__init__(next(iter(base.policy_aliases)), env, seed=seed)

    return {each.__name__: each for each in (Forwards, Adds, Sets, Closed)}[kind]


@pytest.mark.parametrize("kind", ["Forwards", "Adds", "Sets"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_subclasses_take_the_arguments_of_their_bases(algorithm: str, kind: str):
    cls = subclass(algorithm, kind)
    spec = spec_from_class("mine:Class", cls)
    assert {*hyperparameters_of(find_algorithm(algorithm))} <= {*hyperparameters_of(cls)}
    spec.check_options({"learning_rate": 0.01, "bonus": 1})
    agent = SB3Agent(cls, 0, learning_rate=0.01)
    assert agent.make_model(make_training_env(), 65).learning_rate == 0.01
    with pytest.raises(TypeError, match="no argument 'learning_rte'; did you mean 'learning_rate'"):
        SB3Agent(cls, 0, learning_rte=0.01).make_model(make_training_env(), 65)


@pytest.mark.parametrize("algorithm", ["dqn", "maskable_ppo"])
def test_subclasses_learn_as_their_bases(algorithm: str):
    env, agent = make_training_env(), SB3Agent(subclass(algorithm, "Forwards"), 0)
    agent.learn(env, 64)
    assert env.steps == 64
    assert decisions(agent) == decisions(train(algorithm))


BUDGETS: dict[str, tuple[dict[str, Any], str]] = {
    "a2c": ({"n_steps": 65}, "n_steps=65 .*65 steps, .*the 64 steps"),
    "ppo": ({"n_steps": 65}, "n_steps=65 .*65 steps, .*the 64 steps"),
    "trpo": ({"n_steps": 65}, "n_steps=65 .*65 steps, .*the 64 steps"),
    "maskable_ppo": ({"n_steps": 65}, "n_steps=65 .*65 steps, .*the 64 steps"),
    "recurrent_ppo": ({"n_steps": 65}, "n_steps=65 .*65 steps, .*the 64 steps"),
    "dqn": ({"learning_starts": 64}, "learning_starts=64 .*every 4 .*the 64 steps"),
    "qrdqn": ({"train_freq": 65}, "train_freq=65 .*65 steps, .*the 64 steps"),
    "ars": ({"n_delta": 8}, "n_delta=8 .*16 candidates.*64 steps.*the 64 steps"),
}


@pytest.mark.parametrize("kind", ["", "Forwards", "Sets"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_budgets_without_an_update(algorithm: str, kind: str):
    options, message = BUDGETS[algorithm]
    agent = SB3Agent(subclass(algorithm, kind) if kind else algorithm, 0, **options)
    with pytest.raises(ValueError, match=message):
        agent.make_model(make_training_env(), 64)
    smallest: dict[str, Any] = {name: value // 2 for name, value in options.items()}
    SB3Agent(algorithm, 0, **smallest).make_model(make_training_env(), 64)


@pytest.mark.parametrize(
    ("algorithm", "message", "enough"),
    [
        ("ppo", "n_steps=2048 .*the 64 steps", 2048),
        ("dqn", "learning_starts=100 .*the 64 steps", 104),
    ],
)
def test_budgets_of_classes_that_set_hyperparameters(algorithm: str, message: str, enough: int):
    agent = SB3Agent(subclass(algorithm, "Closed"), 0)
    with pytest.raises(ValueError, match=message):
        agent.make_model(make_training_env(), 64)
    agent.make_model(make_training_env(), enough)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("ppo", {"n_steps": "x"}), ("dqn", {"learning_starts": 1.5}), ("ars", {"n_delta": None})],
)
def test_budgets_are_integers(algorithm: str, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be an integer"):
        SB3Agent(algorithm, 0, **options).make_model(make_training_env(), 64)


def test_hyperparameters_from_toml(tmp_path: Path):
    options: dict[str, Any] = {
        "n_steps": 16,
        "batch_size": 16,
        "learning_rate": {"start": 1e-2, "end": 1e-3},
        "clip_range": {"start": 0.3, "end": 0.1, "fraction": 0.5},
        "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU", "optimizer_class": "SGD"},
    }
    agent = train("ppo", 32, **options)
    assert agent.model.lr_schedule(0.5) == pytest.approx(5.5e-3)
    assert isinstance(agent.policy.optimizer, torch.optim.SGD)
    assert "ReLU" in str(agent.policy)
    agent.save(tmp_path / "agent")
    other = SB3Agent("ppo", seed=1)
    other.load(tmp_path / "agent")
    assert decisions(other) == decisions(agent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": {"begin": 1.0}}, "learning_rate .*'begin'"),
        ({"learning_rate": {"start": 1.0}}, "learning_rate .*{start = .*end = "),
        ({"policy_kwargs": {"activation_fn": "Tanhh"}}, "policy_kwargs.*'Tanhh'.*'Tanh'"),
    ],
)
def test_invalid_hyperparameters(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        SB3Agent("ppo", 0, **options)


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_observations_are_normalized(algorithm: str, tmp_path: Path):
    agent = train(algorithm, normalize=True)
    decided = decisions(agent)
    network = train(algorithm, normalize=True)
    normalizer = network.model.get_vec_normalize_env()
    assert normalizer is not None
    normalizer.norm_obs = False
    assert decisions(network) != decided
    agent.save(tmp_path / "agent")
    other = SB3Agent(algorithm, seed=9)
    other.load(tmp_path / "agent")
    assert decisions(other) == decided


def test_digits_are_not_normalized():
    with pytest.raises(ValueError, match="'box' or 'features'"):
        SB3Agent("ppo", 0, normalize=True).learn(make_training_env("digits"), 64)


def test_archives_are_loaded_on_request_only(tmp_path: Path):
    agent = train("dqn", 40)
    agent.model.save(tmp_path / "archive.zip")
    other = SB3Agent("dqn")
    with pytest.raises(ValueError, match=r"pickles .*allow_pickle=True"):
        other.load(tmp_path / "archive.zip")
    other.load(tmp_path / "archive.zip", allow_pickle=True)
    assert decisions(other) == decisions(agent)


def test_files_contain_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train("dqn", 40).save(tmp_path / "agent")
    for module in (pickle, torch):
        monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("read a pickle"))
    SB3Agent("dqn").load(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"agent\.safetensors .*DQN.*PPO"):
        SB3Agent("ppo").load(tmp_path / "agent")


def test_untrained_agent():
    with pytest.raises(RuntimeError, match=r"learn\(\) or load\(\)"):
        SB3Agent("dqn").predict(np.zeros((1, 16), np.float32))
