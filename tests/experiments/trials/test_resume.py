"""Resumed trials are byte-identical to uninterrupted ones, except for wall-clock times."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from spangym.envs import tabulate
from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.checkpoints import Checkpoints
from spangym.experiments.trials.trial import Trial, make_trial
from spangym.utils.serialization import load_state

STUDY = """
name = "killed"
total_timesteps = 320
seeds = [3]
n_envs = 2

[[environments]]
id = "spangym/SpanControl-v0"
kwargs = { dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, win_size = 16 }

[evaluation]
episodes = 2
regret_episodes = 0

[[agents]]
algo = "refiner"
pool_groups = 2
hyperparameters = { epsilon = 0.3 }

[[agents]]
algo = "dqn"
hyperparameters = { buffer_size = 150, learning_starts = 40, normalize = true }

[[agents]]
algo = "ppo"
hyperparameters = { n_steps = 16, batch_size = 32, learning_rate = { start = 1e-2, end = 1e-4 } }
"""

AGENTS = ("refiner", "dqn", "ppo")


@pytest.fixture(scope="module")
def study() -> Study:
    return parse_study(STUDY, "killed")


def trial_of(study: Study, algo: str) -> Trial:
    agent = next(each for each in study.agents if each.algo == algo)
    return make_trial(study, study.environments[0], agent, 3)


@pytest.fixture(scope="module")
def uninterrupted(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the uninterrupted trial of an agent, run once for all tests."""
    place = tmp_path_factory.mktemp("uninterrupted")

    def run(algo: str) -> Path:
        folder = place / algo
        if not folder.exists():
            folder.mkdir()
            trial_of(study, algo).run(folder)
        return folder

    return run


def assert_equal_results(one: Path, other: Path) -> None:
    left, right = (
        pd.read_csv(each / "curve.csv", dtype=str).drop(columns="wall_seconds")
        for each in (one, other)
    )
    pd.testing.assert_frame_equal(left, right)
    (agent,) = one.glob("agent.*")
    for name in ("evaluation.csv", "action_counts.csv", agent.name):
        assert (one / name).read_bytes() == (other / name).read_bytes()


class Interrupt(Exception):  # noqa: N818  (not an error)
    """Ends a trial at a given step, in place of a kill."""


def run_until(trial: Trial, folder: Path, steps: int) -> None:
    def progress(done: int) -> None:
        if done >= steps:
            raise Interrupt

    with contextlib.suppress(Interrupt):
        trial.run(folder, progress, checkpoint_seconds=0.0)


@pytest.mark.parametrize(
    ("algo", "steps"), [("refiner", 102), ("dqn", 102), ("ppo", 102), ("refiner", 322)]
)
def test_interrupted_trial_is_resumed(
    study: Study, uninterrupted: Callable[[str], Path], algo: str, steps: int, tmp_path: Path
):
    """Interrupted in the middle of an episode, and in the evaluation."""
    trial = trial_of(study, algo)
    run_until(trial, tmp_path, steps)
    assert not (tmp_path / "result.json").exists()
    seen: list[int] = []
    trial.run(tmp_path, seen.append)
    assert seen[0] > min(steps, trial.total_timesteps) - 2 * 32
    assert_equal_results(uninterrupted(algo), tmp_path)


@pytest.mark.parametrize("algo", AGENTS)
def test_training_on_a_table_equals_the_live_one_and_is_resumed(
    study: Study, algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The original Refiner reads observations of the layers' outputs, too."""
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "cache"))
    kwargs = study.environments[0].kwargs
    tabulate("SpanControl-v0", **(kwargs | {"num_levels": 4, "backend": "live"}))
    folders = {}
    for backend in ("live", "table"):
        own = kwargs | {"num_levels": 4, "backend": backend}
        environment = dataclasses.replace(study.environments[0], kwargs=own)
        on_levels = dataclasses.replace(study, environments=(environment,))
        folders[backend] = folder = tmp_path / backend
        folder.mkdir()
        trial = trial_of(on_levels, algo)
        if backend == "table":
            run_until(trial, folder, 102)
        trial.run(folder)
    assert_equal_results(folders["live"], folders["table"])


def work(trial: Trial, folder: Path, connection: Any) -> None:
    torch.set_num_threads(1)
    reported = False

    def progress(done: int) -> None:
        nonlocal reported
        if not reported:
            connection.send(done)
            reported = True

    trial.run(folder, progress, checkpoint_seconds=0.02)


def start(*job: Any) -> tuple[ForkServerProcess, multiprocessing.connection.Connection]:
    """Start a trial in a process; a fork server imports everything once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spangym.experiments.trials.trial", __name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*job, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.parametrize(
    ("algo", "most"),
    [("refiner", 2), *(pytest.param(algo, 20, marks=pytest.mark.slow) for algo in AGENTS)],
)
def test_trial_killed_at_random_times(study: Study, algo: str, most: int, tmp_path: Path):
    # More kills need a longer training, so that several rollouts fit between two of them.
    steps = study.total_timesteps * max(1, most // 2)
    trial = trial_of(dataclasses.replace(study, total_timesteps=steps), algo)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start_time = time.monotonic()
    trial.run(whole)
    seconds = time.monotonic() - start_time
    generator = np.random.default_rng(0)
    kills, reached = 0, []
    while not (killed / "result.json").exists():
        process, connection = start(trial, killed)
        with contextlib.suppress(EOFError):
            reached.append(connection.recv())
        if kills < most:
            # In training and evaluation, and while a checkpoint is written.
            time.sleep(generator.uniform(0, seconds / most))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
    assert kills >= most / 2
    # It was resumed and did not start over each time.
    assert len(set(reached)) > kills / 4, reached
    assert_equal_results(whole, killed)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    study: Study, uninterrupted: Callable[[str], Path], damage: str, tmp_path: Path
):
    trial = trial_of(study, "refiner")
    run_until(trial, tmp_path, 120)
    before, last = sorted((tmp_path / "checkpoints").iterdir())
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes({"cut": content[:-9], "flipped": content, "empty": b""}[damage])
    half_written = last.with_name(f".77-{last.name}")
    half_written.write_bytes(b"half")
    messages: list[str] = []
    trial.run(tmp_path, log=messages.append)
    (message,) = messages
    assert str(last) in message
    assert "damaged" in message
    assert not before.exists()
    assert not half_written.exists()
    assert_equal_results(uninterrupted("refiner"), tmp_path)


def test_without_an_intact_checkpoint_the_trial_starts_over(study: Study, tmp_path: Path):
    trial = trial_of(study, "refiner")
    run_until(trial, tmp_path, 120)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    messages: list[str] = []
    steps: list[int] = []
    trial.run(tmp_path, steps.append, messages.append)
    assert len(messages) == 2
    assert steps[0] == study.n_envs


@pytest.mark.parametrize("algo", AGENTS)
def test_finished_training_is_made_longer(
    study: Study, uninterrupted: Callable[[str], Path], algo: str, tmp_path: Path
):
    whole = uninterrupted(algo)
    short = tmp_path / "short"
    short.mkdir()
    trial = trial_of(study, algo)
    dataclasses.replace(trial, total_timesteps=160).run(short)
    (kept,) = (short / "checkpoints").iterdir()
    first = (short / "curve.csv").read_text()
    steps: list[int] = []
    longer = dataclasses.replace(trial, resumed_from_steps=(160,))
    longer.run(short, steps.append)
    # Nothing that was learned is lost: the training continues from the last checkpoint.
    assert steps[0] > 160 - 2 * 32
    assert (short / "curve.csv").read_text().startswith(first[: len(first) // 2])
    rows = pd.read_csv(short / "curve.csv")
    assert rows["step"].tolist() == sorted(rows["step"])
    assert len(rows) == len(pd.read_csv(whole / "curve.csv")) == 320 // 4
    assert not kept.exists()
    # Another folder leads to the same results, by way of the earlier end.
    another = tmp_path / "another"
    another.mkdir()
    longer.run(another)
    assert_equal_results(short, another)


def test_refiner_without_state_starts_over(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "forgetful.py").write_text(
        "class Mine:\n"
        "    def choose_action(self, state):\n        return 3\n"
        "    def update(self, state, action, reward, next_state):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(study.agents[0], algo="forgetful:Mine", hyperparameters={})
    folder = tmp_path / "trial"
    folder.mkdir()
    run_until(make_trial(study, study.environments[0], entry, 0), folder, 120)
    assert not (folder / "checkpoints").exists()


def test_checkpoint_holds_the_sums_of_an_unfinished_episode(study: Study, tmp_path: Path):
    run_until(trial_of(study, "refiner"), tmp_path, 102)
    stored = load_state(sorted((tmp_path / "checkpoints").iterdir())[-1])
    recorder = stored["recorder"]
    assert recorder["steps"] == 100
    assert recorder["steps"] % (4 * study.n_envs) != 0
    assert [totals["steps"] for totals in recorder["stats"]] == [2, 2]


def test_only_the_last_two_checkpoints_stay(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.read(lambda _: None) is None
    for step in (5, 10, 15):
        checkpoints.write(step, {"step": step})
    assert len(list(checkpoints.folder.iterdir())) == 2
    assert checkpoints.read(lambda _: None) == {"step": 15}
    checkpoints.prune()
    assert len(list(checkpoints.folder.iterdir())) == 1
