"""Checks before a study runs that its environments and networks can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents import Agent, SB3Agent
from spangym.agents.agent_class import action_problem
from spangym.agents.base import notify_episode_start, num_actions_in
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.experiments.studies.study import Study
from spangym.experiments.tables.build_tables import tables_of
from spangym.experiments.trials.players import as_live, make_training_env
from spangym.experiments.trials.trial import make_trial
from spangym.utils.errors import report_user_code
from spangym.utils.process_state import preserve_process_state
from spangym.utils.signatures import source_location


def smoke_test(study: Study) -> None:
    """Make the environments and networks of a study; a UserError names one that fails.

    Tables need not exist: their environments are made live.
    """
    for environment in study.environments:
        trials = [make_trial(study, environment, each, 0) for each in study.agents_in(environment)]
        with _reported(f"environment {environment.name!r}"):
            _ = tables_of(trials)
            evaluation = as_live(trials[-1].eval_config())
            make_training_env(evaluation, study.evaluation.episodes).reset()
            make_training_env(as_live(trials[-1].train_config()), study.n_envs).reset()
        for trial in trials:
            if trial.total_timesteps:
                with _reported(f"agent {trial.agent.name!r}"):
                    agent = trial.make_agent()
                    if isinstance(agent, SB3Agent):
                        env = make_training_env(as_live(trial.train_config()), trial.n_envs)
                        agent.make_model(env, trial.total_timesteps)
                    elif trial.agent.spec().module_sha256:
                        _check_actions(agent, make_training_env(as_live(trial.train_config())))


def _check_actions(agent: Agent, env: VecEnv) -> None:
    """Raise a ValueError if a user's agent gives something other than actions.

    Only evaluation would show it, after hours of training.
    """
    observations = np.asarray(env.reset())
    try:
        notify_episode_start(agent, env)
        actions = agent.predict(observations)
    except BaseException:  # An agent may refuse to predict before it has learned.
        return
    cls, method, given = type(agent), "predict", "observations"
    if isinstance(agent, TabularAgent):
        cls, given = type(agent.controller), "state"
        method = "greedy_action" if hasattr(cls, "greedy_action") else "choose_action"
    if problem := action_problem(f"{method}({given})", actions, env.num_envs, num_actions_in(env)):
        raise ValueError(source_location(cls, method) + problem)


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    # Libraries, too, raise what they like on a wrong hyperparameter.
    with preserve_process_state(), report_user_code(f"{name} cannot be started"):
        yield
