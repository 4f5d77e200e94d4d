"""``spangym pilot``: train models with controlled spans."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.catalog import pilots
from spangym.experiments.cli.terminal import echo
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.studies.field_types import MAX_STEPS
from spangym.utils.errors import UserError


def _complete_study(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    start = f"{ctx.params.get('task')} {incomplete}"
    rows = [each for each in pilots().items() if each[0].startswith(start)]
    return [(name.partition(" ")[2], description) for name, description in rows]


def command(
    task: Annotated[options.TaskName | None, typer.Argument(help="Task of the models.")] = None,
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            autocompletion=_complete_study,
            help="A TOML file or a built-in study: quick, laws, voices or full for speech, quick, "
            "long or full for text; default: quick.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Your own recordings with transcripts (.wav or .flac, each with a .txt, or one "
            "CSV), or your own texts.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT", help="Train only this variant and the baseline (repeatable)."
        ),
    ] = None,
    seeds: options.Seeds = None,
    settings: options.PilotSet = None,
    updates: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MAX_STEPS, help="Updates of each model."),
    ] = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = None,
    out: options.Out = None,
    resume: options.Resume = None,
    checkpoint_seconds: options.CheckpointSeconds = CHECKPOINT_SECONDS,
    generate: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="Let each trained model of text continue this prompt."),
    ] = None,
    num_bytes: Annotated[
        int,
        typer.Option("--bytes", metavar="N", min=1, help="Bytes that --generate writes."),
    ] = 200,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
) -> None:
    """Train models with controlled attention spans and compare them with plain attention.

    Speech needs an extra: pip install 'spangym[speech]'. Keys of --set are those of the study,
    model.KEY, text.KEY, speech.KEY, VARIANT.KEY and VARIANT.agent.OPTION.

    Examples:
        spangym pilot text
        spangym pilot text full --variant dqn --seeds 3 --dry-run
        spangym pilot text --set model.dims=64 --set dqn.agent.gamma=0.5
        spangym pilot --resume runs/text-quick --generate "def main("
    """
    from spangym.experiments.cli.running import make_executor, print_plan, run_and_report
    from spangym.experiments.pilot.estimate_pilot import estimate_pilot
    from spangym.experiments.pilot.generate_text import check_prompt, generate_texts
    from spangym.experiments.pilot.load_pilot_study import (
        load_pilot_study,
        normalize_pilot_study,
        override_pilot_study,
    )
    from spangym.experiments.pilot.pilot_run import PILOT
    from spangym.experiments.pilot.pilot_tasks import fingerprint, validate_task
    from spangym.experiments.runner.fingerprint import DatasetHashes
    from spangym.experiments.runner.manifest import available_cpus, make_manifest
    from spangym.experiments.runner.run_dir import RunDir
    from spangym.experiments.studies.settings import parse_settings

    job_executor = make_executor(executor, address, workers, checkpoint_seconds)
    if resume is None:
        if task is None:
            raise UserError("name the task of the models: `spangym pilot speech`, or `text`")
        chosen = override_pilot_study(
            load_pilot_study("quick" if study is None else study, task),
            seeds=seeds,
            updates=updates,
            variants=variant or (),
            data=data,
            device=device,
            settings=parse_settings(settings or ()),
        )
        folder = RunDir(out or Path("runs", chosen.slug), PILOT)
    else:
        given = (task, study, data, variant, seeds, settings, updates, device, out)
        if dry_run or any(each is not None for each in given):
            raise UserError(
                "--resume runs the folder's own study: combine it only with --workers, "
                "--executor, --address, --checkpoint-seconds, --generate, --bytes and --quiet"
            )
        folder = RunDir.open(resume, PILOT)
        folder.check_writable()
        try:
            chosen = normalize_pilot_study(folder.study())
        except UserError as error:
            raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    if generate is not None:
        check_prompt(chosen, generate, num_bytes)
    try:
        # Speech is synthesized here, before the jobs need it.
        validate_task(chosen)
        content = fingerprint(chosen, DatasetHashes())
    except ValueError as error:
        raise UserError(str(error)) from error
    workers = workers or available_cpus()
    if dry_run:
        print_plan(folder, chosen, estimate_pilot(chosen), workers)
        return
    folder.create(
        chosen, make_manifest(sys.argv, workers, chosen.device, {"content_sha256": content})
    )
    run_and_report(folder, estimate_pilot(chosen), job_executor, quiet)
    if generate is not None:
        texts = generate_texts(folder, generate, num_bytes)
        for name, text in texts.items():
            for line in ("", f"--- {name} ---", *(generate + text).split("\n")):
                echo(line)
        silent = [each.name for each in chosen.variants if each.name not in texts]
        if silent:
            echo("")
            echo(f"no text of {', '.join(silent)}: not causal, failed or diverged")
