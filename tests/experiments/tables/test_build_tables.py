"""Comparisons make the tables that they need, before their trials."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

import spangym
from spangym.envs.tables.table_folder import list_tables
from spangym.experiments import compare as module
from spangym.experiments.runner.job import Event, Failed, PlacedJob, Started
from spangym.experiments.studies.load_study import normalize_study, parse_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.tables.build_tables import tables_of
from spangym.experiments.trials.trial import trials_of
from spangym.utils.errors import RunError, UserError

from ..conftest import run_here
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


def test_a_block_that_fails_ends_the_run(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Fails:
        def run(self, jobs: Sequence[PlacedJob]) -> Iterator[Event]:
            for job, _ in jobs:
                yield Started(job)
                yield Failed(job, "ValueError: terms_0 of levels [0] are NaN")

    monkeypatch.setattr(module, "LocalExecutor", lambda _: Fails())
    with pytest.raises(RunError, match=r"a table cannot be made: .*/0-3: ValueError: terms_0"):
        spangym.compare(study, out=tmp_path / "run", quiet=True)


def test_a_dry_run_names_the_tables_and_writes_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("tabled.toml").write_text(TABLED)
    assert run_here(monkeypatch, "compare", "tabled.toml", "--dry-run", "--workers", 2) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"^table SpanControl-v0-\w{12}-levels-0-5: 6 of 6 levels are to be made", said, re.M
    )
    assert not cache.exists()


def test_layers_that_cannot_have_a_table_are_refused_before_anything_is_written(
    study: Study, tmp_path: Path
):
    with pytest.raises(UserError, match="backend 'table' needs at most 3 layers"):
        spangym.compare(with_kwargs(study, num_layers=4), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


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
