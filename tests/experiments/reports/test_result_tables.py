import dataclasses
import io
import math
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.result_tables import (
    aggregate_table,
    by_action_tables,
    difference_table,
    footnotes,
    format_tables,
    headlines,
    pair_table,
    result_tables,
    rich_result_tables,
    sample_efficiency_table,
    summary_table,
    wide_summary,
)
from spangym.experiments.reports.tables import Table, TableRow, to_latex, to_markdown

from ..drawing import plot_data_of
from ..pilot.synthetic import AGENTS, FAILED, LONGER, SHORTER, VARIANTS, make_pilot
from ..synthetic import make_results

AWKWARD = "a|b\\^"
LAW_PAIRS = ((LONGER, SHORTER),)
DASH = "\N{EN DASH}"


@pytest.fixture(scope="module")
def data() -> PlotData:
    return plot_data_of(make_results(("e_1", "e&2"), ("dqn", AWKWARD), seeds=3, episodes=10))


@pytest.fixture(scope="module")
def speech() -> PlotData:
    return plot_data_of(make_pilot(examples=()))


def row_of(table: Table, label: str) -> TableRow:
    (row,) = [row for row in table.rows if row.label == label]
    return row


def texts_of(table: Table, column: str) -> list[str]:
    return [row.cells[table.columns.index(column)].text for row in table.rows]


class TestComparison:
    def test_summary_is_sorted_by_return_and_marks_the_best(self, data: PlotData):
        for environment in data.results.environments:
            table = summary_table(data, environment)
            assert table.title == environment
            values = [float(row.cells[1].value) for row in table.rows]
            assert values == sorted(values, reverse=True)
            best = [row.label for row in table.rows if row.cells[1].best]
            assert best == [row.label for row in table.rows if row.label != "oracle"][:1]
            mean, low, high, n = data.statistics.estimate(
                environment, "dqn", "return", "evaluation"
            )
            row = row_of(table, "dqn")
            expected = f"{mean:.3f} ± {(high - low) / 2:.3f}".replace("-", "\N{MINUS SIGN}")
            assert (row.cells[1].text, row.cells[-1].text) == (expected, str(n))
            assert (row.is_baseline, row_of(table, "oracle").is_baseline) == (False, True)
            assert len(row.cells) == len(table.columns)

    def test_missing_numbers_are_dashes(self):
        results = make_results(learners=("dqn",), seeds=1, episodes=4)
        values = results.values.copy()
        is_regret = values["metric"] == "regret"
        values.loc[is_regret & (values["group"] != "dqn"), "value"] = math.nan
        data = plot_data_of(dataclasses.replace(results, values=values))
        table = summary_table(data, *results.environments)
        assert {*texts_of(table, "regret")} - {row_of(table, "dqn").cells[3].text} == {DASH}
        values.loc[is_regret, "value"] = math.nan
        without = plot_data_of(dataclasses.replace(results, values=values))
        assert "regret" not in summary_table(without, *results.environments).columns
        # A single seed has no interval.
        assert "±" not in row_of(table, "dqn").cells[1].text

    def test_differences_name_their_baselines(self, data: PlotData):
        table = difference_table(data, "e_1")
        names = ("fixed:6", "threshold", "random", "oracle")
        assert table.columns == ("agent", *(f"minus {each}" for each in names))
        assert [row.label for row in table.rows] == ["dqn", AWKWARD]
        for row in table.rows:
            oracle = row.cells[4]
            assert float(oracle.value) < 0
            assert oracle.text.startswith("\N{MINUS SIGN}")
            assert oracle.note in ("worse", "inconclusive")

    def test_aggregates_and_learning_have_all_agents(self, data: PlotData):
        table = aggregate_table(data)
        assert table.columns == ("agent", "IQM", "median", "mean", "optimality gap")
        assert table.rows[0].label == "oracle"
        assert {row.label for row in table.rows} == set(data.results.groups)
        learning = sample_efficiency_table(data, "e_1")
        assert {row.label for row in learning.rows} == set(data.results.learners)
        assert DASH not in texts_of(learning, "mean return in training")

    def test_terminal_shows_failed_jobs(self):
        failed = (("e/dqn/seed-1", "error"), ("e/ppo/seed-0", "error"))
        results = make_results(("e",), ("dqn",), seeds=2, episodes=4, failed=failed)
        results = dataclasses.replace(results, groups=("dqn", "ppo", *results.baselines))
        printed = printed_tables(plot_data_of(results))
        assert re.search(r"^ +dqn \(1 failed\) ", printed, re.MULTILINE)
        assert re.search(r"^ +ppo +failed", printed, re.MULTILINE)


class TestPilot:
    def test_summary_has_quality_and_costs(self, speech: PlotData):
        table = summary_table(speech, "speech")
        assert table.columns[:5] == (
            "variant",
            "WER seen, %",
            "WER unseen, %",
            "CER unseen, %",
            "minus standard unseen, points",
        )
        assert [row.label for row in table.rows] == [*VARIANTS]
        for place, split in ((1, "seen"), (2, "unseen")):
            errors = {
                each: speech.statistics.estimate("speech", each, "error", split).mean
                for each in VARIANTS
            }
            (best,) = [row.label for row in table.rows if row.cells[place].best]
            assert best == min(errors, key=errors.__getitem__)
        mean, low, high, _ = speech.statistics.estimate("speech", "focus", "error", "unseen")
        row = row_of(table, "focus")
        assert row.cells[2].text == f"{100 * mean:.1f} ± {50 * (high - low):.1f}"
        assert row.cells[table.columns.index("query-key pairs, % of full")].text == "190"
        standard = row_of(table, "standard").cells
        assert standard[4].text == standard[table.columns.index("span")].text == DASH

    def test_pairs_have_their_differences(self, speech: PlotData):
        table = pair_table(speech)
        pairs = [*LAW_PAIRS, *AGENTS.items()]
        assert len(table.rows) == len(pairs)
        for row, (group, baseline) in zip(table.rows, pairs, strict=True):
            assert group in row.label
            assert baseline in row.label
            assert row.cells[2].note in ("better", "worse", "inconclusive")

    def test_text_has_bits_per_byte(self):
        data = plot_data_of(make_pilot("text", examples=()))
        columns = ("variant", "bits per byte", "minus standard")
        assert summary_table(data, "text").columns[:3] == columns
        assert difference_table(data, "text").columns == ("variant", "minus standard")

    def test_set_spans_have_a_table_for_each_split(self, speech: PlotData):
        seen, unseen = by_action_tables(speech)
        assert "seen speakers" in seen.title
        assert unseen.columns == ("variant", *map(str, range(10)))
        assert [row.label for row in unseen.rows] == [*VARIANTS[2:]]
        raw = speech.results.action_values
        here = raw[(raw["group"] == "focus") & (raw["split"] == "unseen") & (raw["action"] == 3)]
        cells = row_of(unseen, "focus").cells
        assert cells[4].text == f"{100 * here['value'].mean():.1f}"
        assert [cell.best for cell in cells[1:]] == [action == 5 for action in range(10)]

    def test_terminal_tables_fit_and_show_failed_jobs(self, speech: PlotData):
        printed = printed_tables(speech, width=100)
        assert "…" not in printed
        assert "412,345" in printed
        assert "failed)" in printed
        single = printed_tables(plot_data_of(make_pilot(seeds=1, examples=())), width=120)
        (line,) = [each for each in single.splitlines() if FAILED in each]
        assert line.split()[-1] == "failed"


def printed_tables(data: PlotData, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for table in rich_result_tables(data):
        console.print(table)
    return console.export_text()


class TestFormats:
    def test_csv_has_every_digit(self, data: PlotData):
        summary = data.statistics.summary
        read = pd.read_csv(io.StringIO(wide_summary(summary).to_csv(index=False)))
        expected = summary.loc[summary["metric"] == "return", "mean"].tolist()
        assert read["return"].tolist() == expected
        assert set(read["group"]) == set(data.results.groups)

    def test_csv_of_a_pilot_has_quality_and_costs_in_each_row(self, speech: PlotData):
        table = wide_summary(speech.statistics.summary).set_index(["group", "split"])
        assert len(table) == 2 * len(VARIANTS)
        for metric, split in (("error", "unseen"), ("time_ratio", "all")):
            expected = speech.statistics.estimate("speech", "focus", metric, split)
            assert table.loc[("focus", "unseen"), metric] == expected.mean

    def test_markdown_marks_the_best(self, data: PlotData):
        text = to_markdown([summary_table(data, each) for each in data.results.environments])
        assert text.startswith("### e\\_1\n\n| agent | mean return |")
        assert "| a\\|b\\\\^ |" in text
        assert text.count("**") == 4
        lines = [line for line in text.splitlines() if line[:1] == "|"]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}

    def test_latex_is_escaped_and_marks_the_best(self, data: PlotData):
        text = to_latex([summary_table(data, each) for each in data.results.environments])
        assert text.startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\n")
        assert text.endswith("\\bottomrule\n\\end{tabular}\n")
        assert r"\emph{e\_1}" in text
        assert r"\emph{e\&2}" in text
        assert r"a\textbar{}b\textbackslash{}\textasciicircum{} & " in text
        assert text.count(r"\textbf{") == 2
        assert r" $\pm$ " in text
        assert text.isascii()
        bodies = [
            line for line in text.splitlines() if line.endswith(r"\\") and "multi" not in line
        ]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in bodies} == {7}


class TestHeadlines:
    def test_one_environment_has_the_numbers(self):
        data = plot_data_of(make_results(episodes=4))
        table = data.statistics.differences
        table = table[table["baseline"] == "fixed:6"].set_index("group")
        for learner, line in zip(data.results.learners, headlines(data), strict=True):
            row = table.loc[learner]
            assert line.startswith(f"{learner}: {row['outcome']} vs. fixed:6")
            text = line.replace("\N{MINUS SIGN}", "-")
            numbers = [float(each) for each in re.findall(r"-?\d+\.\d+", text)]
            expected = row[["difference", "low", "high"]].to_numpy(float)
            assert numbers == pytest.approx(expected, abs=0.001)
            assert "n = 5" in line

    def test_a_few_environments_have_lines_of_their_own(self, data: PlotData):
        lines = headlines(data)
        places = [line.split(": ")[0].split(", ") for line in lines]
        assert places == [
            [environment, learner]
            for environment in data.results.environments
            for learner in data.results.learners
        ]
        table = data.statistics.differences
        for (environment, learner), line in zip(places, lines, strict=True):
            own = table[(table["group"] == learner) & (table["environment"] == environment)]
            (row,) = to_records(pd.DataFrame(own[own["baseline"] == "fixed:6"]))
            assert f": {row['outcome']} vs. fixed:6 " in line
            assert f"{abs(row['difference']):.3f}" in line

    def test_many_environments_are_counted(self):
        environments = tuple(f"e{index}" for index in range(5))
        data = plot_data_of(make_results(environments=environments, episodes=4))
        table = data.statistics.differences
        lines = headlines(data)
        for learner, line in zip(data.results.learners, lines, strict=True):
            own = table[(table["group"] == learner) & (table["baseline"] == "fixed:6")]
            for outcome, count in Counter(own["outcome"]).items():
                assert f"{outcome} in {count}" in line

    def test_a_pilot_is_compared_on_its_last_split(self, speech: PlotData):
        lines = dict(line.split(": ", 1) for line in headlines(speech))
        assert [*lines] == [*VARIANTS[1:]]
        table = speech.statistics.differences
        row = table[(table["group"] == LONGER) & (table["split"] == "unseen")].iloc[0]
        assert lines[LONGER].startswith(f"{row['outcome']} vs. standard")
        assert f"{abs(100 * row['difference']):.1f} points" in lines[LONGER]

    def test_a_single_seed_has_no_interval(self):
        lines = headlines(plot_data_of(make_results(seeds=1, episodes=4)))
        assert all("n = 1" in each and "CI" not in each for each in lines)

    @pytest.mark.parametrize("baselines", [("random", "oracle"), ()])
    def test_without_fixed_spans_nothing_is_compared(self, baselines: tuple[str, ...]):
        data = plot_data_of(make_results(baselines=baselines, episodes=4))
        assert [each.split(": ")[1] for each in headlines(data)] == ["not compared"] * 3


@pytest.mark.parametrize("seeds", [3, 5])
def test_footnotes_count_inconclusive_differences_of_few_seeds(seeds: int):
    data = plot_data_of(make_results(seeds=seeds, episodes=4))
    table = data.statistics.differences
    count = int(np.sum(table["outcome"] == "inconclusive"))
    assert count > 0
    found = [each for each in footnotes(data) if f"{count} of {len(table)}" in each]
    assert len(found) == (seeds < 5)


def empty(results: Results) -> Results:
    return dataclasses.replace(results, values=results.values[:0], episodes=results.episodes[:0])


def test_results_without_finished_jobs_have_empty_tables():
    for results in (make_results(episodes=4), make_pilot(examples=())):
        data = plot_data_of(empty(results))
        assert rich_result_tables(data) == []
        assert not summary_table(data, results.environments[0]).rows
        assert not difference_table(data, results.environments[0]).rows


def test_latex_has_a_tabular_for_each_set_of_columns(data: PlotData, speech: PlotData):
    """Those of the environments, and three over all of them."""
    assert format_tables(data, "latex").count(r"\begin{tabular}") == 4
    assert format_tables(data, "latex").isascii()
    assert format_tables(speech, "latex").count(r"\midrule") == 1
    assert format_tables(data, "markdown") == to_markdown(result_tables(data))
