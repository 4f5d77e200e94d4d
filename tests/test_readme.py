"""What the README shows, run as a newcomer runs it: in a folder of one's own, in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.reports.comparison_tables import aggregate_table, summary_tables
from spangym.experiments.reports.tables import Table
from spangym.experiments.studies.load_study import builtin_studies, load_study
from spangym.experiments.studies.study import BASELINES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
RESULTS = ROOT / "experiments" / "results"


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def run(command: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_refiner_and_everything_after_it(tmp_path: Path):
    python = blocks("python")
    refiner = next(text for text in python if text.startswith("# my_refiner.py"))
    assert refiner.count("\n") < 20
    (tmp_path / "my_refiner.py").write_text(refiner)
    commands = "".join(text for text in blocks("sh") if "make" not in text)
    # The shipped study, but smaller: the oracle alone takes a minute of it.
    quick = builtin_studies()["quickstart"]
    for name, usual, less in (("episodes", 8, 2), ("ctx", 256, 64), ("chunks_per_episode", 8, 2)):
        assert f"{name} = {usual}\n" in quick
        quick = quick.replace(f"{name} = {usual}\n", f"{name} = {less}\n")
    (tmp_path / "quick.toml").write_text(quick)
    commands = commands.replace("compare --agent", "compare quick.toml --agent")
    printed = run(["bash", "-euc", commands], tmp_path)
    assert re.search(r"^ +my_refiner:MyRefiner +\d", printed, re.MULTILINE)
    assert (tmp_path / "runs" / "mine" / "reward_curves.png").exists()
    # A later block loads what was exported.
    assert (tmp_path / "refiner.safetensors").exists()
    everything = "\n".join(text for text in python if text is not refiner)
    printed = run([sys.executable, "-c", everything], tmp_path)
    assert "coverage" in printed


def test_study_is_one(tmp_path: Path):
    (text,) = blocks("toml")
    (tmp_path / "study.toml").write_text(text)
    assert load_study(str(tmp_path / "study.toml")).environments[0].kwargs["cost_coef"] == 0.1


def test_the_two_commands_are_there():
    (commands,) = [text for text in blocks("sh") if "make" in text]
    targets = [line.split()[1] for line in commands.splitlines()]
    assert targets == ["compare", "test"]
    planned = {
        target: subprocess.run(
            ["make", "--always-make", "--dry-run", "--no-print-directory", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            # As in a shell of its own, though the tests themselves run under make.
            env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
        ).stdout
        for target in targets
    }
    assert planned["compare"].endswith("spangym compare\n")
    for check in ("ruff format --check", "ruff check", "pyright", "pytest"):
        assert check in planned["test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(("name", "block", "position"), [("quickstart", 0, 0), ("suite", 1, -1)])
def test_table_is_that_of_the_stored_run(name: str, block: int, position: int):
    summary = json.loads((RESULTS / name / "summary.json").read_text())
    printed, table = blocks("text")[block], stored_tables(summary)[position]
    lines = [tuple(re.split(r" {2,}", line.strip())) for line in printed.splitlines()]
    cells = [tuple(cell.text for cell in line.cells) for line in table.rows]
    assert [line for line in lines if len(line) == len(table.columns)][1:] == cells
    assert " ".join(str(summary["verdict"]).split()) in " ".join(printed.split())


def test_the_pilots_table_is_that_of_the_stored_run():
    folder = RESULTS / "pilot-speech-quick"
    table = (folder / "table.md").read_text().partition("\n\n")[2].strip()
    assert table in README
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] in " ".join(README.replace("\n> ", "\n").split())
    lines = {
        cells[0].strip(): cells[1:] for line in table.splitlines() if (cells := line[1:].split("|"))
    }
    for row in summary["errors"]:
        shown = lines[row["variant"]][["seen", "unseen"].index(row["split"])]
        assert f"{100 * row['error']:.1f}" in shown, row


def stored_tables(summary: dict[str, list[dict[str, object]]]) -> list[Table]:
    """Tables of a stored run, as they were printed."""
    empty = pd.DataFrame()
    summaries, aggregates = (
        pd.DataFrame(pd.DataFrame(summary[name]).fillna(np.nan).infer_objects())
        for name in ("agents", "aggregates")
    )
    agents = [str(each) for each in dict.fromkeys(summaries["agent"])]
    environments = [str(each) for each in dict.fromkeys(summaries["environment"])]
    rows = Results(
        tuple(environments),
        tuple(each for each in agents if each not in BASELINES),
        tuple(each for each in agents if each in BASELINES),
        empty,
        empty,
        empty,
        empty,
    )
    statistics = ComparisonStats(summaries, aggregates, empty, empty, empty, "", ())
    tables = summary_tables(rows, statistics)
    return [*tables, aggregate_table(rows, statistics)] if len(tables) > 1 else tables


def test_pictures_and_pages_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_table_of_tuned_agents_is_that_of_the_stored_results():
    rows = json.loads((RESULTS / "tuned.json").read_text())["rows"]
    lines = [" ".join(line.split()) for line in README.splitlines()]
    for row in rows:
        share = row["share_of_the_way_from_best_pair_to_oracle"]
        cells = (
            row["environment"].removeprefix("spangym/"),
            row["agent"],
            f"{row['best_pair']:.3f}",
            f"{row['mean_return_of_a_chunk']:.3f}",
            f"{row['oracle']:.3f}",
            f"{100 * share:.0f} %",
            f"{row['minutes_a_trial']:.1f}",
        )
        assert f"| {' | '.join(cells)} |" in lines
