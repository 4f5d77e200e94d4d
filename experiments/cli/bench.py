"""Commands that measure: ``spangym bench`` and ``defects``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from spangym.experiments.benchmarks.measure import (
    BenchRow,
    bench_table,
    check_writable_file,
    describe_bench,
    format_value,
    save_bench,
)
from spangym.experiments.cli.pilot_cmd import TaskName
from spangym.utils.errors import UserError

Json = Annotated[
    Path | None, typer.Option("--json", help="Write machine and rows to this file too.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the CPU.")]


def defects(
    json: Json = None,
) -> None:
    """Measure what each defect of the original layer does."""
    from spangym.experiments.benchmarks.original_defects import defects_table, measure_defects

    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.status("measuring"):
        measured = list(measure_defects())
    console.print(defects_table(measured))
    if json is not None:
        save_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        print(f"written: {json}")


def bench_attention(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter sequences and fewer rounds.")
    ] = False,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure local attention against the cost that its visited keys should have."""
    # Imported here: nothing else needs it.
    from spangym.experiments.benchmarks.bench_attention import run

    run_benchmark(lambda: run(quick), threads, json)


def bench_envs(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and environments.")] = False,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure what the environment adds to the layers that it runs."""
    from spangym.experiments.benchmarks.bench_envs import run

    run_benchmark(lambda: run(quick), threads, json)


def bench_experiments(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter trainings and fewer rows.")
    ] = False,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure what the runner adds to its trials, and how fast curves of many are drawn."""
    from spangym.experiments.benchmarks.bench_experiments import run

    run_benchmark(lambda: run(quick), threads, json)


def bench_pilot(
    task: Annotated[
        TaskName | None, typer.Argument(help="What the models read; both if left out.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter inputs and fewer rounds.")
    ] = False,
    json: Json = None,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="Where the models run, as torch names it.")] = "cpu",
) -> None:
    r"""Measure what a pilot's models cost on long inputs, beside full attention.

    Speech needs an extra: pip install 'spangym\[speech]'.
    """
    from spangym.envs.env_config import check_device
    from spangym.experiments.benchmarks.bench_pilot import LENGTHS, run
    from spangym.experiments.benchmarks.long_inputs import long_inputs_table
    from spangym.experiments.reports.terminal_tables import to_rich_table

    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(threads)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        place = check_device(device)
        with console.status("measuring") as status:
            measured = list(
                run([each for each in LENGTHS if task in (None, each)], quick, place, status.update)
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    machine = describe_bench(place)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(to_rich_table(long_inputs_table(measured)))
    if json is not None:
        save_bench(json, machine, measured)
        print(f"written: {json}")


def run_benchmark(run: Callable[[], Iterable[BenchRow]], threads: int, json: Path | None) -> None:
    """Show rows of figures as they are measured, and write them down."""
    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    machine = describe_bench(torch.device("cuda" if cuda else "cpu"))
    console = Console(width=None if sys.stdout.isatty() else 120)
    done: list[BenchRow] = []
    with console.status("measuring") as status:
        for row in run():
            done.append(row)
            status.update(f"measured: {row.name}: {format_value(row.value)}")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(bench_table([row for row in done if row.value is not None]))
    missing = [row.name for row in done if row.value is None]
    if missing:
        needs = [
            need
            for word, need in (
                ("CUDA", "a CUDA device"),
                ("local-attention", "the package local-attention (extra dev)"),
            )
            if any(word in name for name in missing)
        ]
        print(f"not measured: {len(missing)} figures that need {' or '.join(needs)}")
    if json is not None:
        save_bench(json, machine, [row.as_json() for row in done])
        print(f"written: {json}")
