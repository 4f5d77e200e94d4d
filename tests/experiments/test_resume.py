"""Trainings that are killed and gone on with come out as if they had never been interrupted."""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.studies.study import Study, Trial
from spangym.experiments.trials.checkpoints import Checkpoints
from spangym.experiments.trials.train import run_trial
from spangym.utils.serialization import load_state

STUDY = """
name = "killed"
total_timesteps = 640
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
hyperparameters = { buffer_size = 300, normalize = true }

[[agents]]
algo = "ppo"
hyperparameters = { n_steps = 16, batch_size = 32, learning_rate = { start = 1e-2, end = 1e-4 } }
"""


@pytest.fixture(scope="module")
def study() -> Study:
    return parse_study(STUDY, "killed")


def work(trial: Trial, folder: Path, connection: Any) -> None:
    torch.set_num_threads(1)
    reported = False

    def progress(done: int) -> None:
        nonlocal reported
        if not reported:
            connection.send(done)
        reported = True

    run_trial(trial, folder, progress, checkpoint_seconds=0.02)


def start(*job: Any) -> tuple[ForkServerProcess, multiprocessing.connection.Connection]:
    """A process that runs a trial; a fork server, lest each imports everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spangym.experiments.trials.train", __name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*job, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def same_rows(one: Path, other: Path) -> None:
    left, right = (
        pd.read_csv(each / "curve.csv", dtype=str).drop(columns="wall_seconds")
        for each in (one, other)
    )
    pd.testing.assert_frame_equal(left, right)
    name = "evaluation.csv"
    assert (one / name).read_bytes() == (other / name).read_bytes()


def same_agents(one: Path, other: Path) -> None:
    (path,) = one.glob("agent.*")
    assert path.read_bytes() == (other / path.name).read_bytes()


@pytest.mark.parametrize("agent", ["refiner", "dqn", "ppo"])
@pytest.mark.parametrize("most", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_comes_out_the_same(
    study: Study, agent: str, most: int, tmp_path: Path
):
    # The more kills, the longer, so that several rollouts fit between two of them.
    study = dataclasses.replace(study, total_timesteps=study.total_timesteps * most // 4)
    trial = next(each for each in study.trials() if each.agent.algo == agent)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    run_trial(trial, whole, lambda _: None)
    seconds = time.monotonic() - began
    generator = np.random.default_rng(0)
    kills, reached = 0, []
    while not (killed / "result.json").exists():
        process, connection = start(trial, killed)
        with contextlib.suppress(EOFError):
            reached.append(connection.recv())
        if kills < most:
            # In training as well as in evaluation, and while a checkpoint is written.
            time.sleep(generator.uniform(0, seconds / most))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
    assert kills >= most * 3 / 4
    # It went on, and did not begin again each time.
    assert len(set(reached)) > kills / 4, reached
    same_rows(whole, killed)
    same_agents(whole, killed)


class Killed(Exception):  # noqa: N818  (a moment, no error)
    """Stands for a kill, where the moment matters."""


def run_until(trial: Trial, folder: Path, steps: int) -> None:
    def progress(done: int) -> None:
        if done >= steps:
            raise Killed

    with contextlib.suppress(Killed):
        run_trial(trial, folder, progress, checkpoint_seconds=0.0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    study: Study, damage: str, tmp_path: Path
):
    trial = study.trials()[0]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run_trial(trial, whole, lambda _: None)
    run_until(trial, killed, 120)
    before, last = sorted((killed / "checkpoints").iterdir())
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes({"cut": content[:-9], "flipped": content, "empty": b""}[damage])
    half = last.with_name(f".77-{last.name}")
    half.write_bytes(b"half")
    notes: list[str] = []
    run_trial(trial, killed, lambda _: None, notes.append)
    assert notes == [f"checkpoint {last} is damaged and not used"]
    assert not before.exists()
    assert not half.exists()
    same_rows(whole, killed)
    same_agents(whole, killed)


def test_without_a_whole_checkpoint_it_begins_again(study: Study, tmp_path: Path):
    trial = study.trials()[0]
    run_until(trial, tmp_path, 120)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    notes: list[str] = []
    steps: list[int] = []
    run_trial(trial, tmp_path, steps.append, notes.append)
    assert len(notes) == 2
    assert steps[0] == study.n_envs


@pytest.mark.parametrize("agent", ["refiner", "dqn", "ppo"])
def test_a_finished_training_is_made_longer(study: Study, agent: str, tmp_path: Path):
    trial = next(each for each in study.trials() if each.agent.algo == agent)
    run_trial(dataclasses.replace(trial, total_timesteps=320), tmp_path, lambda _: None)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    first = (tmp_path / "curve.csv").read_text()
    steps: list[int] = []
    longer = dataclasses.replace(trial, resumed_from_steps=(320,))
    run_trial(longer, tmp_path, steps.append)
    # All that was learned stays: it goes on from the last rest.
    assert steps[0] > 320 - 2 * 32
    assert (tmp_path / "curve.csv").read_text().startswith(first[: len(first) // 2])
    rows = pd.read_csv(tmp_path / "curve.csv")
    assert rows["step"].tolist() == sorted(rows["step"])
    assert len(rows) == 640 // 4
    assert not kept.exists()
    # In a folder of its own it goes the same way, by way of the earlier end.
    another = tmp_path / "another"
    another.mkdir()
    run_trial(longer, another, lambda _: None)
    same_rows(tmp_path, another)
    same_agents(tmp_path, another)


def test_a_refiner_that_stores_nothing_begins_again(
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
    run_until(study.trial(study.environments[0], entry, 0), folder, 120)
    assert not (folder / "checkpoints").exists()


def test_the_recorder_goes_on_in_its_sums(study: Study, tmp_path: Path):
    """In mid-episode, too: totals, rows and streams."""
    trial = study.trials()[0]
    run_until(trial, tmp_path, 102)
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
