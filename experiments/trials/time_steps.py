"""Lower bounds of the time of trials, from a short measurement of their environments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spangym.agents.base import num_actions_in
from spangym.envs import EnvConfig, SpanControlVectorEnv
from spangym.experiments.trials.players import Player, as_live, make_training_env
from spangym.experiments.trials.trial import Trial
from spangym.utils.process_state import preserve_process_state

_SECONDS = 0.2
"""Least time of a measurement."""


class _StepSeconds(NamedTuple):
    """Seconds of a step of one environment: in training, in evaluation, and with lookahead."""

    training: float
    evaluation: float
    lookahead: float


def least_seconds(trials: Sequence[Trial]) -> list[float]:
    """Return for each trial the seconds that its environments take, without its agent.

    The environments of each entry of the study are measured for a moment. Those that look
    everything up in a table are a thousand times faster: their time is taken to be 0.
    """
    measured: dict[str, _StepSeconds] = {}
    seconds = []
    for trial in trials:
        name = trial.environment.name
        if name not in measured:
            with preserve_process_state():
                measured[name] = _measure(trial)
        speed, evaluation = measured[name], trial.evaluation
        length = trial.environment.episode_steps
        looks = evaluation.episodes if trial.agent.algo in ("oracle", "myopic") else 0
        on_levels = trial.eval_steps if trial.environment.levels else 0
        seconds.append(
            (trial.total_timesteps + on_levels) * speed.training
            + trial.eval_steps * speed.evaluation
            + (looks + evaluation.regret_episodes) * length * speed.lookahead
        )
    return seconds


def _measure(trial: Trial) -> _StepSeconds:
    config, train_config = as_live(trial.eval_config()), as_live(trial.train_config())
    uses_table = [each != as_live(each) for each in (trial.train_config(), trial.eval_config())]
    env = make_training_env(train_config, trial.n_envs)
    env.reset()
    actions = np.full(trial.n_envs, num_actions_in(env) // 2)
    training = _time(lambda: env.step(actions)) / trial.n_envs
    episodes, length = trial.evaluation.episodes, trial.environment.episode_steps
    player = Player(config, episodes)
    seeds, chosen = range(episodes), np.full(episodes, num_actions_in(env) // 2)

    def play() -> None:
        player.reset(seeds)
        for _ in range(min(length, 8)):
            player.step(chosen)

    evaluation = _time(play) / episodes / min(length, 8)
    lookahead = 0.0
    if isinstance(config, EnvConfig) and isinstance(player.env, SpanControlVectorEnv):
        player.reset(seeds)
        start = time.perf_counter()
        player.env.lookahead()
        lookahead = (time.perf_counter() - start) / episodes
    return _StepSeconds(
        0.0 if uses_table[0] else training,
        *((0.0, 0.0) if uses_table[1] else (evaluation, lookahead)),
    )


def _time(call: Callable[[], object]) -> float:
    """Return the mean seconds of a call."""
    call()
    start, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _SECONDS:
        call()
        calls += 1
    return seconds / calls
