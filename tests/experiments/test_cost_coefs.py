"""Studies whose episodes draw their cost coefficient: evaluation at several, and hypervolumes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from spangym.agents import FixedSpanPolicy
from spangym.envs import EnvConfig
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.result_tables import (
    summary_table,
    tradeoff_table,
    wide_summary,
)
from spangym.experiments.reports.write_outputs import load_data, write_outputs
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.load_study import normalize_study, override_study, parse_study
from spangym.experiments.studies.study import Study, StudyAgent, StudyEnv
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.experiments.trials.estimate_comparison import estimate_comparison
from spangym.experiments.trials.evaluate import eval_configs, evaluate
from spangym.experiments.trials.replay import ReplayStatus, replay
from spangym.experiments.trials.trial import Trial, trials_of

SMALL = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 1, "num_actions": 3}
# Less than one pass of full attention, with all refinement passes.
SMALL |= {"win_size": 1, "max_span": 4, "max_dist": 4}
COSTS = [0.01, 0.1, 1.0, 10.0, 100.0]
PLAYED = ("refiner", "blind", "fixed:0", "fixed:2", "oracle")


@pytest.fixture(scope="module")
def study(tiny: Study) -> Study:
    kwargs = {**SMALL, "reward": "attention", "cost_coef": [0.01, 100.0]}
    refiner = StudyAgent("refiner", hyperparameters={"actions": 3})
    blind = dataclasses.replace(refiner, name="blind", include_cost_coef=False)
    return normalize_study(
        dataclasses.replace(
            tiny,
            environments=(
                StudyEnv("spangym/SpanControl-v0", "drawn", kwargs),
                StudyEnv("spangym/SpanControl-v0", "fixed", SMALL),
            ),
            agents=(refiner, blind),
        )
    )


@pytest.fixture(scope="module")
def run(study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunDir[Study, Trial]:
    folder = RunDir(tmp_path_factory.mktemp("costs") / "run", COMPARISON)
    folder.create(study, make_manifest(["spangym"], 1, "cpu", study.content_hashes()))
    for trial in trials_of(study):
        if trial.agent.name in PLAYED:
            place = folder.folder_of(trial)
            place.mkdir(parents=True)
            trial.run(place)
    write_outputs(folder, {})
    return folder


@pytest.fixture(scope="module")
def data(run: RunDir[Study, Trial]) -> PlotData:
    return load_data([run])


def find_trial(run: RunDir[Study, Trial], environment: str, agent: str) -> Trial:
    return next(
        each
        for each in run.jobs()
        if (each.environment.name, each.agent.name) == (environment, agent)
    )


def test_agents_observe_coefficients_that_are_drawn_unless_they_are_blind(study: Study):
    drawn, fixed = study.environments
    assert drawn.eval_cost_coefs == pytest.approx(COSTS)
    assert fixed.eval_cost_coefs == ()
    aware, blind = study.agents
    for agent, environment, expected in (
        (aware, drawn, True),
        (blind, drawn, False),
        (aware, fixed, False),
    ):
        config = agent.config_in(environment, "train")
        assert isinstance(config, EnvConfig)
        assert config.include_cost_coef is expected
    again = parse_study(study.to_toml(), "again")
    assert again == study
    changed = override_study(study, settings={"drawn.cost_coef": 0.5})
    assert changed.environments[0].eval_cost_coefs == ()


def test_each_episode_is_played_at_every_coefficient(run: RunDir[Study, Trial], study: Study):
    for agent, trial in ((each, find_trial(run, "drawn", each)) for each in PLAYED):
        rows = run.table(trial, "evaluation")
        assert rows["cost_coef"].tolist() == pytest.approx(np.repeat(COSTS, 2)), agent
        assert rows["evaluation_seed"].tolist() == [1_000_000, 1_000_001] * 5
        assert trial.total == trial.total_timesteps + 5 * 2 * 2
    fixed = run.table(find_trial(run, "drawn", "fixed:2"), "evaluation")
    # The same actions: only the cost grows, with the coefficient.
    costs = fixed["reward_cost"].to_numpy().reshape(5, 2)
    np.testing.assert_allclose(costs[1:] / costs[:-1], 10, rtol=1e-5)
    assert "cost_coef" not in run.table(find_trial(run, "fixed", "fixed:2"), "evaluation")
    work = estimate_comparison(study)
    assert work.steps["evaluation steps"] == sum(each.eval_steps for each in trials_of(study))


def test_evaluations_are_replayed_at_their_coefficients(run: RunDir[Study, Trial]):
    results = [*replay(run, find_trial(run, "drawn", "refiner"))]
    assert len(results) == 10
    assert {each.rewards for each in results} == {ReplayStatus.BIT_EXACT}


def test_the_oracle_sees_the_coefficient(run: RunDir[Study, Trial]):
    oracle = run.table(find_trial(run, "drawn", "oracle"), "evaluation")
    pairs = oracle["qk_pairs"].to_numpy().reshape(5, 2).mean(1)
    assert (np.diff(pairs) <= 0).all()
    assert pairs[0] > 0 == pairs[-1]


def test_tables_have_returns_at_every_coefficient_and_the_hypervolume(
    data: PlotData, run: RunDir[Study, Trial]
):
    table = tradeoff_table(data, "drawn")
    names = [f"at cost {each}" for each in ("0.01", "0.1", "1", "10", "1e+02")]
    assert table.columns == ("agent", *names, "hypervolume")
    rows = {row.cells[0].text: row.cells[1:] for row in table.rows}
    assert {*rows} == {*PLAYED}
    volumes = {name: float(cells[-1].value) for name, cells in rows.items()}
    # One point at no cost and no quality; one of full quality at full cost.
    assert volumes["fixed:0"] == 0
    assert volumes["oracle"] == max(volumes.values()) > 0
    oracle = run.table(find_trial(run, "drawn", "oracle"), "evaluation")
    means = oracle["return"].to_numpy().reshape(5, 2).mean(1)
    assert [cell.value for cell in rows["oracle"][:-1]] == pytest.approx(means)
    assert not tradeoff_table(data, "fixed").rows
    assert "hypervolume" not in summary_table(data, "fixed").columns
    summary = wide_summary(data.statistics.summary)
    assert "hypervolume" in summary.columns
    assert "Returns by cost coefficient" in (run.path / "report.html").read_text()
    stored = json.loads((run.path / "summary.json").read_text())["groups"]
    found = {each["group"]: each for each in stored if each["environment"] == "drawn"}
    assert found["oracle"]["hypervolume"] == pytest.approx(volumes["oracle"])


def test_differences_are_paired_at_each_coefficient(data: PlotData, run: RunDir[Study, Trial]):
    table = data.statistics.differences
    keys = zip(table["environment"], table["group"], table["baseline"], strict=True)
    number = [*keys].index(("drawn", "refiner", "oracle"))
    returns = {
        (each.agent.name, each.seed): run.table(each, "evaluation")["return"].to_numpy()
        for each in run.finished()
        if each.environment.name == "drawn"
    }
    expected = np.mean([returns["refiner", seed] - returns["oracle", 0] for seed in (0, 1)])
    assert table["difference"].tolist()[number] == pytest.approx(expected)
    assert table["n"].tolist()[number] == 2


def test_a_policy_is_evaluated_in_every_configuration():
    config = EnvConfig(**{**SMALL, "include_cost_coef": True, "encoding": "features"})
    configs = eval_configs(config, (0.5, 2.0))
    done: list[int] = []
    rows = evaluate(FixedSpanPolicy(2), configs, 7, 3, done.append)
    assert [row["cost_coef"] for row in rows] == [0.5] * 3 + [2.0] * 3
    assert [row["evaluation_seed"] for row in rows] == [7, 8, 9] * 2
    assert done == [0, 3, 6, 6, 9, 12]
    assert eval_configs(config, ()) == [config]
