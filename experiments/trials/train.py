"""One trial: train an agent from a seed, keep it, judge it."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from spangym.agents import Agent
from spangym.agents.base import is_resumable
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.job import CHECKPOINT_SECONDS, RESULT_FILE
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.checkpoints import Checkpoints, Interval
from spangym.experiments.trials.evaluate import count_actions, evaluate, measure_regret
from spangym.experiments.trials.recorder import EpisodeRecorder
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.utils.atomic_io import atomic_write


def env_seed(training_seed: int) -> int:
    """Seed of a training's streams: not the agent's, lest both draw the same numbers."""
    return int(np.random.SeedSequence([training_seed, 1]).generate_state(1)[0]) >> 1


def noop(message: str) -> None:
    """What is done with notes that nobody asks for."""
    del message


def run_trial(
    trial: Trial,
    folder: Path,
    progress: Callable[[int], None],
    log: Callable[[str], None] = noop,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Train an agent, store it and evaluate it.

    Writes ``job.json`` (what the numbers hang on), ``curve.csv``, TensorBoard events, the agent
    (``agent.*``), ``evaluation.csv``, ``action_counts.csv``, ``regret.csv`` and, when all that is done,
    ``result.json``. Meanwhile there are checkpoints in ``checkpoints``, if the agent's training can
    be gone on with: if there are any already, the trial goes on from the last. The last stays, lest
    the training is to be longer one day.

    Args:
        trial: What is run.
        folder: Folder of the trial, empty or as an interrupted process left it.
        progress: Called with the steps done, of ``trial.total``.
        log: Called with what the user should know.
        checkpoint_seconds: Least time between checkpoints.

    Raises:
        RuntimeError: The agent took another number of steps than it was given.
        ValueError: A layer or a reward led to numbers that are not finite.
    """
    save_json(folder / "job.json", trial.config_for_hash(DatasetHashes()))
    with contextlib.closing(TrialLogger(folder)) as logger:
        agent, seconds = _train(trial, folder, logger, progress, log, checkpoint_seconds)
        start_time = time.perf_counter()
        save_agent(agent, folder)
        config, evaluation = trial.eval_config(), trial.evaluation
        rows = evaluate(
            agent,
            config,
            evaluation.seed,
            evaluation.episodes,
            lambda steps: progress(trial.total_timesteps + steps),
        )
        episodes, action_counts = pd.DataFrame(rows), count_actions(rows, config.num_layers)
        regret = measure_regret(config, rows[: evaluation.regret_episodes])
        result = {
            "total_timesteps": trial.total_timesteps,
            "evaluation_return": float(episodes["return"].to_numpy(float).mean()),
            "regret": float(regret["regret"].to_numpy(float).mean()) if len(regret) else None,
            "full_qk_pairs": config.full_qk_pairs,
        }
        logger.log_evaluation(trial, episodes, action_counts, result["regret"])
    save_csv(folder / "evaluation.csv", episodes.drop(columns=["spans", "content_types"]))
    save_csv(folder / "action_counts.csv", action_counts)
    save_csv(folder / "regret.csv", regret)
    result["wall_seconds"] = round(seconds + time.perf_counter() - start_time, 3)
    save_json(folder / RESULT_FILE, result)


def _train(
    trial: Trial,
    folder: Path,
    logger: TrialLogger,
    progress: Callable[[int], None],
    log: Callable[[str], None],
    checkpoint_seconds: float,
) -> tuple[Agent, float]:
    """The trained agent, and the seconds that it took."""
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoint = checkpoints.read(log)
    agent = trial.make_agent()
    stages = (
        (*trial.resumed_from_steps, trial.total_timesteps)
        if is_resumable(agent)
        else (trial.total_timesteps,)
    )
    first = 0 if checkpoint is None else checkpoint["until"]
    seconds = 0.0
    for steps in (each for each in stages if each >= first):
        agent = trial.make_agent()
        env = SB3SpanControlVecEnv(trial.train_config(), trial.n_envs)
        recorder = EpisodeRecorder(
            env,
            folder,
            logger,
            steps,
            env_seed(trial.seed),
            progress,
            checkpoint and checkpoint["recorder"],
        )
        with contextlib.closing(recorder):
            if is_resumable(agent) and checkpoint is not None:
                agent.load_state_dict(checkpoint["agent"])
            if steps:
                _learn(agent, recorder, steps, checkpoints, Interval(checkpoint_seconds))
            if recorder.steps != steps:
                raise RuntimeError(f"the agent took {recorder.steps} of {steps} steps")
            seconds = recorder.seconds
        checkpoint = checkpoints.read(log)
    return agent, seconds


def _learn(
    agent: Agent,
    recorder: EpisodeRecorder,
    steps: int,
    checkpoints: Checkpoints,
    interval: Interval,
) -> None:
    if not is_resumable(agent):
        agent.learn(recorder, steps)
        return

    def checkpoint_callback(last: bool) -> None:
        if interval.elapsed() or last:
            state = {
                "agent": agent.state_dict(),
                "recorder": recorder.state_dict(),
                "until": steps,
            }
            checkpoints.write(recorder.steps, state)

    agent.learn(recorder, steps, checkpoint_callback)
    checkpoints.prune()


def save_agent(agent: Agent, folder: Path) -> None:
    """Store an agent whole or not at all, whatever files it makes."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as tmp:
        agent.save(Path(tmp) / "agent")
        for path in Path(tmp).iterdir():
            path.replace(folder / path.name)


def save_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def save_csv(path: Path, rows: pd.DataFrame) -> None:
    """Write rows as a CSV file, whole or not at all."""
    with atomic_write(path) as tmp:
        rows.to_csv(tmp, index=False, lineterminator="\n")
