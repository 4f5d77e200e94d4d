"""A comparison small enough for the tests: real layers, real text, few steps."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from spangym.experiments.cli.entry import main
from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.studies.study import Study

TINY = """
name = "tiny"
total_timesteps = 64
seeds = [0, 1]

[[environments]]
id = "spangym/SpanControl-v0"
kwargs = { dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, win_size = 16 }

[evaluation]
episodes = 2
regret_episodes = 0

[[agents]]
algo = "refiner"
name = "pooled"
pool_groups = 2

[[agents]]
algo = "dqn"
hyperparameters = { gamma = 0.5 }
"""


@pytest.fixture(scope="session")
def tiny() -> Study:
    return parse_study(TINY, "tiny")


@pytest.fixture(scope="session")
def tiny_without_learners(tiny: Study) -> Study:
    return dataclasses.replace(tiny, agents=())


def spangym(arguments: Sequence[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [str(Path(sys.executable).with_name("spangym")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of a complete run, made once for all test processes; not to be changed."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder = place / "finished"
    with FileLock(place / "finished.lock"):
        if not (folder / "stdout.txt").exists():
            folder.mkdir()
            (folder / "tiny.toml").write_text(TINY)
            done = spangym(["compare", "tiny.toml", "--out", "run", "--workers", 2], folder)
            assert done.returncode == 0, done.stderr
            (folder / "stdout.txt").write_text(done.stdout)
    return folder / "run", (folder / "stdout.txt").read_text()


@pytest.fixture
def copied_run(finished_run: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished run, which may be changed."""
    return Path(shutil.copytree(finished_run[0], tmp_path / "copied"))


@pytest.fixture
def other_run(finished_run: tuple[Path, str], tmp_path: Path) -> Path:
    """Another run, in which the trials of dqn have other keys and so count as other trials."""
    folder = Path(shutil.copytree(finished_run[0], tmp_path / "other"))
    jobs = folder / "jobs.json"
    text = jobs.read_text()
    for seed in (0, 1):
        path = trial_folder(folder, f"dqn/seed-{seed}")
        path.rename(path.with_name(f"seed-{seed}-0123456789abcdef"))
        text = text.replace(path.name, f"seed-{seed}-0123456789abcdef")
    jobs.write_text(text)
    return folder


def trial_folder(run: Path, name: str) -> Path:
    """Folder of a trial of the tiny study, by agent and seed."""
    (path,) = run.glob(f"jobs/SpanControl-v0/{name}-*")
    return path


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line within this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["spangym", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
