"""The agent of a finished trial, read back with what it was trained in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from spangym.agents import Agent
from spangym.envs import EnvConfig
from spangym.experiments.runner.run_job import is_finished
from spangym.experiments.studies.load_study import eval_env_config
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.errors import UserError

TRIAL_DIR_PATTERN = "RUN/trials/ENVIRONMENT/AGENT/seed-N-KEY"
"""What the folder of a trial looks like."""


class TrainedAgent(NamedTuple):
    """The agent of a finished trial.

    Attributes:
        trial: What was trained, where and how.
        agent: The agent.
        config: Of the environment, as the agent observes it, on streams that no training reads.
    """

    trial: Trial
    agent: Agent
    config: EnvConfig


def load_trained_agent(folder: Path) -> TrainedAgent:
    """Read the agent of a finished trial, and where it was trained.

    Args:
        folder: The trial's folder, within that of a run.

    Raises:
        UserError: It is none, the trial is not finished, or its agent cannot be read.
    """
    path, name = folder.resolve(), str(folder)
    run = RunDir(path.parents[3]) if len(path.parents) > 3 else None
    if run is None or path.parents[2].name != "trials" or not run.is_run:
        raise UserError(
            f"folder {name!r} is not of a trial: name one as {TRIAL_DIR_PATTERN}, where RUN is a folder that "
            "`spangym compare` wrote"
        )
    trials = {run.folder_of(trial): trial for trial in run.jobs()}
    if path not in trials:
        raise UserError(f"folder {name!r} is not of a trial of the study in {str(run.path)!r}")
    if not is_finished(path):
        raise UserError(f"the trial in {name!r} is not finished: go on with {run.resume_command}")
    trial = trials[path]
    try:
        agent = trial.make_agent()
        agent.load(path / "agent")
    except Exception as error:  # Whatever a user's class, or a damaged file, may raise.
        raise UserError(
            f"the agent in {name!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    return TrainedAgent(trial, agent, eval_env_config(trial))
