"""Studies with levels: evaluation on unseen content, and the generalization gap."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import spangym
from spangym.envs import SpanControlEnv
from spangym.experiments.reports.result_tables import GAP_FOOTNOTE, footnotes, summary_table
from spangym.experiments.reports.write_outputs import load_data, write_outputs
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import Study, StudyEnv
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.experiments.trials.estimate_comparison import estimate_comparison
from spangym.experiments.trials.trial import Trial, trials_of

SMALL = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "win_size": 16}
LABEL = "generalization gap"


@pytest.fixture(scope="module")
def study(tiny: Study) -> Study:
    """One environment with two levels, one without; a refiner learns in the first."""
    return normalize_study(
        dataclasses.replace(
            tiny,
            environments=(
                StudyEnv("spangym/SpanControl-v0", "levels", {**SMALL, "num_levels": 2}),
                StudyEnv("spangym/SpanControl-v0", "unseen", SMALL),
            ),
            agents=(dataclasses.replace(tiny.agents[0], environments=("levels",)),),
        )
    )


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which some of the trials are finished."""
    run = RunDir(tmp_path_factory.mktemp("levels") / "run", COMPARISON)
    run.create(study, make_manifest(["spangym"], 1, "cpu", study.content_hashes()))
    for trial in trials_of(study):
        if trial.agent.algo in ("refiner", "fixed:3"):
            place = run.folder_of(trial)
            place.mkdir(parents=True)
            trial.run(place)
    write_outputs(run, {})
    return run.path


def find_trial(study: Study, environment: str, algo: str) -> Trial:
    return next(
        each
        for each in trials_of(study)
        if (each.environment.name, each.agent.algo) == (environment, algo)
    )


def result_of(folder: Path, trial: Trial) -> dict[str, float]:
    (path,) = folder.glob(f"jobs/{trial.job_id}-*/result.json")
    return json.loads(path.read_text())


def mean_return(action: int, seeds: range, **arguments: object) -> float:
    """Mean return of a fixed action, played by a scalar environment."""
    env = SpanControlEnv(**SMALL, **arguments)  # pyright: ignore[reportArgumentType]
    returns = []
    for seed in seeds:
        env.reset(seed=seed)
        returns.append(sum(env.step(action)[1] for _ in range(4)))
    return float(np.mean(returns))


def test_gap_of_a_fixed_span_is_the_difference_of_both_means(study: Study, folder: Path):
    trial = find_trial(study, "levels", "fixed:3")
    seeds = range(trial.evaluation.seed, trial.evaluation.seed + 2)
    on_levels = mean_return(3, seeds, num_levels=2)
    unseen = mean_return(3, seeds, split="evaluation")
    result = result_of(folder, trial)
    assert result["training_return"] == pytest.approx(on_levels)
    assert result["evaluation_return"] == pytest.approx(unseen)
    assert result["generalization_gap"] == pytest.approx(on_levels - unseen)
    assert on_levels != pytest.approx(unseen)
    same = find_trial(study, "unseen", "fixed:3")
    without = result_of(folder, same)
    assert without["evaluation_return"] == result["evaluation_return"]
    assert without["training_return"] is without["generalization_gap"] is None


def test_steps_on_the_levels_are_counted(study: Study, tmp_path: Path):
    trial = find_trial(study, "levels", "refiner")
    seen: list[int] = []
    trial.run(tmp_path, seen.append)
    assert seen[-1] == trial.total == 64 + 2 * 2 * 4
    assert seen == sorted(seen)
    trials = trials_of(study)
    work = estimate_comparison(study)
    assert work.steps["evaluation steps"] == sum(t.total - t.total_timesteps for t in trials)
    events = EventAccumulator(str(tmp_path)).Reload()
    result = json.loads((tmp_path / "result.json").read_text())
    for name in ("training_return", "generalization_gap"):
        (event,) = events.Scalars(f"evaluation/{name}")
        assert event.value == pytest.approx(result[name])


def test_tables_and_report_show_the_gap(study: Study, folder: Path):
    data = load_data([RunDir.open(folder, COMPARISON)])
    levels, unseen = (summary_table(data, each.name) for each in study.environments)
    column = levels.columns.index(LABEL)
    assert unseen.columns == levels.columns
    assert {(row.cells[column].text, row.cells[column].note) for row in unseen.rows} == {
        ("\N{EN DASH}", "no levels")
    }
    (learner,) = (row.cells[column] for row in levels.rows if row.label == "pooled")
    trials = [each for each in trials_of(study) if each.agent.name == "pooled"]
    gaps = [result_of(folder, each)["generalization_gap"] for each in trials]
    assert learner.value == pytest.approx(np.mean(gaps))
    assert "±" in learner.text
    assert GAP_FOOTNOTE in footnotes(data)
    report = (folder / "report.html").read_text("utf-8")
    assert f"{LABEL}</button>" in report
    assert learner.text in report
    rows = spangym.load_run(folder).table.set_index(["environment", "agent"])
    assert rows.loc[("levels", "pooled"), "generalization_gap"] == pytest.approx(np.mean(gaps))
    assert pd.isna(rows.loc[("unseen", "fixed:3"), "generalization_gap"])


def test_a_study_without_levels_has_no_column(finished_run: tuple[Path, str]):
    run = spangym.load_run(finished_run[0])
    assert not [each for each in run.table.columns if "gap" in each]
    assert LABEL not in finished_run[1]
    assert LABEL not in run.report.read_text("utf-8")
