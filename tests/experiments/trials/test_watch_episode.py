"""``spangym watch``: an episode as a video or as text."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spangym.envs import SpanControlEnv
from spangym.experiments.cli.entry import main
from spangym.utils.text import slug

from ..conftest import trial_folder

ID = "spangym/SpanControl-v0"
FRAMES = 8 * 2 + 1
"""Of the id's episode, one before the first decision."""

Watch = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The command within this process and an own folder; gives the exit code."""

    def watch(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["spangym", "watch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    monkeypatch.chdir(tmp_path)
    return watch


@pytest.fixture(scope="session")
def trained(finished_run: tuple[Path, str]) -> Path:
    return finished_run[0]


def read_mp4(path: Path) -> list[np.ndarray[Any, Any]]:
    reader = imageio_ffmpeg.read_frames(path)
    width, height = next(reader)["size"]
    return [np.frombuffer(each, np.uint8).reshape(height, width, 3) for each in reader]


def test_mp4_shows_every_decision(run: Watch, capsys: pytest.CaptureFixture[str]):
    assert run(ID, "--agent", "fixed:3", "--video", "new/fixed.mp4", "--seed", 4) == 0
    assert f"written: new/fixed.mp4 ({FRAMES} frames)" in capsys.readouterr().out
    frames = read_mp4(Path("new/fixed.mp4"))
    assert len(frames) == FRAMES
    assert [each.name for each in Path("new").iterdir()] == ["fixed.mp4"]
    env = SpanControlEnv(render_mode="rgb_array", split="evaluation")
    env.reset(seed=4)
    np.testing.assert_allclose(frames[0], env.render(), atol=60)
    for _ in range(FRAMES - 1):
        env.step(3)
    assert np.abs(frames[-1].astype(int) - env.render()).mean() < 3


def test_gif_of_a_trained_agent(run: Watch, trained: Path):
    assert run(trained, "--agent", "dqn", "--train-seed", 1, "--video", "dqn.gif") == 0
    with Image.open("dqn.gif") as video:
        assert (video.format, getattr(video, "n_frames", 1)) == ("GIF", 2 * 2 + 1)
        assert video.info["duration"] == 250


@pytest.mark.parametrize("agent", ["pooled", "dqn", "fixed:9"])
def test_a_trained_agent_plays_as_in_its_evaluation(
    run: Watch, trained: Path, agent: str, capsys: pytest.CaptureFixture[str]
):
    """The study says how the agent observes and what the layers are like."""
    folder = trial_folder(trained, f"{slug(agent)}/seed-0")
    arguments = ["--agent", agent, "--env", "SpanControl-v0", "--seed", 1_000_001]
    assert run(trained, *arguments) == 0
    pictures = capsys.readouterr().out.strip().split("\n\n")
    assert len(pictures) == 2 * 2 + 1
    evaluation = pd.read_csv(folder / "evaluation.csv")
    assert f"return {evaluation['return'][1]:+.3g}," in pictures[-1]


def test_text_is_the_same_for_the_same_seed(run: Watch, capsys: pytest.CaptureFixture[str]):
    printed = []
    for seed in (0, 0, 1):
        assert run(ID, "--agent", "random", "--seed", seed) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert printed[0].count("return ") == FRAMES
    for said in ("chunk 1/8", "chunk 8/8", "window ", "span ", "reward ", "not yet decided"):
        assert said in printed[0]


CUSTOM = """
class Mine:
    def choose_action(self, state):
        return 7
    def update(self, state, action, reward, next_state):
        pass

class Raises(Mine):
    def choose_action(self, state):
        raise KeyError("not today")

class TooFar(Mine):
    def choose_action(self, state):
        return 10

class Unmakeable(Mine):
    def __init__(self):
        raise KeyError("no key")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_watched.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_watched", raising=False)
    return "own_watched"


def test_a_refiner_of_ones_own_plays(run: Watch, own: str, capsys: pytest.CaptureFixture[str]):
    assert run(ID, "--agent", f"{own}:Mine") == 0
    mine = capsys.readouterr().out
    assert run(ID, "--agent", "fixed:7") == 0
    assert capsys.readouterr().out == mine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", "failed: KeyError: 'not today'"),
        ("TooFar", "action must be an integer in 0..9"),
        ("Unmakeable", "cannot be made: KeyError: 'no key'"),
        ("Nobody", "has no class 'Nobody'"),
    ],
)
def test_a_refiner_that_fails_leaves_no_video(
    run: Watch, own: str, name: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(ID, "--agent", f"{own}:{name}", "--video", "a.mp4") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"agent '{own}:{name}'" in line
    assert message in line
    assert not [*Path().glob("*.mp4")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ID, "--agent", "refinr"], "agent 'refinr' is unknown; did you mean 'refiner'"),
        ([ID, "--agent", "ppo"], "agent 'ppo' has to be trained first: watch it in a run"),
        (
            [ID, "--agent", "fixed:12"],
            "'fixed:12': environment 'spangym/SpanControl-v0' has actions 0..9",
        ),
        ([ID, "--agent", "random", "--train-seed", 1], "no folder of a run"),
        ([".", "--agent", "dqn"], "folder '.' is not a run folder of `spangym compare`"),
        (["SpanContrl-v0", "--agent", "random"], "did you mean 'spangym/SpanControl-v0'"),
        ([ID, "--agent", "random", "--video", "a.avi"], "'a.avi' must end in .mp4 or .gif"),
        ([ID, "--agent", "random", "--video", "mp4"], "'mp4' must end in .mp4 or .gif"),
        ([ID, "--agent", "random", "--video", "/dev/null/a.gif"], "since '/dev/null' cannot"),
        ([ID, "--agent", "random", "--seed", -1], "--seed"),
        ([ID], "missing option '--agent'"),
    ],
)
def test_mistakes_are_told_in_a_line(
    run: Watch, arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]
):
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("spangym: ")
    assert message in line
    assert not printed.out


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied"))


def test_trials_that_cannot_be_watched(
    run: Watch, copied: Path, capsys: pytest.CaptureFixture[str]
):
    damaged, unfinished = (trial_folder(copied, f"dqn/seed-{seed}") for seed in (0, 1))
    (damaged / "agent.safetensors").write_bytes(b"no tensors")
    (unfinished / "result.json").unlink()
    for arguments, message in (
        ([], "cannot be read: "),
        (["--train-seed", 1], "is not finished: resume"),
        (["--env", "SpanBudget-v0"], "no agent 'dqn' in environment 'SpanBudget-v0'"),
    ):
        assert run(copied, "--agent", "dqn", *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_missing_package_is_told(
    run: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert run(ID, "--agent", "fixed:9", "--video", "a.mp4") == 2
    assert "pip install 'spangym[video]'" in capsys.readouterr().err
    assert run(ID, "--agent", "fixed:9", "--video", "a.gif") == 0


def test_settings_change_the_environment(run: Watch, capsys: pytest.CaptureFixture[str]):
    changes = ("chunks_per_episode=1", f"{ID}.ctx=32", "SpanControl-v0.dims=8", "heads=2")
    options = [word for each in changes for word in ("--set", each)]
    assert run("SpanControl-v0", "--agent", "fixed:3", *options) == 0
    assert "chunk 1/1" in capsys.readouterr().out
    for wrong, word in (("ctxx=3", "'ctx'"), ("ctx=many", "'many'"), ("LongRange-v0.ctx=3", "ctx")):
        assert run("SpanControl-v0", "--agent", "fixed:3", "--set", wrong) == 2
        assert word in capsys.readouterr().err


def test_settings_change_the_environment_of_a_trained_agent(
    finished_run: tuple[Path, str], run: Watch, capsys: pytest.CaptureFixture[str]
):
    folder, _ = finished_run
    command = (folder, "--agent", "pooled", "--set")
    assert run(*command, "chunks_per_episode=1") == 0
    assert "chunk 1/1" in capsys.readouterr().out
    assert run(*command, "dims=16") == 2
    assert "'dims'" in capsys.readouterr().err
