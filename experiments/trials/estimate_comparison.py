"""The work of a comparison, estimated before it begins."""

from __future__ import annotations

from typing import Any

from spangym.envs import EnvConfig
from spangym.experiments.runner.workload import Workload
from spangym.experiments.studies.study import Study, StudyAgent, StudyEnv

_FLOAT_BYTES = 4


def estimate_comparison(study: Study) -> Workload:
    """Estimate the work of a normalized study; nothing is run."""
    evaluation, trials, peak = study.evaluation, 0, 0
    steps = {"training steps": 0, "evaluation steps": 0, "steps with lookahead": 0}
    for environment in study.environments:
        length = environment.episode_steps
        for agent in study.agents_in(environment):
            spec = agent.spec()
            number = len(study.seeds_in(environment)) if spec.is_stochastic else 1
            # With levels the agent plays as many episodes on those of the training.
            episodes = evaluation.episodes * (2 if environment.levels else 1)
            times = max(len(environment.eval_cost_coefs), 1)
            episodes, looked_at = times * episodes, times * evaluation.regret_episodes
            looked_at += episodes * (agent.algo in ("oracle", "myopic"))
            trials += number
            steps["training steps"] += number * study.steps_in(environment) * spec.is_trainable
            steps["evaluation steps"] += number * episodes * length
            steps["steps with lookahead"] += number * looked_at * length
            peak = max(peak, _peak_bytes(study, environment, agent, spec.is_trainable))
    return Workload(trials, steps, peak)


def _peak_bytes(study: Study, environment: StudyEnv, agent: StudyAgent, learns: bool) -> int:
    config = agent.config_in(environment, "train")
    if not isinstance(config, EnvConfig):
        return 0
    # All evaluation episodes are played at once.
    envs, observations = study.evaluation.episodes, 0
    if learns:
        envs = max(envs, study.n_envs)
        rows = _rows_held(agent.hyperparameters, study.n_envs, study.steps_in(environment))
        observations = rows * len(config.observation_spec.nvec)
    # Projections of the global path, and that of both paths' outputs.
    weights = 6 * config.num_layers * config.dims**2
    return _FLOAT_BYTES * (max(envs * _numbers_per_env(config), observations) + weights)


def _numbers_per_env(config: EnvConfig) -> int:
    """Numbers that an environment holds: content, and a layer's input and its local output."""
    return config.ctx * (config.chunks_per_episode + 2 * config.dims)


def _rows_held(hyperparameters: dict[str, Any], n_envs: int, steps: int) -> int:
    """Observations in a rollout or a replay buffer, whose pages are not used before they fill."""
    buffer, rollout = (hyperparameters.get(name) for name in ("buffer_size", "n_steps"))
    buffer = min(buffer, steps) if isinstance(buffer, int) else 0
    return max(buffer, rollout * n_envs if isinstance(rollout, int) else 0)
