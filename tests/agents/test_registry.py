import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spangym.agents import BUILTIN_AGENTS, SB3Agent, get_agent_spec

from ..factories import make_training_env

WriteModule = Callable[[str, str], str]

AGENT = """
    import numpy as np
    from stable_baselines3 import PPO

    class Plays:
        encoding = "features"
        def __init__(self, action=3):
            self.action = action
        def learn(self, env, steps):
            pass
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

REFINER = """
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


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


@pytest.mark.parametrize("name", BUILTIN_AGENTS)
def test_builtin_agents(name: str):
    assert BUILTIN_AGENTS[name]
    spec = get_agent_spec(name)
    assert spec.name == name
    assert spec.module_sha256 == ""
    spec.make(seed=0)


def test_custom_agent(write_module: WriteModule):
    spec = get_agent_spec(f"{write_module('own_agent', AGENT)}:Plays")
    assert (spec.encoding, spec.is_trainable, spec.is_stochastic) == ("features", True, True)
    assert len(spec.module_sha256) == 64
    spec.check_options({"action": 5})
    with pytest.raises(ValueError, match=r"'acton'.*'action'"):
        spec.check_options({"acton": 5})
    assert spec.make(seed=0, action=5).predict(np.zeros((2, 3))).tolist() == [5, 5]


@pytest.mark.parametrize("name", ["MyPPO", "PPO"])
def test_custom_algorithm(write_module: WriteModule, name: str):
    spec = get_agent_spec(f"{write_module('own_agent', AGENT)}:{name}")
    assert spec.encoding == "box"
    with pytest.raises(ValueError, match=r"'ent_coeff'.*'ent_coef'"):
        spec.check_options({"ent_coeff": 0.1})
    agent, env = spec.make(seed=0, n_epochs=1), make_training_env()
    agent.learn(env, 64)
    assert env.steps == 64
    assert isinstance(agent, SB3Agent)
    assert type(agent.model).__name__ == name


def test_custom_refiner(write_module: WriteModule):
    spec = get_agent_spec(f"{write_module('own_refiner', REFINER)}:Mine")
    assert spec.encoding == "state"
    spec.check_options({"favorite": 7, "bootstrap_from": "layer_output"})
    first, second = (spec.make(seed=1, favorite=7) for _ in range(2))
    actions = first.predict(np.arange(20)).tolist()
    assert set(actions) == {0, 7}
    assert actions == second.predict(np.arange(20)).tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoLoad", r"load\(path\).*learn\(env, steps\) and predict"),
        ("Nothing", "neither .*choose_action.*learn.*Stable-Baselines3"),
    ],
)
def test_incomplete_agents(write_module: WriteModule, name: str, message: str):
    with pytest.raises(ValueError, match=message):
        get_agent_spec(f"{write_module('own_agent', AGENT)}:{name}")


def test_entry_points(write_module: WriteModule, tmp_path: Path):
    write_module("own_agent", AGENT)
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[spangym.agents]\nplays = own_agent:Plays\nbroken = own_agent:Gone\n"
    )
    assert get_agent_spec("plays").make(seed=0, action=2).predict(np.zeros((1, 3))).tolist() == [2]
    with pytest.raises(ValueError, match=r"'play' .*'plays'"):
        get_agent_spec("play")
    with pytest.raises(ValueError, match=r"agent 'broken'.*'own_agent'.*'Gone'"):
        get_agent_spec("broken")


def test_algorithm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ValueError, match=r"'spangym\[contrib\]'"):
        get_agent_spec("qrdqn")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refinr", "'refiner'"),
        ("fixed:1O", "'fixed:1'"),
        ("no_such_module:X", "no module 'no_such_module'"),
        ("own_refiner_b:Mne", "'Mne'.*'Mine'"),
        ("own_refiner_b:NotAClass", "'NotAClass' .*not a class"),
        ("own_refiner_b:NoUpdate", r"update\(state, action, reward, next_state\)"),
        ("own_refiner_broken:X", "'own_refiner_broken' .*ZeroDivisionError"),
        ("own_refiner_mis:X", "'own_refiner_mis' fails.*'own_refiner_m'"),
        ("own_refiner_missing:X", "'own_refiner_missing' fails.*'nowhere'"),
    ],
)
def test_names_that_cannot_be_imported(write_module: WriteModule, name: str, message: str):
    write_module("own_refiner_b", REFINER)
    write_module("own_refiner_broken", "1 / 0")
    write_module("own_refiner_missing", "import nowhere")
    write_module("own_refiner_mis", "import own_refiner_m")
    with pytest.raises(ValueError, match=f"agent .*{message}"):
        get_agent_spec(name)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("dqn", "learning_rte", "'learning_rate'"),
        ("refiner", "gama", "'gamma'"),
        ("refiner-kmeans", "n_clustrs", "'n_clusters'"),
        ("random", "gamma", "none"),
        ("ppo", "env", "'env'"),
    ],
)
def test_unknown_options(name: str, option: str, message: str):
    with pytest.raises(ValueError, match=f"{name}.*{option}.*{message}|{name}.*{message}"):
        get_agent_spec(name).check_options({option: 1})
