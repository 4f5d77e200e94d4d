"""`spangym bench`: the form of its rows and what is counted, never seconds."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spangym.experiments.benchmarks import (
    bench_agents,
    bench_attention,
    bench_envs,
    bench_tables,
)
from spangym.experiments.benchmarks.bench_agents import AgentsBench, OriginalRefiner
from spangym.experiments.benchmarks.bench_attention import AttentionBench
from spangym.experiments.benchmarks.bench_envs import EnvsBench
from spangym.experiments.benchmarks.bench_experiments import run as run_experiments
from spangym.experiments.benchmarks.bench_tables import TablesBench
from spangym.experiments.benchmarks.measure import (
    BenchRow,
    bench_table,
    describe_bench,
    interleaved_timing,
    peak_memory,
    save_bench,
)
from spangym.experiments.cli.app import app
from spangym.experiments.runner.manifest import available_cpus
from spangym.experiments.studies.study import Study
from spangym.utils.errors import UserError

from ...conftest import Golden


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (BenchRow("a", 1.0, 1.0, "lower"), True),
        (BenchRow("a", 1.1, 1.0, "lower"), False),
        (BenchRow("a", 1.1, 1.0, "higher"), True),
        (BenchRow("a", 0.9, 1.0, "higher"), False),
        (BenchRow("a", None, 1.0, "higher"), None),
        (BenchRow("a", 1.0, None, "lower"), None),
    ],
)
def test_whether_a_goal_is_met(row: BenchRow, met: bool | None):
    assert row.met is met
    assert row.as_json()["met"] is met


def test_table_shows_missed_goals_and_missing_values():
    console = Console(width=80, record=True)
    rows = [BenchRow("a", 2.0, 1.0, "lower"), BenchRow("b", None, 1.0, "lower")]
    console.print(bench_table(rows))
    one, other = (line for line in console.export_text().splitlines() if line[2:3] in ("a", "b"))
    assert one.split() == ["a", "2", "1", "lower", "no"]
    assert other.split() == ["b", "not", "measured", "1", "lower", "-"]


def test_peak_memory_counts_what_is_held_at_once():
    x = torch.ones(1000)

    def three_then_one() -> torch.Tensor:
        a, b = x + 1, x + 2
        c = a + b
        return c * 2  # Four tensors of 4000 bytes are alive here.

    assert peak_memory(three_then_one) == pytest.approx(16_000, rel=0.1)


def test_functions_take_turns():
    called: list[str] = []
    turns: list[tuple[int, int]] = []
    times = interleaved_timing(
        lambda: called.append("one"),
        lambda: called.append("other"),
        rounds=3,
        min_seconds=1e-12,
        on_turn=lambda *turn: turns.append(turn),
    )
    assert called == ["one", "other"] * 3
    assert turns == list(itertools.product(range(3), range(2)))
    assert len(times) == 2
    assert min(times) > 0


def test_a_short_function_is_called_several_times_in_a_turn():
    called: list[int] = []
    turns: list[int] = []
    interleaved_timing(
        lambda: called.append(0),
        rounds=2,
        min_seconds=0.001,
        on_turn=lambda number, _: turns.append(number),
    )
    assert turns == [0, 1, 2]
    assert len(called) % 2 == 1
    assert len(called) > 4


def tiny_rows(name: str) -> Iterable[BenchRow]:
    """Rows of real kernels, layers and environments, measured in short turns."""
    if name == "attention":
        bench = AttentionBench(rounds=1, dims=24, heads=6, min_seconds=0.0005)
        return bench_attention.run(True, bench)
    if name == "envs":
        bench = EnvsBench(rounds=1, ctx=16, dims=8, steps=2, min_seconds=0.0005)
        return bench_envs.run(True, bench)
    if name == "tables":
        bench = TablesBench(1, 2, 4, 256, 256, min_seconds=0.0005, env_id="LongRange-v0")
        return bench_tables.run(True, bench)
    bench = AgentsBench(rounds=1, ctx=32, dims=24, decisions=20, min_seconds=0.0005)
    return bench_agents.run(True, bench)


@pytest.mark.parametrize("name", ["attention", "envs", "tables", "agents"])
def test_every_bench_has_one_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))
    # Four more processes take seconds to start.
    monkeypatch.setattr(bench_tables, "SMAPS", Path("missing"))
    path = tmp_path / "new" / "bench.json"
    rows = list(tiny_rows(name))
    save_bench(path, describe_bench(torch.device("cpu")), [row.as_json() for row in rows])
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "rows"}
    assert {"processor", "cores", "device", "threads", "torch"} <= set(written["machine"])
    assert len({row["name"] for row in written["rows"]}) == len(written["rows"])
    for row in written["rows"]:
        assert set(row) == {"name", "value", "goal", "direction", "met"}
        if "processes" in row["name"]:
            assert row["value"] is row["met"] is None
        else:
            # An exponent fitted to turns this short may be anything.
            assert row["value"] > 0 or "exponent" in row["name"]


def test_goals_of_the_agents():
    goals = {row.name: (row.goal, row.direction) for row in tiny_rows("agents")}
    for agent in ("dqn", "ppo", "refiner"):
        assert goals[f"decision over forward, {agent}, ctx 32, dims 24"] == (0.05, "lower")
    assert goals["choose and update, speed against the original"] == (5, "higher")


def test_the_original_that_is_timed_learns_as_recorded(golden: Golden):
    recorded = golden("refiner")
    refiner = OriginalRefiner(0)
    names = ("state", "action", "reward", "next_state")
    steps = zip(*(recorded[name].tolist() for name in names), strict=True)
    for step, expected in zip(steps, recorded["value_after"].tolist(), strict=True):
        refiner.update(*step)
        assert refiner.get_value(*step[:2]) == pytest.approx(expected, abs=1e-12)


def test_bench_of_the_runner(tiny_without_learners: Study):
    overhead, drawing = run_experiments(quick=True, study=tiny_without_learners)
    assert f"13 trials, {available_cpus()} processes" in overhead.name
    assert overhead.value is not None
    # Two processes cannot take less than half of the time.
    assert overhead.value > 0.9
    assert "10 trials of 100 rows" in drawing.name
    assert drawing.value is not None
    assert drawing.value > 0
    assert drawing.goal is overhead.goal is None


def test_json_is_refused_before_anything_is_measured(tmp_path: Path):
    for arguments in (["bench", "attention", "--quick"], ["defects"]):
        done = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path)])
        assert isinstance(done.exception, UserError)
        assert str(tmp_path) in str(done.exception)
