"""One trial: train an agent from a seed, keep it, judge it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..agents.files import written_whole
from ..agents.protocol import is_resumable
from ..envs import SpanControlVecEnv
from .checkpoints import Checkpoints, Clock
from .evaluation import evaluate
from .recorder import Recorder
from .studies import Study, Trial, make_agent, training_steps

CHECKPOINT_SECONDS = 30.0
"""Least time between two checkpoints of a training."""


def decisions(study: Study, trial: Trial) -> int:
    """Steps that a trial takes in training and evaluation together."""
    return study.evaluation.episodes * study.episode_steps + training_steps(study, trial)


def stream_seed(training_seed: int) -> int:
    """Seed of a training's streams: not the agent's, lest both draw the same numbers."""
    return int(np.random.SeedSequence([training_seed, 1]).generate_state(1)[0]) >> 1


def ignore(note: str) -> None:
    """What is done with notes that nobody asks for."""
    del note


def run_trial(
    study: Study,
    trial: Trial,
    folder: Path,
    progress: Callable[[int], None],
    note: Callable[[str], None] = ignore,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Train an agent, store it and evaluate it.

    Writes ``curve.csv``, TensorBoard events, the agent (``agent.*``), ``evaluation.csv`` and, when
    all that is done, ``result.json``. Meanwhile there are checkpoints in ``checkpoints``, if the
    agent's training can be gone on with: if there are any already, the trial goes on from the last.
    The last stays, lest the training is to be longer one day.

    Args:
        study: What is compared.
        trial: Which agent, from which seed.
        folder: Folder of the trial, empty or as an interrupted process left it.
        progress: Called with the steps done, of `decisions`.
        note: Told what the user should know.
        checkpoint_seconds: Least time between checkpoints.

    Raises:
        RuntimeError: The agent took another number of steps than it was given.
    """
    began = time.perf_counter()
    entry, steps = trial.entry, training_steps(study, trial)
    agent = make_agent(entry, trial.seed)
    env = SpanControlVecEnv(study.training(entry), study.lanes)
    checkpoints = Checkpoints(folder / "checkpoints")
    kept = checkpoints.read(note)
    recorder = Recorder(
        env,
        folder,
        env.simulator.reward.parts,
        steps,
        stream_seed(trial.seed),
        progress,
        None if kept is None else kept["recorder"],
    )
    began -= recorder.seconds
    try:
        if steps and is_resumable(agent):
            if kept is not None:
                agent.load_state_dict(kept["agent"])
            clock = Clock(checkpoint_seconds)

            def at_rest(last: bool) -> None:
                if clock.is_due() or last:
                    state = {"agent": agent.state_dict(), "recorder": recorder.state_dict()}
                    checkpoints.write(recorder.steps, state)

            agent.learn(recorder, steps, at_rest)
            checkpoints.keep_last()
        elif steps:
            agent.learn(recorder, steps)
        if recorder.steps != steps:
            raise RuntimeError(f"the agent took {recorder.steps} of {steps} steps")
        agent.save(folder / "agent")
        rows = evaluate(
            agent,
            study.judging(entry),
            study.evaluation.first_seed,
            study.evaluation.episodes,
            lambda judged_steps: progress(steps + judged_steps),
        )
        judged = pd.DataFrame(rows)
        mean_return = float(judged["return"].to_numpy(float).mean())
        recorder.evaluated(mean_return)
    finally:
        recorder.close()
    judged.insert(0, "agent", entry.label)
    judged.insert(1, "training_seed", trial.seed)
    with written_whole(folder / "evaluation.csv") as aside:
        judged.to_csv(aside, index=False, lineterminator="\n")
    result = {
        "agent": entry.label,
        "seed": trial.seed,
        "training_steps": steps,
        "evaluation_return": mean_return,
        "wall_seconds": round(time.perf_counter() - began, 3),
    }
    with written_whole(folder / "result.json") as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
