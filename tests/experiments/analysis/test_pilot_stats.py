import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spangym.experiments.analysis.comparison_stats import ComparisonStats, compute_statistics
from spangym.experiments.analysis.intervals import t_interval
from spangym.experiments.analysis.load_results import pilot_values
from spangym.experiments.analysis.results import PILOT_METRICS, VALUE_COLUMNS, Results

from ..pilot.synthetic import (
    AGENTS,
    FAILED,
    FULL_QK_PAIRS,
    LONGER,
    SHORTER,
    STOPPED,
    VARIANTS,
    column,
    make_pilot,
)

Errors = Mapping[str, Sequence[float]]
"""Final errors by variant and training seed."""


@pytest.fixture(scope="module")
def speech() -> Results:
    return make_pilot(examples=())


def analyzed(results: Results) -> ComparisonStats:
    return compute_statistics(results, np.random.default_rng(0), resamples=10)


def with_errors(errors: Errors, **changes: object) -> Results:
    """Results of a pilot with these errors of the variants on unseen voices."""
    rows = [
        ("speech", variant, seed, "unseen", "error", error)
        for variant, seeds in errors.items()
        for seed, error in enumerate(seeds)
    ]
    results = make_pilot(variants=[*errors], failed=(), examples=())
    values = pd.DataFrame(rows, columns=[*VALUE_COLUMNS])
    return dataclasses.replace(results, values=values, splits=("unseen",), **changes)


def test_errors_are_means_of_the_last_evaluations(speech: Results):
    statistics = analyzed(speech)
    curves = speech.curves
    for variant, split, update in (
        ("standard", "seen", 600),
        ("focus", "unseen", 600),
        (STOPPED, "unseen", 200),
    ):
        where = {"group": variant, "split": split, "metric": "error", "step": update}
        last = column(curves, "value", **where)
        assert len(last) == 3
        low, high = stats.ttest_1samp(last, 0).confidence_interval(0.95)
        found = statistics.estimate("speech", variant, "error", split)
        assert found == pytest.approx((last.mean(), low, high, 3))
    table = pd.DataFrame(statistics.summary[statistics.summary["metric"] == "error"])
    assert table["group"].drop_duplicates().tolist() == [*VARIANTS]
    assert table["split"].tolist()[:2] == ["seen", "unseen"]


def test_the_last_evaluation_does_not_depend_on_the_order_of_rows():
    keys = {"environment": "text", "group": "standard", "seed": 0}
    evaluation = pd.DataFrame(
        [
            {**keys, "update": update, "split": "held out", "loss": loss, "error": loss}
            for update, loss in ((600, 1.0), (300, 2.0))
        ]
    )
    costs = pd.DataFrame(
        [
            {**keys, "updates": 600, "parameters": 10, "seconds": 60, "milliseconds": 100}
            | {"qk_pairs": 50, "full_qk_pairs": 200, "span": None}
        ]
    )
    values = pilot_values(costs, evaluation, "standard", PILOT_METRICS["text"])
    found = dict(zip(values["metric"], values["value"], strict=True))
    assert (found["error"], found["time_ratio"], found["qk_share"]) == (1.0, 1.0, 0.25)
    assert math.isnan(found["span"])


def test_costs_are_relative_to_plain_attention_and_full_spans(speech: Results):
    statistics = analyzed(speech)
    times, shares = (
        {
            variant: column(speech.values, "value", group=variant, metric=metric)
            for variant in ("standard", "focus")
        }
        for metric in ("milliseconds", "qk_pairs")
    )
    ratio = statistics.estimate("speech", "focus", "time_ratio", "all")
    assert ratio.mean == pytest.approx((times["focus"] / times["standard"]).mean())
    assert statistics.estimate("speech", "standard", "time_ratio", "all").mean == 1.0
    share = statistics.estimate("speech", "focus", "qk_share", "all").mean
    assert share == pytest.approx(shares["focus"].mean() / FULL_QK_PAIRS)
    assert math.isnan(statistics.estimate("speech", "standard", "span", "all").mean)
    assert statistics.estimate("speech", FAILED, "milliseconds", "all").n == 2
    assert {each[0] for each in speech.stopped} == {STOPPED}


def test_differences_are_paired_by_seed(speech: Results):
    before = analyzed(speech).differences
    # A hard seed is as hard for all.
    values = speech.values.copy()
    values.loc[values["metric"] == "error", "value"] += values["seed"]
    after = analyzed(dataclasses.replace(speech, values=values)).differences
    assert set(before["outcome"]) == {"better", "inconclusive", "worse"}
    pd.testing.assert_frame_equal(before, after)
    baseline = pd.DataFrame(before[before["pairing"] == "baseline"])
    assert set(baseline["baseline"]) == {"standard"}
    assert column(baseline, "n", group=FAILED).tolist() == [2, 2]


def test_a_lower_error_is_better():
    errors = {
        "standard": (0.30, 0.31, 0.29),
        "same": (0.30, 0.31, 0.29),
        "better": (0.20, 0.20, 0.20),
        "worse": (0.40, 0.42, 0.39),
        "inconclusive": (0.20, 0.42, 0.29),
    }
    pairs = {"controller": (("worse", "better"),)}
    table = analyzed(with_errors(errors, pairs=pairs)).differences.set_index("group")
    baseline = pd.DataFrame(table[table["pairing"] == "baseline"])
    assert baseline["outcome"].to_dict() == {
        "same": "equal",
        "better": "better",
        "worse": "worse",
        "inconclusive": "inconclusive",
    }
    row = table[table["pairing"] == "controller"].loc["worse"]
    differences = np.subtract(errors["worse"], errors["better"])
    assert row["difference"] == pytest.approx(differences.mean())
    assert [row["low"], row["high"]] == pytest.approx([*t_interval(differences)])
    assert (row["baseline"], row["outcome"], row["n"]) == ("better", "worse", 3)


def test_a_single_seed_is_inconclusive():
    table = analyzed(with_errors({"standard": [0.3], "a": [0.25], "b": [0.5]})).differences
    assert table["outcome"].tolist() == ["inconclusive"] * 2
    assert np.isnan(table[["low", "high"]].to_numpy(float)).all()


def test_temperature_laws_and_controllers_are_paired(speech: Results):
    table = analyzed(speech).differences
    laws = table[table["pairing"] == "temperature law"]
    assert {*zip(laws["group"], laws["baseline"], strict=True)} == {(LONGER, SHORTER)}
    controllers = table[table["pairing"] == "controller"]
    pairs = {*zip(controllers["group"], controllers["baseline"], strict=True)}
    assert pairs == {*AGENTS.items()}


def test_missing_errors_are_not_compared(speech: Results):
    values = speech.values.copy()
    values.loc[(values["group"] == "focus") & (values["metric"] == "error"), "value"] = math.nan
    statistics = analyzed(dataclasses.replace(speech, values=values))
    assert "focus" not in set(statistics.differences["group"])
    assert math.isnan(statistics.estimate("speech", "focus", "error", "unseen").mean)


@pytest.mark.parametrize("missing", ["baseline", "everything"])
def test_unfinished_pilots_have_no_differences(speech: Results, missing: str):
    is_kept = (speech.values["group"] != "standard") & (missing == "baseline")
    statistics = analyzed(dataclasses.replace(speech, values=speech.values[is_kept]))
    assert "baseline" not in set(statistics.differences["pairing"])
    assert statistics.summary.empty == (missing == "everything")
    assert statistics.aggregates.empty
