"""The main job: run a study's trials, gather what they say, draw it and write it down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import pandas as pd

from .curves import draw_curves
from .report import write_report
from .run_folder import RunFolder
from .statistics import summarise, verdict
from .studies import Study
from .trial import decisions
from .workers import Event, Failed, run_trials


class View(Protocol):
    """Shows how a comparison goes on."""

    def show(self, event: Event) -> None:
        """Take note of what has happened."""
        ...


def run_comparison(folder: RunFolder, study: Study, jobs: int, view: View) -> dict[str, str]:
    """Run the trials of a study that are not finished yet.

    Args:
        folder: Folder of the run.
        study: What is compared.
        jobs: Processes side by side.
        view: Shown what happens.

    Returns:
        Names of the trials that failed, each with its error in a line.

    Raises:
        UserError: A stored result is damaged.
    """
    finished = folder.finished(study)
    todo = [trial for trial in study.trials() if trial not in finished]
    failed: dict[str, str] = {}
    for event in run_trials(study, [(trial, folder.start(trial)) for trial in todo], jobs):
        view.show(event)
        if isinstance(event, Failed):
            failed[event.trial.name] = event.error
    return failed


def conclude(
    folder: RunFolder, study: Study, failed: Mapping[str, str]
) -> tuple[pd.DataFrame, str]:
    """Gather the finished trials: ``evaluation.csv``, ``summary.json``, figures and report.

    Args:
        folder: Folder of the run.
        study: What was compared.
        failed: Names of the trials that are missing, each with its error.

    Returns:
        One row an agent, and what they say in a sentence.

    Raises:
        UserError: Stored rows are damaged.
    """
    trials = [trial for trial in study.trials() if trial.name not in failed]
    evaluation = folder.evaluation(trials)
    seconds = pd.DataFrame([folder.result(trial) for trial in trials])
    arguments = study.environment.arguments
    summary = summarise(evaluation, seconds, arguments["chunks"] * arguments["layers"])
    said = verdict(summary)
    folder.write("evaluation.csv", evaluation.to_csv(index=False, lineterminator="\n"))
    folder.write_json(
        "summary.json",
        {
            "study": study.name,
            "environment": study.environment.id,
            "verdict": said,
            "agents": {str(label): _plain(row) for label, row in summary.iterrows()},
            "failed": dict(failed),
        },
    )
    draw_curves(folder, study, trials)
    write_report(folder, study, summary, said, notes(study, failed))
    return summary, said


def notes(study: Study, failed: Mapping[str, str]) -> list[str]:
    """What has to be known to read the table."""
    ctx = study.environment.arguments["ctx"]
    return [
        "mean return ± half of the 95 % interval over training seeds (Student's t); a fixed span has "
        "nothing to train, so it is evaluated once",
        "score: random 0, best fixed span 1",
        f"mean span in tokens of {ctx}; visited keys a decision, of {ctx**2:,} in one pass of full "
        "attention; seconds a trial",
        *(f"failed: {name}: {error}" for name, error in failed.items()),
    ]


def decisions_by_trial(study: Study) -> dict[str, int]:
    """Decisions that each trial of a study takes, by the trial's name."""
    return {trial.name: decisions(study, trial) for trial in study.trials()}


def _plain(row: pd.Series) -> dict[str, object]:
    """A row for JSON, which has no NaN."""
    plain = {str(name): getattr(value, "item", lambda v=value: v)() for name, value in row.items()}
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in plain.items()
    }
