"""What a trial's key hangs on, and what not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent
from spangym.experiments.trials.trial import Trial, trials_of

CUSTOM = """
class Mine:
    def choose_action(self, state):
        return {action}
    def update(self, state, action, reward, next_state):
        pass
"""


def key(trial: Trial) -> str:
    return config_hash(trial.config_for_hash(DatasetHashes()))


def test_what_things_are_called_is_not_in_it(tiny: Study):
    trial = trials_of(tiny)[0]
    agent = replace(trial.agent, name="another", environments=("elsewhere",))
    environment = replace(trial.environment, name="elsewhere")
    assert key(replace(trial, agent=agent, environment=environment)) == key(trial)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"total_timesteps": 128},
        {"n_envs": 2},
        {"resumed_from_steps": (32,)},
        {"evaluation": EvalConfig(episodes=2, regret_episodes=1)},
    ],
)
def test_what_the_numbers_hang_on_is_in_it(tiny: Study, change: dict[str, Any]):
    trial = trials_of(tiny)[0]
    assert key(replace(trial, **change)) != key(trial)


@pytest.mark.parametrize(
    "change", [{"hyperparameters": {"alpha": 0.2}}, {"pool_groups": 4}, {"algo": "random"}]
)
def test_the_agent_is_in_it(tiny: Study, change: dict[str, Any]):
    trial = trials_of(tiny)[0]
    assert key(replace(trial, agent=replace(trial.agent, **change))) != key(trial)


def test_kwargs_and_what_is_read_are_in_it(tiny: Study, tmp_path: Path):
    trial = trials_of(tiny)[0]
    keys = {key(trial)}
    (tmp_path / "own.txt").write_text("abcdefgh" * 50)
    for change in ({"cost_coef": 0.5}, {"dataset": "code"}, {"dataset": str(tmp_path / "own.txt")}):
        kwargs = {**trial.environment.kwargs, **change}
        environment = replace(trial.environment, kwargs=kwargs)
        keys.add(key(changed := replace(trial, environment=environment)))
    assert len(keys) == 4
    (tmp_path / "own.txt").write_text("hgfedcba" * 50)
    assert key(changed) not in keys


def test_the_module_of_an_agent_of_ones_own_is_in_it(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    trial = replace(trials_of(tiny)[0], agent=StudyAgent("own_of_keys:Mine", encoding="state"))
    path = tmp_path / "own_of_keys.py"
    keys = set()
    for action in (3, 4, 3):
        path.write_text(CUSTOM.format(action=action))
        keys.add(key(trial))
    assert len(keys) == 2
