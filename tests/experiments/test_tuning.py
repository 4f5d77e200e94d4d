"""Searches for hyperparameters, real ones, of few steps."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spangym.agents.registry import get_agent_spec
from spangym.experiments.studies.load_study import load_study
from spangym.experiments.studies.study import Study
from spangym.experiments.tuning.search_space import (
    Distribution,
    builtin_search_spaces,
    flatten,
    load_search_space,
    unflatten,
)
from spangym.experiments.tuning.tune import EVAL_SEED, best_of, build_search, optimize
from spangym.utils.errors import UserError

from .conftest import TINY, spangym

SEARCH_SPACE = """
epsilon = { low = 0.0, high = 1.0 }
tie_breaking = { choices = ["lowest", "random"] }
"""


@pytest.mark.parametrize("name", builtin_search_spaces())
def test_builtin_search_spaces_are_of_existing_hyperparameters(name: str):
    search_space = load_search_space(name)
    get_agent_spec(name).check_options({each.partition(".")[0]: None for each in search_space})


def test_a_search_goes_on_and_its_best_is_an_agent_of_a_study(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "search-space.toml").write_text(SEARCH_SPACE)
    arguments = ["tune", "tiny.toml", "--agent", "pooled", "--search-space", "search-space.toml"]
    arguments += ["--episodes", 2, "--out", "search", "--workers", 2]
    first = spangym([*arguments, "--trials", 2], tmp_path)
    assert first.returncode == 0, first.stderr
    done = spangym([*arguments, "--trials", 3], tmp_path)
    assert done.returncode == 0, done.stderr
    for line in [each for each in first.stdout.splitlines() if each.startswith("trial ")]:
        assert line in done.stdout
    assert sum(each.startswith("trial ") for each in done.stdout.splitlines()) == 3
    (entry,) = tomllib.loads((tmp_path / "search" / "best.toml").read_text())["agents"]
    assert (entry["algo"], entry["name"], entry["pool_groups"]) == ("refiner", "pooled", 2)
    assert set(entry["hyperparameters"]) == {"epsilon", "tie_breaking"}
    told = (tmp_path / "search" / "best.toml").read_text()
    assert "3 trials by Optuna's TPE (seed 0), each of 64 steps in 1 environments" in told
    assert '"tie_breaking": ["lowest", "random"]' in told
    assert not (tmp_path / "search" / "trials").exists()
    search = build_search(
        load_study(str(tmp_path / "tiny.toml")),
        "pooled",
        load_search_space(str(tmp_path / "search-space.toml")),
        trials=3,
        total_timesteps=None,
        seeds=1,
        episodes=2,
        seed=1,
    )
    with pytest.raises(UserError, match="search' holds another search"):
        next(optimize(search, tmp_path / "search", 1, lambda _: None))


def test_the_studys_own_hyperparameters_are_tried_first_and_failures_are_kept(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "picky.py").write_text(
        "class Picky:\n"
        "    def __init__(self, action=3):\n        self.action = action\n"
        "    def choose_action(self, state):\n"
        "        if self.action != 7:\n            raise ValueError('not mine')\n"
        "        return self.action\n"
        "    def update(self, state, action, reward, next_state):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(
        tiny.agents[0], algo="picky:Picky", name="picky", hyperparameters={"action": 7}
    )
    study = dataclasses.replace(tiny, agents=(entry,))
    search_space = {"action": Distribution(low=0, high=6)}
    options: dict[str, Any] = {
        "trials": 1,
        "total_timesteps": 16,
        "seeds": 1,
        "episodes": 1,
        "seed": 0,
    }
    # Outside the range the study's own value is not tried.
    search = build_search(study, "picky", search_space, **options)
    (tried,) = optimize(search, tmp_path / "one", 1, lambda _: None)
    assert tried.mean_return is None
    assert tried.error == "ValueError: not mine"
    assert best_of([tried]) is None
    search = build_search(study, "picky", {"action": Distribution(low=0, high=7)}, **options)
    (tried,) = optimize(search, tmp_path / "two", 1, lambda _: None)
    assert tried.params == {"action": 7}
    assert best_of([tried]) == tried


def test_a_search_sees_nothing_of_the_evaluation(tiny: Study):
    search = build_search(
        tiny, "dqn", {}, trials=1, total_timesteps=None, seeds=2, episodes=3, seed=0
    )
    judged = search.study.evaluation
    assert (judged.split, judged.seed, judged.episodes) == ("train", EVAL_SEED, 3)
    assert search.study.trials()[0].eval_config().split == "train"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gamma = 3", "key 'gamma'"),
        ("gamma = { low = 1.0 }", "needs low and high, or choices"),
        ("gamma = { low = 1.0, high = 0.5 }", "low must be below high"),
        ("gamma = { low = 0.0, high = 0.5, log = true }", "log needs a low above 0"),
        ("gamma = { low = 0.0, hgh = 0.5 }", "'gamma.hgh' is unknown"),
        ("gama = { low = 0.0, high = 0.5 }", "has no option 'gama'; did you mean 'gamma'"),
    ],
)
def test_bad_ranges_are_named(tiny: Study, tmp_path: Path, text: str, message: str):
    path = tmp_path / "search-space.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="search-space") as caught:
        build_search(
            tiny,
            "dqn",
            load_search_space(str(path)),
            trials=1,
            total_timesteps=None,
            seeds=1,
            episodes=1,
            seed=0,
        )
    assert message in str(caught.value)


def test_hyperparameters_in_tables_have_a_dot():
    search_space = {"policy_kwargs.net_arch": Distribution(choices=([8], [16, 16]))}
    options = {"gamma": 0.5, "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"}}
    assert flatten(options, search_space) == {"policy_kwargs.net_arch": [8]}
    changed = unflatten({"policy_kwargs.net_arch": [16, 16]}, options)
    assert changed["policy_kwargs"] == {"net_arch": [16, 16], "activation_fn": "ReLU"}
    assert options["policy_kwargs"]["net_arch"] == [8]
    assert search_space["policy_kwargs.net_arch"].contains([16, 16])
    assert not search_space["policy_kwargs.net_arch"].contains([16])
