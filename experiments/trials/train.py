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
from spangym.envs import SpanControlVecEnv
from spangym.experiments.runner.fingerprint import ContentHashes
from spangym.experiments.runner.job import CHECKPOINT_SECONDS, RESULT
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.checkpoints import Checkpoints, Clock
from spangym.experiments.trials.evaluate import count_choices, evaluate, measure_regret
from spangym.experiments.trials.recorder import Recorder
from spangym.experiments.trials.tensorboard import Board
from spangym.utils.atomic_io import written_whole


def stream_seed(training_seed: int) -> int:
    """Seed of a training's streams: not the agent's, lest both draw the same numbers."""
    return int(np.random.SeedSequence([training_seed, 1]).generate_state(1)[0]) >> 1


def ignore(note: str) -> None:
    """What is done with notes that nobody asks for."""
    del note


def run_trial(
    trial: Trial,
    folder: Path,
    progress: Callable[[int], None],
    note: Callable[[str], None] = ignore,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Train an agent, store it and evaluate it.

    Writes ``job.json`` (what the numbers hang on), ``curve.csv``, TensorBoard events, the agent
    (``agent.*``), ``evaluation.csv``, ``choices.csv``, ``regret.csv`` and, when all that is done,
    ``result.json``. Meanwhile there are checkpoints in ``checkpoints``, if the agent's training can
    be gone on with: if there are any already, the trial goes on from the last. The last stays, lest
    the training is to be longer one day.

    Args:
        trial: What is run.
        folder: Folder of the trial, empty or as an interrupted process left it.
        progress: Called with the steps done, of ``trial.total``.
        note: Told what the user should know.
        checkpoint_seconds: Least time between checkpoints.

    Raises:
        RuntimeError: The agent took another number of steps than it was given.
        ValueError: A layer or a reward led to numbers that are not finite.
    """
    write_json(folder / "job.json", trial.content(ContentHashes()))
    with contextlib.closing(Board(folder)) as board:
        agent, seconds = _train(trial, folder, board, progress, note, checkpoint_seconds)
        began = time.perf_counter()
        save_agent(agent, folder)
        settings, judged = trial.judging(), trial.evaluation
        rows = evaluate(
            agent,
            settings,
            judged.first_seed,
            judged.episodes,
            lambda steps: progress(trial.steps + steps),
        )
        episodes, choices = pd.DataFrame(rows), count_choices(rows, settings.layers)
        regret = measure_regret(settings, rows[: judged.regret_episodes])
        result = {
            "training_steps": trial.steps,
            "evaluation_return": float(episodes["return"].to_numpy(float).mean()),
            "regret": float(regret["regret"].to_numpy(float).mean()) if len(regret) else None,
            "full_keys": settings.full_keys,
        }
        board.finish(trial, episodes, choices, result["regret"])
    write_csv(folder / "evaluation.csv", episodes.drop(columns=["spans", "contents"]))
    write_csv(folder / "choices.csv", choices)
    write_csv(folder / "regret.csv", regret)
    result["wall_seconds"] = round(seconds + time.perf_counter() - began, 3)
    write_json(folder / RESULT, result)


def _train(
    trial: Trial,
    folder: Path,
    board: Board,
    progress: Callable[[int], None],
    note: Callable[[str], None],
    checkpoint_seconds: float,
) -> tuple[Agent, float]:
    """The trained agent, and the seconds that it took."""
    checkpoints = Checkpoints(folder / "checkpoints")
    kept = checkpoints.read(note)
    agent = trial.make_agent()
    stages = (*trial.earlier_steps, trial.steps) if is_resumable(agent) else (trial.steps,)
    first = 0 if kept is None else kept["until"]
    seconds = 0.0
    for steps in (each for each in stages if each >= first):
        agent = trial.make_agent()
        env = SpanControlVecEnv(trial.training(), trial.lanes)
        recorder = Recorder(
            env, folder, board, steps, stream_seed(trial.seed), progress, kept and kept["recorder"]
        )
        with contextlib.closing(recorder):
            if is_resumable(agent) and kept is not None:
                agent.load_state_dict(kept["agent"])
            if steps:
                _learn(agent, recorder, steps, checkpoints, Clock(checkpoint_seconds))
            if recorder.steps != steps:
                raise RuntimeError(f"the agent took {recorder.steps} of {steps} steps")
            seconds = recorder.seconds
        kept = checkpoints.read(note)
    return agent, seconds


def _learn(
    agent: Agent, recorder: Recorder, steps: int, checkpoints: Checkpoints, clock: Clock
) -> None:
    if not is_resumable(agent):
        agent.learn(recorder, steps)
        return

    def at_rest(last: bool) -> None:
        if clock.is_due() or last:
            state = {
                "agent": agent.state_dict(),
                "recorder": recorder.state_dict(),
                "until": steps,
            }
            checkpoints.write(recorder.steps, state)

    agent.learn(recorder, steps, at_rest)
    checkpoints.keep_last()


def save_agent(agent: Agent, folder: Path) -> None:
    """Store an agent whole or not at all, whatever files it makes."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as aside:
        agent.save(Path(aside) / "agent")
        for path in Path(aside).iterdir():
            path.replace(folder / path.name)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_csv(path: Path, rows: pd.DataFrame) -> None:
    """Write rows as a CSV file, whole or not at all."""
    with written_whole(path) as aside:
        rows.to_csv(aside, index=False, lineterminator="\n")
