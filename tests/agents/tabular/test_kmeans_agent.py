from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spangym.agents import Refiner
from spangym.agents.base import is_resumable
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.utils.serialization import from_bytes, to_bytes

from ...factories import RecordingEnv, make_training_env, played_actions


def make_env(num_envs: int = 2) -> RecordingEnv:
    return make_training_env("box", num_envs, num_layers=2, include_layer_index=True)


def make_agent(seed: int = 0, n_fit_samples: int = 20, **options: Any) -> KMeansQAgent:
    options = {"tie_breaking": "random", "double_q": True, "lambda_": 0.5, **options}
    refiner = Refiner(seed=seed, **options)
    return KMeansQAgent(refiner, KMeansDiscretizer(3, n_fit_samples, seed=seed), seed)


def decisions(agent: KMeansQAgent) -> list[list[int]]:
    return played_actions(agent, make_env(4))


class RecordingRefiner(Refiner):
    """Records its updates."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.updates: list[tuple[int, int, float, int, int]] = []

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int = 0
    ) -> None:
        self.updates.append((state, action, reward, next_state, env_index))
        super().update(state, action, reward, next_state, env_index)


def test_learns_from_all_transitions_in_order():
    env, refiner = make_env(), RecordingRefiner()
    agent = KMeansQAgent(refiner, KMeansDiscretizer(3, 20, seed=0), 0)
    agent.learn(env, 60)
    expected = []
    for observations, actions, rewards, next_observations in env.transitions:
        states, next_states = (
            agent.discretizer.predict(each).tolist() for each in (observations, next_observations)
        )
        expected += zip(
            states, actions.tolist(), rewards.tolist(), next_states, range(2), strict=True
        )
    assert refiner.updates == expected
    # Random actions before the clusters are fitted.
    assert len({action for _, action, *_ in expected[:20]}) > 4


def test_takes_exactly_its_steps():
    agent, env = make_agent(), make_env()
    for steps in (0, 31, 64):
        taken: list[bool] = []
        agent.learn(env, steps, taken.append)
        assert taken == [False] * (steps // 2 - 1) + [True] * (steps > 0)


@pytest.mark.parametrize("at", [0, 4, 10, 11, 25])
def test_resumed_training_is_identical(at: int):
    whole, kept = make_agent(), []
    env = make_env()

    def checkpoint_callback(last: bool) -> None:
        del last
        kept.append(to_bytes([whole.state_dict(), env.venv.state_dict()]))

    whole.learn(env, 60, checkpoint_callback)
    agent_state, env_state = from_bytes(kept[at])
    again, env = make_agent(seed=9), make_env()
    again.load_state_dict(agent_state)
    env.venv.load_state_dict(env_state)
    again.learn(env, 60)
    assert to_bytes(again.state_dict()) == to_bytes(whole.state_dict())


def test_saved_and_loaded_agent_decides_and_learns_identically(tmp_path: Path):
    agent, env = make_agent(), make_env()
    agent.learn(env, 60)
    agent.save(tmp_path / "agent")
    assert [each.name for each in tmp_path.iterdir()] == ["agent.safetensors"]
    fresh = make_agent(seed=9)
    fresh.load(tmp_path / "agent")
    assert decisions(fresh) == decisions(agent)
    for each in (agent, fresh):
        each.learn(make_env(), 20)
    assert decisions(fresh) == decisions(agent)


def test_short_training_fits_the_observations_it_has():
    agent = make_agent(n_fit_samples=1000)
    agent.learn(make_env(), 30)
    assert agent.discretizer.is_fitted
    assert len(agent.refiner.state_dict()["states"]) > 1
    assert np.isin(decisions(agent), range(10)).all()


def test_loading_another_agent_changes_nothing(tmp_path: Path):
    agent = make_agent()
    agent.learn(make_env(), 60)
    other = make_agent(seed=3, double_q=False)
    other.learn(make_env(), 30)
    before = to_bytes(other.state_dict())
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"agent\.safetensors .*'second_visits'"):
        other.load(tmp_path / "agent")
    assert to_bytes(other.state_dict()) == before


def test_another_number_of_environments():
    agent = make_agent()
    agent.learn(make_env(), 60)
    agent.load_state_dict(agent.state_dict())
    with pytest.raises(ValueError, match=r"2 environments .*3"):
        agent.learn(make_env(3), 90)


def test_untrained_agent():
    assert is_resumable(make_agent())
    with pytest.raises(RuntimeError, match=r"learn\(\) or load\(\)"):
        make_agent().predict(np.zeros((1, 17), np.float32))
