"""The main job: run a study's trials, gather what they say, draw it and write it down."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Protocol

from ..agents import DeepAgent
from ..envs import SpanControlVecEnv
from .curves import draw_curves
from .errors import UserError
from .report import write_report
from .run_folder import RunFolder
from .statistics import AgentSummary, summarise, verdict
from .studies import Study, Trial, make_agent
from .trial import CHECKPOINT_SECONDS, decisions
from .workers import Event, Failed, run_trials


class View(Protocol):
    """Shows how a comparison goes on."""

    def show(self, event: Event) -> None:
        """Take note of what has happened."""
        ...


def check_startable(study: Study) -> None:
    """Refuse a study whose environments or networks cannot be made, before anything is run.

    Raises:
        UserError: One cannot; the message says which and why.
    """
    reference = study.entries()[-1]
    name = "environment"
    try:
        SpanControlVecEnv(study.judging(reference), study.evaluation.episodes).reset()
        SpanControlVecEnv(study.training(reference), study.lanes).reset()
        for entry in study.agents:
            name = f"agent {entry.label!r}"
            agent = make_agent(entry, seed=0)
            if isinstance(agent, DeepAgent):
                agent.make_model(SpanControlVecEnv(study.training(entry), study.lanes), study.steps)
    except Exception as error:  # Libraries raise what they like on a wrong hyperparameter.
        raise UserError(f"{name} cannot be started: {type(error).__name__}: {error}") from error


def run_comparison(
    folder: RunFolder,
    study: Study,
    jobs: int,
    view: View,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict[str, str]:
    """Run the trials of a study that are not finished yet; interrupted ones go on.

    Args:
        folder: Folder of the run.
        study: What is compared.
        jobs: Processes side by side.
        view: Shown what happens.
        checkpoint_seconds: Least time between two checkpoints of a training.

    Returns:
        Names of the trials that failed, each with its error in a line.

    Raises:
        UserError: A stored result is damaged.
    """
    finished = folder.finished(study)
    todo = [trial for trial in study.trials() if trial not in finished]
    failed: dict[str, str] = {}
    pairs = [(trial, folder.start(trial)) for trial in todo]
    for event in run_trials(study, pairs, jobs, checkpoint_seconds):
        view.show(event)
        if isinstance(event, Failed):
            failed[event.trial.name] = event.error
    return failed


def conclude(
    folder: RunFolder, study: Study, failed: Mapping[str, str]
) -> tuple[list[AgentSummary], str]:
    """Gather the finished trials: ``evaluation.csv``, ``summary.json``, figures and report.

    Args:
        folder: Folder of the run.
        study: What was compared.
        failed: Names of the trials that are missing, each with its error.

    Returns:
        How each agent fared, the best first, and what that says in a few sentences.

    Raises:
        UserError: Stored rows are damaged.
    """
    trials = [trial for trial in study.trials() if trial.name not in failed]
    evaluation = folder.evaluation(study, trials)
    summaries = summarise(evaluation, _mean_seconds(folder, trials), study.episode_steps)
    said = verdict(summaries)
    folder.write("evaluation.csv", evaluation.to_csv(index=False, lineterminator="\n"))
    folder.write_json(
        "summary.json",
        {
            "study": study.name,
            "environment": study.environment.id,
            "verdict": said,
            "agents": [dataclasses.asdict(each) for each in summaries],
            "failed": dict(failed),
        },
    )
    draw_curves(folder, study, trials)
    write_report(folder, study, summaries, said, notes(study, failed))
    return summaries, said


def notes(study: Study, failed: Mapping[str, str]) -> list[str]:
    """What has to be known to read the table."""
    settings = study.judging(study.entries()[-1])
    longest, full = min(settings.max_span, settings.max_dist), settings.full_keys
    return [
        "mean return ± half of the 95 % interval over training seeds (Student's t); a fixed span "
        "has nothing to train, so it is evaluated once",
        "score: random 0, oracle 1 (the best return that can be had, found by looking ahead)",
        f"mean span in tokens, of {longest} at most; visited keys a decision, all its passes "
        f"together, where one pass of full attention visits {full:,}; seconds a trial",
        *(f"failed: {name}: {error}" for name, error in failed.items()),
    ]


def decisions_by_trial(study: Study) -> dict[str, int]:
    """Decisions that each trial of a study takes, by the trial's name."""
    return {trial.name: decisions(study, trial) for trial in study.trials()}


def _mean_seconds(folder: RunFolder, trials: list[Trial]) -> dict[str, float]:
    """Mean wall time of a trial, by the agent's label."""
    seconds: dict[str, list[float]] = {}
    for trial in trials:
        seconds.setdefault(trial.entry.label, []).append(folder.result(trial)["wall_seconds"])
    return {label: statistics.fmean(each) for label, each in seconds.items()}
