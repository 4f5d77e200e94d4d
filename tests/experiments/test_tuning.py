"""Searches for hyperparameters, real ones, of few steps."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spangym.agents.registry import find_agent
from spangym.experiments.studies.load_study import load_study
from spangym.experiments.studies.study import Study
from spangym.experiments.tuning.search_space import (
    Range,
    flat,
    load_ranges,
    nested,
    shipped_ranges,
)
from spangym.experiments.tuning.tune import FIRST_SEED, best_of, make_search, run_search
from spangym.utils.errors import UserError

from .conftest import TINY, spangym

RANGES = """
epsilon = { low = 0.0, high = 1.0 }
ties = { choices = ["lowest", "random"] }
"""


@pytest.mark.parametrize("name", shipped_ranges())
def test_shipped_ranges_are_of_options_that_there_are(name: str):
    ranges = load_ranges(name)
    find_agent(name).check_options({each.partition(".")[0]: None for each in ranges})


def test_a_search_goes_on_and_its_best_is_an_agent_of_a_study(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "ranges.toml").write_text(RANGES)
    arguments = ["tune", "tiny.toml", "--agent", "pooled", "--ranges", "ranges.toml"]
    arguments += ["--episodes", 2, "--out", "search", "--jobs", 2]
    first = spangym([*arguments, "--trials", 2], tmp_path)
    assert first.returncode == 0, first.stderr
    done = spangym([*arguments, "--trials", 3], tmp_path)
    assert done.returncode == 0, done.stderr
    for line in [each for each in first.stdout.splitlines() if each.startswith("trial ")]:
        assert line in done.stdout
    assert sum(each.startswith("trial ") for each in done.stdout.splitlines()) == 3
    (entry,) = tomllib.loads((tmp_path / "search" / "best.toml").read_text())["agents"]
    assert (entry["agent"], entry["label"], entry["groups"]) == ("refiner", "pooled", 2)
    assert set(entry["options"]) == {"epsilon", "ties"}
    told = (tmp_path / "search" / "best.toml").read_text()
    assert "3 trials by Optuna's TPE (seed 0), each of 64 steps in 1 lanes" in told
    assert '"ties": ["lowest", "random"]' in told
    assert not (tmp_path / "search" / "trials").exists()
    search = make_search(
        load_study(str(tmp_path / "tiny.toml")),
        "pooled",
        load_ranges(str(tmp_path / "ranges.toml")),
        trials=3,
        steps=None,
        seeds=1,
        episodes=2,
        seed=1,
    )
    with pytest.raises(UserError, match="search' holds another search"):
        next(run_search(search, tmp_path / "search", 1, lambda _: None))


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
        tiny.agents[0], agent="picky:Picky", label="picky", options={"action": 7}
    )
    study = dataclasses.replace(tiny, agents=(entry,))
    ranges = {"action": Range(low=0, high=6)}
    options: dict[str, Any] = {"trials": 1, "steps": 16, "seeds": 1, "episodes": 1, "seed": 0}
    # Outside the range the study's own value is not tried.
    search = make_search(study, "picky", ranges, **options)
    (tried,) = run_search(search, tmp_path / "one", 1, lambda _: None)
    assert tried.mean_return is None
    assert tried.error == "ValueError: not mine"
    assert best_of([tried]) is None
    search = make_search(study, "picky", {"action": Range(low=0, high=7)}, **options)
    (tried,) = run_search(search, tmp_path / "two", 1, lambda _: None)
    assert tried.chosen == {"action": 7}
    assert best_of([tried]) == tried


def test_a_search_sees_nothing_of_the_evaluation(tiny: Study):
    search = make_search(tiny, "dqn", {}, trials=1, steps=None, seeds=2, episodes=3, seed=0)
    judged = search.study.evaluation
    assert (judged.split, judged.first_seed, judged.episodes) == ("train", FIRST_SEED, 3)
    assert search.study.trials()[0].judging().split == "train"


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
    path = tmp_path / "ranges.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="ranges") as caught:
        make_search(
            tiny,
            "dqn",
            load_ranges(str(path)),
            trials=1,
            steps=None,
            seeds=1,
            episodes=1,
            seed=0,
        )
    assert message in str(caught.value)


def test_options_in_tables_have_a_dot():
    ranges = {"policy_kwargs.net_arch": Range(choices=([8], [16, 16]))}
    options = {"gamma": 0.5, "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"}}
    assert flat(options, ranges) == {"policy_kwargs.net_arch": [8]}
    changed = nested({"policy_kwargs.net_arch": [16, 16]}, options)
    assert changed["policy_kwargs"] == {"net_arch": [16, 16], "activation_fn": "ReLU"}
    assert options["policy_kwargs"]["net_arch"] == [8]
    assert ranges["policy_kwargs.net_arch"].holds([16, 16])
    assert not ranges["policy_kwargs.net_arch"].holds([16])
