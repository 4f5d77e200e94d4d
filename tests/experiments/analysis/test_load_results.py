"""Loading the results of one run, and of several together."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.trials.comparison_run import COMPARISON

from ..conftest import trial_folder


def test_one_run_agrees_with_its_files(copied_run: Path):
    results = load_results([RunDir(copied_run, COMPARISON)])
    stored = pd.read_csv(copied_run / "evaluation.csv")
    assert results.environments == ("SpanControl-v0",)
    assert results.learners == ("pooled", "dqn")
    assert len(results.baselines) == 13
    assert results.episodes["return"].tolist() == stored["return"].tolist()
    assert len(results.finished) == 18
    assert (results.failed, results.missing) == ((), 0)
    means = {
        (str(rows["metric"].iloc[0]), str(rows["group"].iloc[0])): rows["value"]
        .to_numpy(float)
        .mean()
        for _, rows in results.values.groupby(["metric", "group"])
    }
    assert means["score", "random"] == pytest.approx(0)
    assert means["score", "oracle"] == 1
    gain = means["return", "dqn"] - means["return", "random"]
    best = means["return", "oracle"] - means["return", "random"]
    assert means["score", "dqn"] == pytest.approx(gain / best)


def test_shared_trials_of_two_runs_are_loaded_once(copied_run: Path, other_run: Path):
    results = load_results([RunDir(each, COMPARISON) for each in (copied_run, other_run)])
    assert results.environments == ("SpanControl-v0",)
    assert results.learners == ("pooled", "dqn", "dqn (other)")
    assert len(results.finished) == 18 + 2
    one, another = (
        results.curves[results.curves["group"] == name]["value"] for name in results.learners[1:]
    )
    assert one.tolist() == another.tolist()


def test_agents_with_other_hyperparameters_are_renamed(copied_run: Path, other_run: Path):
    study = other_run / "study.toml"
    study.write_text(study.read_text().replace("gamma = 0.5", "gamma = 0.25"))
    results = load_results([RunDir(each, COMPARISON) for each in (copied_run, other_run)])
    assert results.learners == ("pooled", "dqn", "dqn (other)")
    assert len(results.finished) == 18 + 2


def test_environments_with_other_arguments_are_renamed(copied_run: Path, other_run: Path):
    study = other_run / "study.toml"
    study.write_text(study.read_text().replace("max_span = 384", "max_span = 300"))
    results = load_results([RunDir(each, COMPARISON) for each in (copied_run, other_run)])
    assert results.environments == ("SpanControl-v0", "SpanControl-v0 (other)")
    assert results.learners == ("pooled", "dqn")
    assert len(results.finished) == 36


def test_run_in_progress_is_loaded(copied_run: Path):
    """One trial has not started, one has failed, one is in the middle of its files."""
    shutil.rmtree(trial_folder(copied_run, "fixed-9/seed-0"))
    failed, half = (trial_folder(copied_run, f"dqn/seed-{seed}") for seed in (0, 1))
    (failed / "result.json").unlink()
    (failed / "error.txt").write_text("Traceback ...\nValueError: no luck\n")
    (half / "result.json").unlink()
    (half / "curve.csv").write_text("step,ret")
    results = load_results([RunDir(copied_run, COMPARISON)])
    assert len(results.finished) == 15
    assert results.failed == (("SpanControl-v0/dqn/seed-0", "ValueError: no luck"),)
    assert results.missing == 2
