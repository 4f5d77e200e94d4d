import csv
import io
import math
import re

import pytest

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.reports.comparison_tables import (
    aggregate_table,
    difference_table,
    sample_efficiency_table,
    summary_tables,
    to_csv,
)
from spangym.experiments.reports.tables import to_latex, to_markdown

from .synthetic import make_results, make_statistics

AWKWARD = "a|b\\^"


@pytest.fixture(scope="module")
def plain() -> tuple[Results, ComparisonStats]:
    rows = make_results(("e_1", "e&2"), ("dqn", AWKWARD), seeds=3, episodes=10)
    return rows, make_statistics(rows)


def test_summaries_are_of_their_environment(plain: tuple[Results, ComparisonStats]):
    tables = summary_tables(*plain)
    assert [table.title for table in tables] == ["e_1", "e&2"]
    for table in tables:
        values = [float(line.cells[1].value) for line in table.rows]
        assert values == sorted(values, reverse=True)
        best = [line.label for line in table.rows if line.cells[1].best]
        assert best == [line.label for line in table.rows if line.label != "oracle"][:1]
        row = plain[1].summaries.set_index(["environment", "agent"]).loc[table.title, "dqn"]
        (line,) = (line for line in table.rows if line.label == "dqn")
        half = (row["high"] - row["low"]) / 2
        expected = f"{row['return']:.3f} ± {half:.3f}".replace("-", "\N{MINUS SIGN}")
        assert line.cells[1].text == expected
        assert not line.is_baseline
        assert len(line.cells) == len(table.columns)


def test_missing_numbers_are_dashes():
    rows = make_results(learners=("dqn",), seeds=1, episodes=4)
    rows = Results(
        rows.environments,
        rows.learners,
        rows.baselines,
        rows.trials.assign(regret=math.nan),
        rows.episodes,
        rows.curves,
        rows.action_counts,
    )
    (table,) = summary_tables(rows, make_statistics(rows))
    assert {line.cells[3].text for line in table.rows} == {"\N{EN DASH}"}
    # A single seed has no interval.
    assert not any("±" in line.cells[1].text for line in table.rows if line.label == "dqn")


def test_differences_name_what_they_are_from(plain: tuple[Results, ComparisonStats]):
    table = difference_table(*plain, "e_1")
    assert table.columns == (
        "agent",
        "minus fixed:6",
        "minus threshold",
        "minus random",
        "minus oracle",
    )
    assert [line.label for line in table.rows] == ["dqn", AWKWARD]
    for line in table.rows:
        oracle = line.cells[4]
        assert float(oracle.value) < 0
        assert oracle.text.startswith("\N{MINUS SIGN}")
        assert oracle.note in ("worse", "inconclusive")


def test_aggregates_and_learning_have_all_agents(plain: tuple[Results, ComparisonStats]):
    rows, statistics = plain
    table = aggregate_table(rows, statistics)
    assert table.columns == ("agent", "iqm", "median", "mean", "optimality gap")
    assert table.rows[0].label == "oracle"
    assert {line.label for line in table.rows} == set(rows.agents)
    learning = sample_efficiency_table(rows, statistics, "e_1")
    assert {line.label for line in learning.rows} == set(rows.learners)


def test_csv_has_the_numbers_to_the_last_bit(plain: tuple[Results, ComparisonStats]):
    statistics = plain[1]
    lines = [*csv.DictReader(io.StringIO(to_csv(statistics)))]
    assert [float(line["return"]) for line in lines] == statistics.summaries["return"].tolist()
    assert {line["agent"] for line in lines} == set(statistics.summaries["agent"])


def test_markdown_is_a_table_with_the_best_in_bold(plain: tuple[Results, ComparisonStats]):
    text = to_markdown(summary_tables(*plain))
    assert text.startswith("### e\\_1\n\n| agent | mean return |")
    assert "| a\\|b\\\\^ |" in text
    assert text.count("**") == 4
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"}
    assert cells == {9}


def test_latex_is_escaped_and_has_the_best_in_bold(plain: tuple[Results, ComparisonStats]):
    text = to_latex(summary_tables(*plain))
    assert text.startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r"\emph{e\_1}" in text
    assert r"\emph{e\&2}" in text
    assert r"a\textbar{}b\textbackslash{}\textasciicircum{} & " in text
    assert text.count(r"\textbf{") == 2
    assert r" $\pm$ " in text
    assert text.isascii()
    bodies = [line for line in text.splitlines() if line.endswith(r"\\") and "multi" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in bodies} == {7}
