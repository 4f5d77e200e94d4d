"""The one form of every ``spangym bench``: rows of figures with their goals, beside the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich import box
from rich.table import Table as RichTable

from spangym.experiments.runner.hardware import hardware_info
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError

Direction = Literal["lower", "higher"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        value: The figure; None where it could not be measured on this machine.
        goal: What it is to reach; None if it has no goal.
        direction: Whether ``lower`` or ``higher`` is better.
    """

    name: str
    value: float | None
    goal: float | None
    direction: Direction

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a figure or a goal.

        Example:
            >>> Row("time", 1.2, 1.5, "lower").met, Row("speed", 1.2, 1.5, "higher").met
            (True, False)
        """
        if self.value is None or self.goal is None:
            return None
        return self.value <= self.goal if self.direction == "lower" else self.value >= self.goal

    def as_json(self) -> dict[str, Any]:
        """The row with its verdict."""
        return {**asdict(self), "met": self.met}


def describe_bench(device: torch.device) -> dict[str, Any]:
    """The machine, threads and versions, ready for JSON."""
    versions = {name: importlib.metadata.version(name) for name in ("spangym", "torch")}
    return {
        **hardware_info(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def interleaved_timing(
    one: Callable[[], object],
    other: Callable[[], object],
    *,
    rounds: int,
    least: float = 0.02,
    synchronize: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Times of two functions that take turns: what slows the machine slows both.

    Args:
        one: The first.
        other: The second.
        rounds: Turns of each.
        least: Seconds of a turn, in which a short function is called several times.
        synchronize: Waits for the device.

    Returns:
        Median seconds of a call of each.
    """
    functions = (one, other)
    calls = [max(1, math.ceil(least / _seconds(each, 1, synchronize))) for each in functions]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for function, count, own in zip(functions, calls, times, strict=True):
            own.append(_seconds(function, count, synchronize))
    first, second = (statistics.median(own) for own in times)
    return first, second


def _seconds(
    function: Callable[[], object], calls: int, synchronize: Callable[[], object]
) -> float:
    synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize()
    return (time.perf_counter() - started) / calls


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes on the CPU that a call holds beyond what was there before, its result among them.

    Taken from PyTorch's own profiler, which sees every allocation of its operators.
    """
    function()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        _silent_stderr(),
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
    ):
        result = function()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = [event["args"] for event in events if event.get("name") == "[memory]"]
    before = memory[0]["Total Allocated"] - memory[0]["Bytes"]
    return max(each["Total Allocated"] for each in memory) - before


def d2h_copies_and_utilization(function: Callable[[], object]) -> tuple[float, float]:
    """Copies from the CUDA device to the host in a call, and the share of it the device is busy.

    Taken from PyTorch's own profiler, of the second call.
    """
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    events = profile.events() or []
    on_device = [event for event in events if str(event.device_type) == "DeviceType.CUDA"]
    copies = sum("DtoH" in event.name for event in on_device)
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6
    return float(copies), busy / seconds


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's library writes lines of its own there, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def format_value(value: float | None) -> str:
    """A figure to three digits."""
    return "not measured" if value is None else f"{value:.3g}"


def bench_table(rows: Sequence[Row]) -> RichTable:
    """The rows for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("name", overflow="fold")
    for name in ("value", "goal", "direction", "met"):
        table.add_column(name, justify="right" if name in ("value", "goal") else "left")
    styles = {True: "green", False: "red", None: "dim"}
    words = {True: "yes", False: "no", None: "-"}
    for row in rows:
        table.add_row(
            row.name,
            format_value(row.value),
            "-" if row.goal is None else f"{row.goal:g}",
            row.direction,
            f"[{styles[row.met]}]{words[row.met]}[/]",
        )
    return table


def save_bench(path: Path, machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write ``{"machine": {...}, "rows": [{...}]}``, whole or not at all."""
    content = {"machine": machine, "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


def check_writable_file(option: str, path: Path) -> None:
    """Refuse a place that could not be written to, before minutes are spent on measuring.

    Raises:
        UserError: It is a folder, or lies in what is none, or may not be written.
    """
    if path.is_dir():
        raise UserError(f"{option}: {str(path)!r} is a folder; name a file")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{option}: {str(path)!r} cannot be written, since {str(there)!r} cannot")
