"""``spangym bench gpu``: the tests and measurements that need a CUDA device, in one command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch

from spangym.experiments.benchmarks.measure import BenchRow, describe_bench, format_value
from spangym.utils.atomic_io import atomic_write
from spangym.utils.text import slug

LIMITS = {
    "tests": 180.0,
    "attention": 90.0,
    "envs": 40.0,
    "tables": 50.0,
    "agents": 35.0,
    "compare": 70.0,
}
"""Most seconds of each step, together less than 8 minutes."""


@dataclass(frozen=True)
class GpuStep:
    """A command that writes its results to a file.

    Attributes:
        name: Name of the step.
        command: Command and arguments; the path of the file follows.
        limit: Most seconds.
    """

    name: str
    command: Sequence[str]
    limit: float


@dataclass(frozen=True)
class GpuResult:
    """What a step did.

    Attributes:
        name: Name of the step.
        status: ``passed``, ``failed`` or ``out of time``; a goal that is missed is no failure.
        seconds: Duration.
        output: End of what the command printed; empty if it passed.
        rows: Measured figures, as those of `BenchRow.as_json`, up to a failure.
    """

    name: str
    status: str
    seconds: float
    output: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Last line of the output of a failure, after a colon."""
        return f": {self.output.splitlines()[-1]}" if self.output else ""


def make_steps(device: str, tests: Path) -> list[GpuStep]:
    """All steps: the CUDA tests of a folder, the benches, and a small comparison."""
    python = sys.executable
    commands = {
        name: [python, "-m", "spangym", "bench", name, "--device", device, "--json"]
        for name in ("attention", "envs", "tables", "agents", "compare")
    }
    # To collect all tests takes a good part of the time.
    files = [
        str(path)
        for path in sorted(tests.rglob("test_*.py"))
        if "mark.cuda" in path.read_text(encoding="utf-8")
    ]
    commands["tests"] = [python, "-m", "pytest", "-v", "-m", "cuda", *files, "--junit-xml"]
    return [GpuStep(name, commands[name], limit) for name, limit in LIMITS.items()]


@dataclass
class GpuReport:
    """Results of the steps in ``gpu-NAME.json`` and, as a table, in ``gpu-NAME.md``.

    Both files are written after every step.

    Attributes:
        machine: Description of machine and device.
        path: Path of the JSON file.
        results: Results of the steps so far.
    """

    machine: dict[str, Any]
    path: Path
    results: list[GpuResult] = field(default_factory=list)

    @classmethod
    def for_device(cls, device: str, folder: Path) -> GpuReport:
        """Make the report of a CUDA device, named after it."""
        machine = describe_bench(torch.device(device))
        machine["cuda"] = torch.version.cuda
        return cls(machine, folder / f"gpu-{slug(machine['device'])}.json")

    @property
    def paths(self) -> tuple[Path, Path]:
        """The JSON file and the table."""
        return self.path, self.path.with_suffix(".md")

    @property
    def passed(self) -> bool:
        """Whether every step passed."""
        return all(each.status == "passed" for each in self.results)

    def run(self, step: GpuStep) -> GpuResult:
        """Run a step, and write the files."""
        result = run_step(step)
        self.results.append(result)
        steps = [asdict(each) for each in self.results]
        rows = [{"bench": each["name"], **row} for each in steps for row in each.pop("rows")]
        content = {"machine": self.machine, "steps": steps, "rows": rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in zip(
            self.paths, (json.dumps(content, indent=1) + "\n", self.to_markdown()), strict=True
        ):
            with atomic_write(path) as tmp:
                tmp.write_text(text, encoding="utf-8")
        return result

    def to_markdown(self) -> str:
        """The machine, and tables of steps and figures."""
        lines = [f"# {self.machine['device']}", ""]
        lines.append(", ".join(f"{name} {value}" for name, value in self.machine.items()))
        lines += ["", "| step | status | seconds |", "| --- | --- | ---: |"]
        lines += [f"| {each.name} | {each.status} | {each.seconds:.0f} |" for each in self.results]
        lines += ["", "| step | figure | value | goal | met |", "| --- | --- | ---: | ---: | --- |"]
        for each in self.results:
            for row in each.rows:
                goal = "" if row["goal"] is None else f"{row['goal']:g}"
                met = {True: "yes", False: "no", None: ""}[row["met"]]
                cells = [each.name, row["name"], format_value(row["value"]), goal, met]
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def run_step(step: GpuStep) -> GpuResult:
    """Run a step's command in a process group of its own, which ends at the limit."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        written = Path(place, "written")
        process = subprocess.Popen(
            [*step.command, str(written)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=step.limit)
            status = "failed" if process.returncode else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = "out of time"
        rows = _read_rows(written)
    if status == "passed" and not rows:
        status, output = "failed", f"{output}\nthe command wrote no results".lstrip()
    shown = "" if status == "passed" else output.strip()[-4000:]
    return GpuResult(step.name, status, time.monotonic() - start, shown, rows)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a bench, or the counts of pytest's JUnit file; none without a file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if not text.startswith("<"):
        return json.loads(text)["rows"]
    suites = [*ET.fromstring(text).iter("testsuite")]

    def count(name: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites)

    failed, skipped = count("failures") + count("errors"), count("skipped")
    passed = count("tests") - failed - skipped
    rows = [
        BenchRow("CUDA tests passed", passed, None, "higher"),
        BenchRow("CUDA tests failed", failed, 0, "lower"),
        BenchRow("CUDA tests skipped", skipped, 0, "lower"),
    ]
    return [row.as_json() for row in rows]
