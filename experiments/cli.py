"""The commands of ``spangym``; `spangym.experiments.main` starts them."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TimeElapsedColumn

from ..agents.files import written_whole
from ..envs.registration import ENVIRONMENTS, full_id
from ..envs.weights import ENDING, to_bytes
from .bench import (
    Row,
    check_writable_file,
    describe_bench,
    make_bench_table,
    number,
    write_bench,
)
from .comparison import check_startable, conclude, decisions_by_trial, notes, run_comparison
from .curves import FIGURE, draw_curves
from .errors import UserError
from .machine import usable_cores
from .manifest import make_manifest
from .progress import BarsView, LinesView
from .run_folder import RunFolder, resume_command
from .studies import Study
from .study_reading import change_study, load_study, resolve
from .table import make_table

app = typer.Typer(
    name="spangym",
    help="Compare agents that control the attention span of live layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Measure speed and memory, as ratios.", no_args_is_help=True)
app.add_typer(bench, name="bench")

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(f"spangym {importlib.metadata.version('spangym')}")
        raise typer.Exit


@app.command()
def compare(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A TOML file or a shipped study; else quickstart."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of training seeds, counted from 0.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each training.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this agent with the references (may be repeated): one of the "
            "study's, another shipped one, or module:Class of a refiner of your own."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials side by side; else one a core.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the layers run, as torch names it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; else runs/STUDY-TIME.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the interrupted run in this folder.")
    ] = None,
) -> None:
    """Train and evaluate the agents of a study, and write down how they compare."""
    jobs = jobs or usable_cores()
    # Where there is no terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 120)
    if resume is None:
        chosen = change_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            steps=steps,
            agents=agent or (),
            device=device,
        )
        check_startable(chosen)
        path = out or Path("runs", f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}")
        folder = RunFolder.create(path, chosen, make_manifest(chosen, sys.argv, jobs))
    else:
        if any(each is not None for each in (study, seeds, steps, agent, device, out)):
            raise UserError(
                "--resume goes on with the folder's own study: besides it give only --jobs"
            )
        folder = RunFolder.open(resume)
        chosen = _resume(folder, jobs)
    _run(folder, chosen, jobs, console)


@app.command()
def curves(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
) -> None:
    """Redraw the figures of a run from its stored rows; trains nothing."""
    run = RunFolder.open(folder)
    run.check_writable()
    study = run.study()
    finished = run.finished(study)
    if not finished:
        raise UserError(
            f"no trial is finished in {str(folder)!r}: go on with {resume_command(folder)}"
        )
    draw_curves(run, study, finished)
    missing = len(study.trials()) - len(finished)
    if missing:
        print(f"{missing} of {len(study.trials())} trials are not finished and not drawn")
    print(f"drawn: {folder / FIGURE}.png and .svg")


@app.command()
def defects(
    json: Annotated[
        Path | None, typer.Option("--json", help="Write machine and rows to this file too.")
    ] = None,
) -> None:
    """Measure what each defect of the original layer does."""
    from .defects import make_defects_table, measure_defects

    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.status("measuring"):
        measured = list(measure_defects())
    console.print(make_defects_table(measured))
    if json is not None:
        write_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        print(f"written: {json}")


@app.command()
def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
) -> None:
    """Play a run's stored evaluation episodes again and compare what comes of them."""
    from .validation import validate as replay

    run = RunFolder.open(folder)
    study = run.study()
    torch.set_num_threads(1)
    failed = rounded = total = 0
    for row in replay(run, study):
        print(row)
        total += 1
        failed += not row.reproduced
        rounded += row.reproduced and bool(row.difference)
    if not total:
        raise UserError(f"no trial is finished in {str(folder)!r}: there is nothing to replay")
    exact = total - failed - rounded
    exactly = "all" if exact == total else f"{exact} of them"
    print(f"{total - failed} of {total} episodes are reproduced, {exactly} to the bit")
    if failed:
        raise typer.Exit(1)


@app.command()
def watch(
    environment: Annotated[str, typer.Argument(metavar="ID", help="A registered environment.")],
    agent: Annotated[
        str,
        typer.Option(
            help="Who plays: random, fixed:0 to fixed:9, refiner or module:Class as yet untrained, "
            "or the folder of a finished trial, RUN/trials/AGENT/seed-N."
        ),
    ],
    video: Annotated[
        Path | None,
        typer.Option(help="File for a video, .mp4 or .gif; else the pictures are printed as text."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
) -> None:
    """Play one episode of evaluation, as a video or as text."""
    from .watch import check_video, find_player, pictures, write_video

    if video is not None:
        check_video(video)
    torch.set_num_threads(1)
    player = find_player(environment, agent, seed)
    if video is None:
        for text in pictures(player, seed, "ansi"):
            print(text, end="\n\n")
    else:
        frames = write_video(video, pictures(player, seed, "rgb_array"))
        print(f"written: {video} ({frames} frames)")


@app.command()
def pretrain(
    environment: Annotated[
        str, typer.Argument(metavar="ID", help="An id with trained layers: spangym/SpanBudget-v0.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the weights; else NAME.safetensors here.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=3, help="Steps of the optimiser; else the recipe's.")
    ] = None,
) -> None:
    """Train the layers of an id at random spans, on one core of the CPU."""
    from .pretraining import describe, judge, pretrain, recipe_of

    name, recipe = recipe_of(environment)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    path = out or Path(f"{name}{ENDING}")
    check_writable_file("--out", path)
    torch.set_num_threads(1)
    began = time.perf_counter()
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        bar = bars.add_task(name, total=recipe.steps)

        def progress(done: int, loss: float) -> None:
            said = f"{name}, step {done:,}: {loss:.3f} bits a target"
            bars.update(bar, completed=done, description=said)

        stack = pretrain(recipe, progress)
    losses = judge(stack, recipe)
    content = to_bytes(stack, describe(recipe, losses, time.perf_counter() - began))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as aside:
        aside.write_bytes(content)
    reached = ", ".join(f"{action}: {loss:.3f}" for action, loss in losses.items())
    print(f"bits a target on evaluation streams, by span: {reached}")
    print(f"written: {path} ({len(content):,} bytes)")


@app.command()
def references(
    environments: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Registered ids; else all.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each policy.")] = 16,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write machine and rows to this file too.")
    ] = None,
) -> None:
    """Measure what policies that learn nothing earn, and what the best would."""
    from .references import make_references_table, measure_references

    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(1)
    names = [full_id(name) for name in environments or ENVIRONMENTS]
    measured = []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        for name in names:
            bar = bars.add_task(name, total=None)

            def progress(done: int, total: int, bar: TaskID = bar) -> None:
                bars.update(bar, completed=done, total=total)

            measured.append(measure_references(name, episodes, progress))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(make_references_table(measured))
    if json is not None:
        write_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        print(f"written: {json}")


@bench.command("attention")
def bench_attention(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter sequences and fewer rounds.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write machine and rows to this file too.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the CPU.")] = 1,
) -> None:
    """Measure local attention against the cost that its visited keys should have."""
    # Imported here: nothing else needs it.
    from .bench_attention import rows

    _measure(lambda: rows(quick, torch.Generator().manual_seed(0)), threads, json)


@bench.command("envs")
def bench_envs(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and lanes.")] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write machine and rows to this file too.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the CPU.")] = 1,
) -> None:
    """Measure what the environment adds to the layers that it runs."""
    from .bench_envs import rows

    _measure(lambda: rows(quick), threads, json)


def _measure(rows: Callable[[], Iterable[Row]], threads: int, json: Path | None) -> None:
    """Show rows of figures as they are measured, and write them down."""
    if json is not None:
        check_writable_file("--json", json)
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    machine = describe_bench(torch.device("cuda" if cuda else "cpu"))
    console = Console(width=None if sys.stdout.isatty() else 120)
    done: list[Row] = []
    with console.status("measuring") as status:
        for row in rows():
            done.append(row)
            status.update(f"measured: {row.name}: {number(row.value)}")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(make_bench_table([row for row in done if row.value is not None]))
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
        write_bench(json, machine, [row.as_json() for row in done])
        print(f"written: {json}")


def _resume(folder: RunFolder, jobs: int) -> Study:
    """The study of an earlier run, whose manifest is told that it goes on."""
    folder.check_writable()
    stored = folder.study()
    try:
        study = resolve(stored)
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    then, now = folder.manifest(), make_manifest(study, sys.argv, jobs)
    if then["content_sha256"] != now["content_sha256"]:
        raise UserError(
            f"the run in {str(folder.path)!r} read other content than there is now: resume it with "
            "the Python and the files that its manifest.json and study.toml name"
        )
    if then.get("weights_sha256") != now["weights_sha256"]:
        raise UserError(
            f"the run in {str(folder.path)!r} ran other weights than there are now: run the study "
            "again in another folder"
        )
    earlier = then.pop("resumed", None)
    again = [*earlier, now] if isinstance(earlier, list) else [now]
    folder.write_json("manifest.json", {**then, "resumed": again})
    return study


def _run(folder: RunFolder, study: Study, jobs: int, console: Console) -> None:
    kind = BarsView if console.is_terminal else LinesView
    finished = folder.finished(study)
    try:
        with kind(console, decisions_by_trial(study), finished) as view:
            failed = run_comparison(folder, study, jobs, view)
        if len(failed) == len(study.trials()):
            first = next(iter(failed.values()))
            print(f"spangym: every trial failed, the first by: {first}", file=sys.stderr)
            raise typer.Exit(1)
        summaries, verdict = conclude(folder, study, failed)
    except KeyboardInterrupt:
        done, total = len(folder.finished(study)), len(study.trials())
        print(
            f"interrupted: {done} of {total} trials are finished and kept; go on with: "
            f"{resume_command(folder.path)}",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    console.print(make_table(summaries, study.name))
    for note in notes(study, failed):
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(verdict, markup=False, highlight=False)
    print(f"written: {folder.path} (open report.html; tensorboard --logdir {folder.path})")
    if failed:
        raise typer.Exit(1)
