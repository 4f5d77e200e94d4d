"""Hyperparameter searches with few steps."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spangym.experiments.studies.load_study import load_study
from spangym.experiments.studies.study import Study
from spangym.experiments.tuning.search_space import Distribution, load_search_space
from spangym.experiments.tuning.tune import (
    EVAL_SEED,
    Search,
    TrialResult,
    build_search,
    optimize,
    rank,
    tables_of_search,
    trials_table,
)
from spangym.utils.errors import UserError

from ..conftest import TINY, run_here

SEARCH_SPACE = """
epsilon = { low = 0.0, high = 1.0 }
tie_breaking = { choices = ["lowest", "random"] }
"""


def make_search(study: Study, agent: str, space: dict[str, Distribution], **options: Any) -> Search:
    study = dataclasses.replace(study, total_timesteps=options.pop("total_timesteps", 16))
    defaults: dict[str, Any] = {
        "num_trials": 1,
        "seeds": 1,
        "episodes": 1,
        "seed": 0,
    }
    return build_search(study, agent, space, **defaults | options)


def trial_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("trial ")]


def test_command_resumes_and_writes_an_agent_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    Path("space.toml").write_text(SEARCH_SPACE)
    command = ["tune", "tiny.toml", "--agent", "pooled", "--search-space", "space.toml"]
    command += ["--episodes", "2", "--out", "search", "--workers", "1", "--total-timesteps", "16"]
    assert run_here(monkeypatch, *command, "--trials", 1) == 0
    first = trial_lines(capsys.readouterr().out)
    assert run_here(monkeypatch, *command, "--trials", 2) == 0
    assert trial_lines(capsys.readouterr().out)[: len(first)] == first
    assert len(first) == 1
    text = Path("search/best.toml").read_text()
    (entry,) = tomllib.loads(text)["agents"]
    assert (entry["algo"], entry["name"], entry["pool_groups"]) == ("refiner", "pooled", 2)
    assert entry["hyperparameters"].keys() == {"epsilon", "tie_breaking"}
    assert "2 trials" in text
    assert '"tie_breaking": ["lowest", "random"]' in text
    assert not Path("search/trials").exists()
    space = load_search_space("space.toml")
    other = make_search(load_study("tiny.toml"), "pooled", space, seed=1)
    with pytest.raises(UserError, match=r"search' .*--out"):
        next(optimize(other, Path("search"), 1, lambda _: None))


CONTROLLER = """
class Picky:
    def __init__(self, action=3):
        self.action = action
    def choose_action(self, state):
        if self.action != 7:
            raise ValueError("not mine")
        return self.action
    def update(self, state, action, reward, next_state):
        pass
"""


def test_own_hyperparameters_come_first_and_failures_are_kept(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "picky.py").write_text(CONTROLLER)
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(
        tiny.agents[0], algo="picky:Picky", name="picky", hyperparameters={"action": 7}
    )
    study = dataclasses.replace(tiny, agents=(entry,))
    # The first search space does not contain the study's own value.
    failing = make_search(study, "picky", {"action": Distribution(low=0, high=6)})
    for _ in range(2):
        (failed,) = optimize(failing, tmp_path / "one", 1, lambda _: None)
        assert (failed.mean_return, failed.error) == (None, "ValueError: not mine")
        assert rank([failed]) == []
    steps: list[int] = []
    search = make_search(study, "picky", {"action": Distribution(low=0, high=7)})
    (result,) = optimize(search, tmp_path / "two", 1, steps.append)
    assert result.params == {"action": 7}
    assert rank([result]) == [result]
    assert 0 < max(steps) <= 16


def test_searches_read_nothing_of_the_evaluation(tiny: Study):
    search = make_search(tiny, "dqn", {}, total_timesteps=64, seeds=2, episodes=3)
    evaluation = search.study.evaluation
    assert (evaluation.split, evaluation.seed, evaluation.episodes) == ("train", EVAL_SEED, 3)
    assert (search.study.total_timesteps, search.study.seeds) == (64, (0, 1))


def test_best_trials_are_shown_first():
    returns = [0.5, None, 2.0, -1.0]
    results = [TrialResult(i, {"gamma": 0.1 * i}, each) for i, each in enumerate(returns)]
    assert [each.number for each in rank(results)] == [2, 0, 3]
    headers = [column.header for column in trials_table(results, most=2).columns]
    assert headers == ["hyperparameter", "trial 2", "trial 0"]


def test_unknown_names_suggest_others(tiny: Study):
    with pytest.raises(UserError, match=r"'gama'.*'gamma'"):
        make_search(tiny, "dqn", {"gama": Distribution(low=0.0, high=0.5)})
    with pytest.raises(UserError, match=r"'pool'.*'pooled'"):
        make_search(tiny, "pool", {})


def test_settings_change_the_study_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    Path("space.toml").write_text("epsilon = { low = 0.0, high = 1.0 }")
    command = ["tune", "tiny.toml", "--agent", "pooled", "--search-space", "space.toml"]
    command += ["--total-timesteps", "16", "--episodes", "1", "--trials", "1", "--workers", "1"]
    changes = ["--set", "pooled.alpha=0.5", "--set", "ctx=8"]
    assert run_here(monkeypatch, *command, *changes, "--out", "search") == 0
    stored = json.loads(Path("search/search.json").read_text())["study"]
    assert tomllib.loads(stored)["environments"][0]["kwargs"]["ctx"] == 8
    best = tomllib.loads(Path("search/best.toml").read_text())["agents"][0]
    assert best["hyperparameters"]["alpha"] == 0.5
    for wrong in ("seeds=3", "evaluation.episodes=2", "total_timesteps=32", "pooled.alfa=1"):
        assert run_here(monkeypatch, *command, "--set", wrong) == 2
        assert wrong.partition("=")[0] in capsys.readouterr().err


def test_a_search_on_a_table_is_evaluated_on_levels_after_those_of_the_training(tiny: Study):
    (environment,) = tiny.environments
    kwargs = {**environment.kwargs, "backend": "table", "num_levels": 6, "start_level": 2}
    study = dataclasses.replace(
        tiny, environments=(dataclasses.replace(environment, kwargs=kwargs),)
    )
    space = {"gamma": Distribution(choices=(0.5,))}
    assert make_search(study, "dqn", space).study.evaluation.num_levels == 512
    search = make_search(study, "dqn", space, episodes=3, eval_levels=4)
    assert search.study.evaluation.levels == range(8, 12)
    assert "3 episodes of 4 levels that no training reads" in search.describe()
    tables = tables_of_search(search)
    assert [each.request.start_level for each in tables] == [2, 8]
    assert {each.config.backend for each in tables} == {"table"}
