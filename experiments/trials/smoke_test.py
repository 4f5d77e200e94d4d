"""Checks before a study runs that its environments and networks can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from spangym.agents import SB3Agent
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.trial import make_trial
from spangym.utils.errors import report_user_code
from spangym.utils.process_state import preserve_process_state


def smoke_test(study: Study) -> None:
    """Make the environments and networks of a study; a UserError names one that fails."""
    for environment in study.environments:
        trials = [make_trial(study, environment, each, 0) for each in study.agents_in(environment)]
        with _reported(f"environment {environment.name!r}"):
            SB3SpanControlVecEnv(trials[-1].eval_config(), study.evaluation.episodes).reset()
            SB3SpanControlVecEnv(trials[-1].train_config(), study.n_envs).reset()
        for trial in trials:
            if trial.total_timesteps:
                with _reported(f"agent {trial.agent.name!r}"):
                    agent = trial.make_agent()
                    if isinstance(agent, SB3Agent):
                        env = SB3SpanControlVecEnv(trial.train_config(), trial.n_envs)
                        agent.make_model(env, trial.total_timesteps)


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    # Libraries, too, raise what they like on a wrong hyperparameter.
    with preserve_process_state(), report_user_code(f"{name} cannot be started"):
        yield
