"""Loading the agent of a finished trial."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from spangym.agents import Agent
from spangym.envs import EnvConfig
from spangym.experiments.runner.run_dir import RunDir, run_command
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.experiments.trials.players import AnyConfig
from spangym.experiments.trials.trial import Trial
from spangym.utils.errors import UserError, report_user_code

TRIAL_DIR_PATTERN = "RUN/jobs/ENVIRONMENT/AGENT/seed-N-KEY"
"""Form of the folder of a trial."""


class TrainedAgent(NamedTuple):
    """The trained agent of a finished trial, and the configuration of its evaluation."""

    trial: Trial
    agent: Agent
    config: EnvConfig


def load_trained_agent(folder: Path) -> TrainedAgent:
    """Load the agent from the folder of a finished trial in its run; UserError if there is none."""
    path, name = folder.resolve(), str(folder)
    run = RunDir(path.parents[3], COMPARISON) if len(path.parents) > 3 else None
    if run is None or path.parents[2].name != "jobs" or run_command(run.path) != "compare":
        raise UserError(
            f"folder {name!r} is not of a trial: name one as {TRIAL_DIR_PATTERN}, where RUN is a "
            "folder that `spangym compare` wrote"
        )
    trial = next((each for each in run.jobs() if run.folder_of(each) == path), None)
    if trial is None:
        raise UserError(f"folder {name!r} is not of a trial of the study in {run.name!r}")
    if not run.is_finished(trial):
        raise UserError(
            f"the trial in {name!r} is not finished: resume it with {run.resume_command}"
        )
    # Users' classes and damaged files may raise anything.
    with report_user_code(f"the agent in {name!r} cannot be read"):
        agent = trial.make_agent()
        agent.load(path / "agent")
    config = stored_eval_config(trial)
    if not isinstance(config, EnvConfig):
        raise UserError(
            f"the trial in {name!r} is of {config.id!r}, which is no environment of spangym: its "
            "agent can neither be watched nor exported"
        )
    return TrainedAgent(trial, agent, config)


def stored_eval_config(trial: Trial) -> AnyConfig:
    """Return the evaluation configuration of a stored trial; UserError if it cannot be made."""
    try:
        return trial.eval_config()
    except (TypeError, ValueError) as error:
        raise UserError(f"the study's environment cannot be made: {error}") from error
