import dataclasses
import io
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_tables import (
    by_span_tables,
    difference_table,
    pilot_csv,
    pilot_table,
    rich_pilot_tables,
)
from spangym.experiments.pilot.summary import summarize_pilot

from .synthetic import (
    AGENTS,
    FAILED,
    FULL_KEYS,
    LAWS,
    LONGER,
    PREDICTOR,
    REFINER,
    SHORTER,
    STOPPED,
    VARIANTS,
    column,
    make_pilot,
)


@pytest.fixture(scope="module")
def speech() -> PilotRows:
    return make_pilot(examples=())


def with_errors(
    errors: dict[str, list[tuple[float, ...]]], splits: tuple[str, ...] = ("seen", "unseen")
) -> PilotRows:
    """Rows of a pilot whose variants end with these errors, by seed and split."""
    rows = make_pilot(
        variants=[*errors], seeds=len(next(iter(errors.values()))), stopped=(), failed=(), plain=()
    )
    table = pd.DataFrame(
        [
            {
                "variant": variant,
                "seed": seed,
                "update": update,
                "seconds": update / 10,
                "split": split,
                "loss": 2 * error,
                "error": error + before,
                "character_error": error / 2,
            }
            for variant, seeds in errors.items()
            for seed, of_splits in enumerate(seeds)
            for split, error in zip(splits, of_splits, strict=True)
            # What came before must not count; nor does the order of the rows.
            for update, before in ((600, 0.0), (300, -0.5))
        ]
    )
    return dataclasses.replace(rows, splits=splits, evaluations=table)


def test_errors_are_means_of_the_last_evaluations_over_seeds(speech: PilotRows):
    summary = summarize_pilot(speech)
    for variant, split, update in (
        ("standard", "seen", 600),
        ("focus", "unseen", 600),
        (STOPPED, "unseen", 200),
    ):
        last = column(speech.evaluations, "error", variant=variant, split=split, update=update)
        assert len(last) == 3
        row = summary.errors.set_index(["variant", "split"]).loc[(variant, split)]
        assert row["error"] == pytest.approx(last.mean())
        low, high = stats.ttest_1samp(last, 0).confidence_interval(0.95)
        assert [row["error_low"], row["error_high"]] == pytest.approx([low, high])
        assert row["seeds"] == 3
    assert summary.errors["variant"].drop_duplicates().tolist() == [*VARIANTS]
    assert summary.errors["split"].tolist()[:2] == ["seen", "unseen"]


def test_costs_are_paired_and_plain_attention_has_no_span(speech: PilotRows):
    summary = summarize_pilot(speech)
    costs = summary.costs.set_index("variant")
    raw = speech.trainings.set_index(["variant", "seed"])
    expected = np.mean(
        [
            raw.loc[("focus", seed), "milliseconds"] / raw.loc[("standard", seed), "milliseconds"]
            for seed in range(3)
        ]
    )
    assert costs.loc["focus", "ratio"] == pytest.approx(expected)
    assert costs.loc["standard", "ratio"] == 1.0
    assert costs.loc["focus", "share"] == pytest.approx(
        raw.loc["focus"]["qk_pairs"].mean() / FULL_KEYS
    )
    assert math.isnan(costs.loc["standard", "span"])
    assert costs.loc[STOPPED, "stopped"] == 3
    assert costs.loc[FAILED, "seeds"] == 2
    # Of the seed whose training of the baseline is missing there is no ratio.
    without = speech.trainings[
        (speech.trainings["variant"] != "standard") | (speech.trainings["seed"] != 1)
    ]
    costs = summarize_pilot(dataclasses.replace(speech, trainings=without)).costs
    ratios = [
        raw.loc[("focus", seed), "milliseconds"] / raw.loc[("standard", seed), "milliseconds"]
        for seed in (0, 2)
    ]
    assert costs.set_index("variant").loc["focus", "ratio"] == pytest.approx(np.mean(ratios))


def test_differences_are_paired_by_seed(speech: PilotRows):
    before = summarize_pilot(speech).differences
    # A hard seed is as hard for all.
    harder = speech.evaluations.assign(
        error=speech.evaluations["error"] + speech.evaluations["seed"]
    )
    after = summarize_pilot(dataclasses.replace(speech, evaluations=harder)).differences
    assert set(before["outcome"]) == {"better", "inconclusive", "worse"}
    pd.testing.assert_frame_equal(before, after)
    assert set(before["other"]) == {"standard"}
    assert column(before, "seeds", variant=FAILED).tolist() == [2, 2]


def test_verdict_names_who_is_better_worse_and_open():
    rows = with_errors(
        {
            "standard": [(0.20, 0.30), (0.21, 0.31), (0.19, 0.29)],
            "same": [(0.20, 0.30), (0.21, 0.31), (0.19, 0.29)],
            "better": [(0.10, 0.20), (0.11, 0.20), (0.09, 0.20)],
            "worse": [(0.30, 0.40), (0.31, 0.42), (0.29, 0.39)],
            "open": [(0.10, 0.20), (0.31, 0.42), (0.19, 0.29)],
            "mixed": [(0.20, 0.40), (0.30, 0.42), (0.10, 0.39)],
        }
    )
    verdict = summarize_pilot(rows, agents={"worse": "better"}).verdict
    assert verdict.startswith(
        "standard reaches a word error rate of 20.0 % on seen voices and 30.0 % on unseen voices. "
        "better is better than standard. same equals standard. open cannot be told from standard."
    )
    assert "worse is worse than standard." in verdict
    assert (
        "mixed cannot be told from standard on seen voices and is worse than it on unseen voices."
    ) in verdict
    assert verdict.endswith("by +20.3 ± 3.8 points in worse (worse).")


def test_a_single_seed_says_that_it_is_one():
    rows = with_errors({"standard": [(0.2, 0.3)], "a": [(0.1, 0.25)], "b": [(0.4, 0.5)]})
    summary = summarize_pilot(rows, laws={"a": "long", "b": "short"})
    assert "A single training seed cannot tell the others from standard" in summary.verdict
    assert "a has the lowest error, 25.0 %, and b the highest, 50.0 %" in summary.verdict
    assert "better" not in summary.verdict
    assert summary.remarks[0].startswith("There is a single training seed")
    assert "one training seed, which shows no winner" in summary.remarks[1]
    assert "wins" not in " ".join(summary.remarks)
    assert np.isnan(summary.errors["error_low"].to_numpy(float)).all()
    assert summary.differences["outcome"].tolist() == ["inconclusive"] * 4


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (0.1, "sharper for shorter spans wins"),
        (-0.1, "sharper for longer spans wins"),
        (0.001, "neither wins"),
    ],
)
def test_temperature_laws_are_judged_over_seeds(gap: float, said: str):
    base = [(0.20, 0.30), (0.21, 0.31), (0.19, 0.29)]
    noise = (0.004, -0.004, 0.0)
    longer = [(a + gap + more, b + gap + more) for (a, b), more in zip(base, noise, strict=True)]
    rows = with_errors({"standard": base, LONGER: longer, SHORTER: base})
    summary = summarize_pilot(rows, LAWS)
    (remark,) = [each for each in summary.remarks if each.startswith("Temperature laws")]
    assert remark.count(said) == 2
    assert "over 3 training seeds" in remark
    assert summary.laws["difference"].tolist() == pytest.approx([gap, gap])


def test_agents_are_compared_with_the_same_layer_alone(speech: PilotRows):
    summary = summarize_pilot(speech, agents=AGENTS)
    assert set(zip(summary.agents["variant"], summary.agents["other"], strict=True)) == set(
        AGENTS.items()
    )
    finals = summary.errors.set_index(["variant", "split"])["error"]
    row = summary.agents.set_index(["variant", "split"]).loc[(REFINER, "unseen")]
    assert row["difference"] == pytest.approx(
        finals[REFINER, "unseen"] - finals[PREDICTOR, "unseen"]
    )
    assert f"in {REFINER} ({row['outcome']})" in summary.verdict


def test_what_went_wrong_is_remarked(speech: PilotRows):
    said = " ".join(summarize_pilot(speech, LAWS).remarks)
    assert f"{STOPPED} with seeds 0, 1 and 2 after 240 updates (its loss is not finite)" in said
    assert f"Training seeds are missing: {FAILED} has 2 of 3." in said
    single = summarize_pilot(make_pilot(seeds=1, examples=()))
    assert f"{FAILED} has no finished training." in single.remarks
    assert f"{FAILED} has no error to compare with it." in single.verdict


def test_errors_that_are_not_numbers_are_no_comparison(speech: PilotRows):
    broken = speech.evaluations.copy()
    broken.loc[broken["variant"] == "focus", "error"] = math.nan
    summary = summarize_pilot(dataclasses.replace(speech, evaluations=broken))
    assert "focus" not in set(summary.differences["variant"])
    assert "focus has no error to compare with it." in summary.verdict
    table = pilot_table(speech, summary)
    assert table.rows[VARIANTS.index("focus")].cells[1].text == "\N{EN DASH}"


@pytest.mark.parametrize("lacking", ["baseline", "everything"])
def test_little_says_little(speech: PilotRows, lacking: str):
    kept = (speech.trainings["variant"] != "standard") & (lacking == "baseline")
    rows = dataclasses.replace(speech, trainings=speech.trainings[kept])
    if lacking == "everything":
        empty = {
            name: getattr(rows, name)[:0] for name in ("curves", "evaluations", "spans", "by_span")
        }
        rows = dataclasses.replace(rows, splits=(), **empty)
    summary = summarize_pilot(rows, LAWS, AGENTS)
    assert summary.verdict == (
        "standard has no finished training: there is nothing to compare with."
        if lacking == "baseline"
        else "No training is finished."
    )
    assert len(pilot_table(rows, summary).rows) == (12 if lacking == "baseline" else 0)


def test_table_has_errors_costs_and_the_best_in_bold(speech: PilotRows):
    summary = summarize_pilot(speech, LAWS)
    table = pilot_table(speech, summary)
    assert table.columns == (
        "variant",
        "WER seen, %",
        "WER unseen, %",
        "CER unseen, %",
        "minus standard unseen, points",
        "parameters",
        "ms an update",
        "ratio",
        "keys, % of full",
        "span",
    )
    assert [line.label for line in table.rows] == [*VARIANTS]
    errors = summary.errors.set_index(["variant", "split"])
    for place, split in ((1, "seen"), (2, "unseen")):
        (best,) = [line.label for line in table.rows if line.cells[place].best]
        assert best == errors.xs(split, level="split")["error"].idxmin()
    row = errors.loc[("focus", "unseen")]
    half = (row["error_high"] - row["error_low"]) / 2
    line = table.rows[VARIANTS.index("focus")]
    assert line.cells[2].text == f"{100 * row['error']:.1f} ± {100 * half:.1f}"
    assert line.cells[8].text == "190"
    assert table.rows[0].cells[4].text == table.rows[0].cells[9].text == "\N{EN DASH}"


def test_text_has_bits_a_byte_and_no_errors_of_characters():
    rows = make_pilot("text", examples=())
    summary = summarize_pilot(rows)
    assert pilot_table(rows, summary).columns[:3] == ("variant", "bits a byte", "minus standard")
    assert "standard reaches 2.3" in summary.verdict
    assert "bits a byte on held out text" in summary.verdict
    assert difference_table(rows, summary).columns == ("variant", "held out text")


def test_set_spans_have_a_table_for_each_split(speech: PilotRows):
    summary = summarize_pilot(speech)
    seen, unseen = by_span_tables(speech, summary)
    assert seen.title == "WER by action, seen voices, %"
    assert unseen.columns == ("variant", *map(str, range(10)))
    assert [line.label for line in unseen.rows] == [*VARIANTS[2:]]
    raw = speech.by_span
    here = raw[(raw["variant"] == "focus") & (raw["split"] == "unseen") & (raw["action"] == 3)]
    (line,) = [each for each in unseen.rows if each.label == "focus"]
    assert line.cells[4].text == f"{100 * here['error'].mean():.1f}"
    assert [cell.best for cell in line.cells[1:]] == [action == 5 for action in range(10)]


def test_csv_has_all_numbers_to_the_last_bit(speech: PilotRows):
    summary = summarize_pilot(speech)
    read = pd.read_csv(io.StringIO(pilot_csv(summary)))
    assert len(read) == len(VARIANTS) * 2
    assert read["error"].tolist() == summary.errors["error"].tolist()
    found = read.set_index(["variant", "split"]).loc[(LONGER, "unseen")]
    expected = summary.differences.set_index(["variant", "split"]).loc[(LONGER, "unseen")]
    assert found["difference_low"] == expected["low"]
    assert found["outcome"] == expected["outcome"]


def test_terminal_tables_fit_and_say_what_failed(speech: PilotRows):
    from rich.console import Console

    tables = rich_pilot_tables(speech, summarize_pilot(speech))
    console = Console(width=80, file=io.StringIO(), record=True)
    for table in tables:
        console.print(table)
    said = console.export_text()
    assert "…" not in said
    assert "412,345" in said
    assert "failed)" in said
    single = make_pilot(seeds=1, examples=())
    wide = Console(width=120, file=io.StringIO(), record=True)
    wide.print(rich_pilot_tables(single, summarize_pilot(single))[0])
    (line,) = [each for each in wide.export_text().splitlines() if FAILED in each]
    assert line.split()[-1] == "failed"
