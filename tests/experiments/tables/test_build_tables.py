"""Comparisons make the tables that they need, before their trials."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

import spangym
from spangym.envs.tables.table_folder import list_tables
from spangym.experiments import compare as module
from spangym.experiments.studies.load_study import normalize_study, parse_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.tables.build_tables import tables_of
from spangym.experiments.trials.trial import trials_of

from ..inline_executor import InlineExecutor

TABLED = """
name = "tabled"
total_timesteps = 16
seeds = [0]

[[environments]]
id = "spangym/SpanControl-v0"

[environments.kwargs]
dims = 8
heads = 2
ctx = 32
win_size = 16
num_actions = 2
chunks_per_episode = 2
num_levels = 6
backend = "table"

[evaluation]
episodes = 2
regret_episodes = 1

[[agents]]
algo = "dqn"
hyperparameters = { learning_starts = 4, buffer_size = 16 }
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def study() -> Study:
    return parse_study(TABLED, "tabled")


def with_kwargs(study: Study, **kwargs: object) -> Study:
    (environment,) = study.environments
    changed = dataclasses.replace(environment, kwargs={**environment.kwargs, **kwargs})
    return dataclasses.replace(study, environments=(changed,))


def run(
    study: Study, out: Path, monkeypatch: pytest.MonkeyPatch, interrupt_after: int | None = None
) -> InlineExecutor:
    executor = InlineExecutor(interrupt_after)
    monkeypatch.setattr(module, "LocalExecutor", lambda _: executor)
    spangym.compare(study, out=out, quiet=True)
    return executor


def test_agents_share_a_table_unless_they_have_other_actions(study: Study):
    agents = (
        *study.agents,
        StudyAgent("ppo", encoding="features", autocorrelation=True),
        StudyAgent("dqn", name="three", num_actions=3),
    )
    changed = with_kwargs(study, num_actions=10)
    changed = normalize_study(dataclasses.replace(changed, agents=agents))
    builds = tables_of(trials_of(changed))
    assert sorted(each.request.identity["num_actions"] for each in builds) == [3, 10]
    assert {each.request.num_levels for each in builds} == {6}


def test_a_comparison_makes_its_table_first_and_has_the_numbers_of_the_live_one(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 blocks .* compare --resume"):
        run(study, tmp_path / "table", monkeypatch, 1)
    executor = run(study, tmp_path / "table", monkeypatch)
    assert executor.ran[0].endswith("/4-5")
    assert len(executor.ran) == 1 + len(trials_of(study))
    (path,) = list_tables()
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    assert manifest["tables"] == {path.name: path.name.split("-")[2]}

    live = with_kwargs(study, backend="live")
    run(live, tmp_path / "live", monkeypatch)
    for name in ("curve.csv", "evaluation.csv"):
        one, two = (
            pd.read_csv(next((tmp_path / each).glob(f"jobs/*/dqn/*/{name}")))
            for each in ("table", "live")
        )
        drop = ["wall_seconds"] if name == "curve.csv" else []
        pd.testing.assert_frame_equal(one.drop(columns=drop), two.drop(columns=drop))
    assert run(study, tmp_path / "table", monkeypatch).ran == []


def test_evaluations_have_tables_of_their_own(study: Study):
    evaluation = dataclasses.replace(
        study.evaluation, split="train", num_levels=4, start_level=6, backend="table"
    )
    changed = dataclasses.replace(study, evaluation=evaluation)
    builds = tables_of(trials_of(changed))
    assert [(each.request.start_level, each.request.num_levels) for each in builds] == [
        (0, 6),
        (6, 4),
    ]
