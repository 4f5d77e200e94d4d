"""Checks before a study runs that its environments and networks can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from spangym.agents import SB3Agent
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.trial import make_trial
from spangym.utils.errors import UserError


def smoke_test(study: Study) -> None:
    """Make the environments and networks of a study; a UserError names one that fails."""
    for environment in study.environments:
        trials = [make_trial(study, environment, each, 0) for each in study.agents_in(environment)]
        with _report_error(f"environment {environment.name!r}"):
            SB3SpanControlVecEnv(trials[-1].eval_config(), study.evaluation.episodes).reset()
            SB3SpanControlVecEnv(trials[-1].train_config(), study.n_envs).reset()
        for trial in trials:
            if trial.total_timesteps:
                with _report_error(f"agent {trial.agent.name!r}"):
                    agent = trial.make_agent()
                    if isinstance(agent, SB3Agent):
                        env = SB3SpanControlVecEnv(trial.train_config(), trial.n_envs)
                        agent.make_model(env, trial.total_timesteps)


@contextlib.contextmanager
def _report_error(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Libraries raise what they like on a wrong hyperparameter.
        raise UserError(f"{name} cannot be started: {type(error).__name__}: {error}") from error
