"""``spangym bench`` and ``spangym defects``: their form and what they count, never seconds."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from spangym.attention import IntegratedAttention
from spangym.experiments.benchmarks import bench_attention, bench_envs, bench_experiments
from spangym.experiments.benchmarks.measure import Row, bench_table, interleaved_timing, peak_memory
from spangym.experiments.benchmarks.original_defects import COLUMNS, Defect, measure_defects
from spangym.experiments.cli.app import app
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.studies.study import Study
from spangym.utils.errors import UserError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
README = [" ".join(line.split()) for line in (ROOT / "README.md").read_text().splitlines()]


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", 1.0, 1.0, "lower"), True),
        (Row("a", 1.1, 1.0, "lower"), False),
        (Row("a", 1.1, 1.0, "higher"), True),
        (Row("a", 0.9, 1.0, "higher"), False),
        (Row("a", None, 1.0, "higher"), None),
        (Row("a", 1.0, None, "lower"), None),
    ],
)
def test_whether_a_goal_is_met(row: Row, met: bool | None):
    assert row.met is met
    assert row.as_json()["met"] is met


def test_a_missed_goal_and_a_missing_figure_are_shown_as_such():
    console = Console(width=80, record=True)
    console.print(bench_table([Row("a", 2.0, 1.0, "lower"), Row("b", None, 1.0, "lower")]))
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


def test_side_by_side_measures_both():
    def busy(rounds: int) -> None:
        for _ in range(rounds):
            torch.mm(torch.ones(100, 100), torch.ones(100, 100))

    little, much = interleaved_timing(lambda: busy(1), lambda: busy(200), rounds=3, least=0.001)
    assert 0 < little < much


@pytest.mark.parametrize("name", ["attention", "envs"])
def test_every_bench_has_one_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Real kernels, layers and environments, figures taken from short turns.
    monkeypatch.setattr(bench_attention, "DIMS", 24)
    monkeypatch.setattr(bench_attention, "_SECONDS", 0.0005)
    monkeypatch.setattr(bench_envs, "CTX", 16)
    monkeypatch.setattr(bench_envs, "DIMS", 8)
    monkeypatch.setattr(bench_envs, "_STEPS", 2)
    monkeypatch.setattr(bench_envs, "_SECONDS", 0.0005)
    path = tmp_path / "new" / "bench.json"
    done = CliRunner().invoke(app, ["bench", name, "--quick", "--json", str(path)])
    assert done.exit_code == 0, done.output
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "rows"}
    assert {"processor", "cores", "device", "threads", "torch"} <= set(written["machine"])
    names = [row["name"] for row in written["rows"]]
    assert len(names) == len(set(names))
    for row in written["rows"]:
        assert set(row) == {"name", "value", "goal", "direction", "met"}
        assert row["direction"] in ("lower", "higher")
        if "CUDA" in row["name"] and not torch.cuda.is_available():
            assert row["value"] is row["met"] is None
        else:
            # An exponent fitted to turns this short may be anything.
            assert row["value"] > 0 or "exponent" in row["name"]
    if not torch.cuda.is_available():
        assert "figures that need a CUDA device" in done.output


def test_bench_of_the_runner(tiny_without_learners: Study, monkeypatch: pytest.MonkeyPatch):
    """Real trials and made-up rows, few of both."""
    monkeypatch.setattr(bench_experiments, "load_study", lambda _: tiny_without_learners)
    overhead, drawing = bench_experiments.run(quick=True)
    assert overhead.name == "wall time over the trials' own, 13 trials, 2 processes".replace(
        "2", str(available_cpus())
    )
    assert overhead.value is not None
    # Two processes cannot take less than half of the time.
    assert overhead.value > 0.9
    assert drawing.name == "seconds of spangym curves, 10 trials of 100 rows"
    assert drawing.value is not None
    assert drawing.value > 0
    assert drawing.goal is overhead.goal is None


def test_json_is_refused_before_anything_is_measured(tmp_path: Path):
    for arguments in (["bench", "attention", "--quick"], ["defects"]):
        done = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path)])
        assert isinstance(done.exception, UserError)
        assert "is a folder; name a file" in str(done.exception)


def test_stored_bench_is_that_of_the_readme():
    stored = json.loads((RESULTS / "bench-attention-cpu.json").read_text())
    assert stored["machine"]["device"] == "cpu"
    rows = {row["name"]: row for row in stored["rows"]}
    table = [line.split(" | ") for line in README if line.startswith("| window | one pass")]
    names = [name.strip(" |") for name in table[0][1:]]
    for window, goal in bench_attention._PASS_GOALS.items():
        figures = [rows.get(f"{name}, ctx 4096, window {window}") for name in names]
        assert figures[0] is not None
        assert figures[0]["goal"] == goal
        cells = ["" if figure is None else f"{figure['value']:.3g}" for figure in figures]
        assert f"| {window} | " + " | ".join(cells) + " |" in README


@pytest.mark.parametrize(("name", "figures"), [("envs", 11), ("agents", 9), ("experiments", 2)])
def test_stored_bench_is_a_table_of_the_readme(name: str, figures: int):
    stored = json.loads((RESULTS / f"bench-{name}-cpu.json").read_text())
    assert stored["machine"]["device"] == "cpu"
    measured = [row for row in stored["rows"] if row["value"] is not None]
    assert len(measured) == figures
    for row in measured:
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        assert " ".join(f"| {row['name']} | {row['value']:.3g} | {goal} |".split()) in README


@pytest.fixture(scope="module")
def defects() -> list[Defect]:
    return list(measure_defects())


def test_every_defect_shows(defects: list[Defect]):
    assert [defect.number for defect in defects] == [*map(str, range(1, 11)), ""]
    by_number = {defect.number: defect for defect in defects}
    for number in ("1", "2", "3"):  # Something has no effect in the original.
        assert by_number[number].original == 0 < by_number[number].default
    assert by_number["4"].default == pytest.approx(4 * by_number["4"].original, rel=1e-3)
    assert by_number["5"].original < by_number["5"].default == 1
    assert by_number["6"].default == 0 < by_number["6"].original
    assert min(by_number["7"].original, by_number["7"].default) > 0.7
    assert by_number["8"].default < 0.7 < 1 == by_number["8"].option
    assert by_number["9"].original == by_number["9"].default == 0
    assert by_number["9"].option is not None
    assert by_number["9"].option > 0
    assert (by_number["10"].original, by_number["10"].default) == (20, 0)


def test_stored_defects_are_those_of_the_readme():
    stored = json.loads((RESULTS / "defects.json").read_text())["rows"]
    rows = [Defect(**row).to_row() for row in stored]
    table = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, *rows)]
    for line in table:
        assert " ".join(line.split()) in README


def test_stored_defects_are_what_is_measured(defects: list[Defect]):
    stored = json.loads((RESULTS / "defects.json").read_text())["rows"]
    for row, defect in zip(stored, defects, strict=True):
        measured = asdict(defect)
        for name in ("number", "name", "measure", "option_name"):
            assert row[name] == measured[name]
        # The text that most are measured on differs between versions of Python.
        for name in ("original", "default", "option"):
            assert (row[name] is None) == (measured[name] is None)
            assert (row[name] or 0) == pytest.approx(measured[name] or 0, rel=0.5)


def test_original_refuses_what_it_never_had():
    layer = IntegratedAttention.original(40, 16, 2)
    x = torch.zeros(1, 8, 16)
    with pytest.raises(ValueError, match="knows no lengths"):
        layer(x, lengths=torch.tensor([4]))
    with pytest.raises(NotImplementedError, match="no matrix of attention weights"):
        layer.attention_weights(x)
