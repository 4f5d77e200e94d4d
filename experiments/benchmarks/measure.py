"""The common form of every ``spangym bench``: rows with goals, timing, memory, the machine."""

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from rich import box
from rich.table import Table as RichTable

from spangym.experiments.runner.manifest import code_version, hardware_info
from spangym.utils.atomic_io import atomic_write

Direction = Literal["lower", "higher"]


@dataclass(frozen=True)
class BenchRow:
    """One measured figure.

    Attributes:
        name: Name of the figure, with the sizes it was measured at.
        value: The figure; None if this machine cannot measure it.
        goal: The value to reach; None without a goal.
        direction: Whether a ``lower`` or a ``higher`` value is better.
    """

    name: str
    value: float | None
    goal: float | None
    direction: Direction

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a value or a goal.

        Example:
            >>> BenchRow("time", 1.2, 1.5, "lower").met, BenchRow("speed", 1.2, 1.5, "higher").met
            (True, False)
        """
        if self.value is None or self.goal is None:
            return None
        return self.value <= self.goal if self.direction == "lower" else self.value >= self.goal

    def as_json(self) -> dict[str, Any]:
        """The row and whether its goal is met."""
        return {**asdict(self), "met": self.met}


def describe_bench(device: torch.device) -> dict[str, Any]:
    """Machine, threads, versions, the date and the commit of the code, ready for JSON."""
    versions = {name: importlib.metadata.version(name) for name in ("spangym", "torch")}
    return {
        **hardware_info(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": code_version()["commit"],
    }


def interleaved_timing(
    *functions: Callable[[], object],
    rounds: int,
    min_seconds: float = 0.02,
    synchronize: Callable[[], object] = lambda: None,
    on_turn: Callable[[int, int], object] = lambda *_: None,
) -> list[float]:
    """Time functions in turns, so that a slow phase of the machine slows all of them.

    Args:
        functions: The functions.
        rounds: Turns of each.
        min_seconds: Duration of a turn; a short function is called several times in it.
        synchronize: Waits for the device.
        on_turn: Called before a turn with the round and the index of the function.

    Returns:
        Median seconds per call of each function.
    """

    def seconds(index: int, calls: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            functions[index]()
        synchronize()
        return (time.perf_counter() - start) / calls

    times: list[list[float]] = [[] for _ in functions]
    calls = [1 for _ in functions]
    for number in range(rounds + 1):
        for index, own in enumerate(times):
            if len(own) < rounds:
                on_turn(number, index)
                own.append(seconds(index, calls[index]))
        if number == 0:
            calls = [max(1, math.ceil(min_seconds / own[0])) for own in times]
            # The first call warms up, unless it was long enough to be a turn of its own.
            times = [own if count == 1 else [] for own, count in zip(times, calls, strict=True)]
    return [statistics.median(own) for own in times]


def peak_memory(function: Callable[[], object]) -> int:
    """Peak bytes on the CPU that a call allocates, its result included.

    The allocations are those that PyTorch's profiler records.
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
    """Device-to-host copies in a call, and the fraction of it in which the CUDA device is busy.

    PyTorch's profiler records the second call.
    """
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = profile.events() or []
    on_device = [event for event in events if str(event.device_type) == "DeviceType.CUDA"]
    copies = sum("DtoH" in event.name for event in on_device)
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6
    return float(copies), busy / seconds


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence the profiler's native library, which writes to file descriptor 2."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def format_value(value: float | None) -> str:
    """A figure to three digits."""
    return "not measured" if value is None else f"{value:.3g}"


def bench_table(rows: Sequence[BenchRow]) -> RichTable:
    """The rows for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("name", overflow="fold")
    for name in ("value", "goal", "direction", "met"):
        table.add_column(name, justify="right" if name in ("value", "goal") else "left")
    styles = {True: "[green]yes[/]", False: "[red]no[/]", None: "[dim]-[/]"}
    for row in rows:
        goal = "-" if row.goal is None else f"{row.goal:g}"
        table.add_row(row.name, format_value(row.value), goal, row.direction, styles[row.met])
    return table


def save_bench(path: Path, machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write ``{"machine": {...}, "rows": [{...}]}`` atomically."""
    content = {"machine": machine, "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")
