"""`spangym bench gpu` with commands that stand for its steps, on a machine without CUDA."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from spangym.experiments.benchmarks import bench_attention, bench_compare, bench_gpu, measure
from spangym.experiments.benchmarks.bench_compare import CompareBench
from spangym.experiments.benchmarks.bench_gpu import LIMITS, GpuReport, GpuStep, make_steps
from spangym.experiments.benchmarks.measure import BenchRow
from spangym.experiments.cli import cmd_bench
from spangym.experiments.cli.app import app
from spangym.utils.errors import UserError

ROW = BenchRow("rate", 0.8, 0.7, "higher").as_json()
WRITE = f"import json, sys; open(sys.argv[1], 'w').write(json.dumps({{'rows': [{ROW!r}]}}))"


def python(code: str, limit: float = 30.0) -> GpuStep:
    return GpuStep("step", [sys.executable, "-c", code], limit)


@pytest.fixture
def report(tmp_path: Path) -> GpuReport:
    return GpuReport({"device": "NVIDIA X", "torch": "2"}, tmp_path / "new" / "gpu-x.json")


def test_results_are_written_after_each_step(report: GpuReport):
    assert report.run(python(WRITE)).status == "passed"
    written = json.loads(report.path.read_text())
    assert written["machine"]["device"] == "NVIDIA X"
    assert written["rows"] == [{"bench": "step", **ROW}]
    failed = report.run(python(f"{WRITE}; print('first'); sys.exit('no memory')"))
    assert (failed.status, failed.reason) == ("failed", ": no memory")
    written = json.loads(report.path.read_text())
    assert [each["status"] for each in written["steps"]] == ["passed", "failed"]
    # What a failing step measured before stays.
    assert len(written["rows"]) == 2
    assert written["steps"][1]["output"] == "first\nno memory"
    assert not report.passed
    table = report.paths[1].read_text().splitlines()
    assert table[0] == "# NVIDIA X"
    assert table[-1] == "| step | rate | 0.8 | 0.7 | yes |"
    assert "| step | failed | 0 |" in table


def test_a_step_ends_at_its_limit_with_all_its_processes(report: GpuReport, tmp_path: Path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(alive)!r}, 'w')"
    code = f"{WRITE}; import subprocess; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    result = report.run(python(code, limit=1.0))
    assert time.monotonic() - start < 3
    assert result.status == "out of time"
    assert result.rows == [ROW]
    time.sleep(max(0.0, start + 3.5 - time.monotonic()))
    assert not alive.exists()


def test_a_step_without_results_has_failed(report: GpuReport):
    result = report.run(python("print('done')"))
    assert (result.status, result.reason) == ("failed", ": the command wrote no results")


def test_counts_of_pytest_are_rows(report: GpuReport, tmp_path: Path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = cuda\n")
    (tests / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.cuda\ndef test_one(): pass\n"
        "@pytest.mark.cuda\ndef test_two(): assert 1 == 2\n"
        "def test_other(): assert 1 == 2\n"
    )
    (step,) = [each for each in make_steps("cuda", tests) if each.name == "tests"]
    result = report.run(step)
    assert result.status == "failed"
    counts = {row["name"]: (row["value"], row["met"]) for row in result.rows}
    assert counts == {
        "CUDA tests passed": (1, None),
        "CUDA tests failed": (1, False),
        "CUDA tests skipped": (0, True),
    }


def test_all_steps_together_take_at_most_eight_minutes():
    steps = make_steps("cuda:1", Path("tests"))
    assert [each.name for each in steps] == [*LIMITS]
    assert sum(each.limit for each in steps) <= 8 * 60 - 15
    for step in steps[1:]:
        command = ["-m", "spangym", "bench", step.name, "--device", "cuda:1", "--json"]
        assert step.command == [sys.executable, *command]


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1)])
def test_command(code: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = python(f"{WRITE}; sys.exit({code})")
    monkeypatch.setattr(bench_gpu, "make_steps", lambda *_: [step, step])
    monkeypatch.setattr(cmd_bench, "_check_cuda", lambda device: device)
    monkeypatch.setattr(measure, "hardware_info", lambda _: {"device": "NVIDIA H1 80GB"})
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bench", "gpu"])
    assert done.exit_code == status, done.output
    folder = tmp_path / "experiments" / "results"
    assert {each.name for each in folder.iterdir()} == {
        "gpu-NVIDIA-H1-80GB.json",
        "gpu-NVIDIA-H1-80GB.md",
    }
    assert len(json.loads((folder / "gpu-NVIDIA-H1-80GB.json").read_text())["steps"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("arguments", [["gpu"], ["attention", "--device", "cuda"]])
def test_without_a_cuda_device(arguments: list[str]):
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(done.exception, UserError)
    assert "device 'cuda' is not available" in str(done.exception)


def test_rows_before_an_error_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def rows(*_: object, **__: object) -> Iterator[BenchRow]:
        yield BenchRow("rate", 0.8, 0.7, "higher")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bench_attention, "run", rows)
    path = tmp_path / "rows.json"
    done = CliRunner().invoke(app, ["bench", "attention", "--json", str(path)])
    assert isinstance(done.exception, RuntimeError)
    assert json.loads(path.read_text())["rows"] == [ROW]


def test_agents_decide_as_on_the_cpu():
    sizes = {"ctx": 16, "dims": 8, "chunks_per_episode": 2, "n_envs": 2}
    bench = CompareBench("SpanControl-v0", ("refiner",), 16, 2, sizes)
    rows: dict[str, Any] = {row.name: row for row in bench_compare.run("cpu", bench)}
    kinds = {"refiner", "fixed", "random", "oracle"}
    for kind in kinds:
        assert rows[f"decisions equal to the CPU's, {kind}, SpanControl-v0"].value == 1
        name = f"difference of the returns of equal decisions, {kind}, SpanControl-v0"
        assert rows[name].value == 0
        assert rows[name].met
