"""``spangym pretrain``, and runs with the user's own weights and content."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from spangym.envs.model.model_checkpoint import load_metadata, serialize
from spangym.envs.model.pretrain import PRETRAIN_CONFIGS
from spangym.experiments.cli.app import app
from spangym.utils.errors import UserError
from tests.factories import SMALL_PRETRAIN, pretrained_stack


def test_pretrain_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PRETRAIN_CONFIGS, "span-budget", SMALL_PRETRAIN)
    path = tmp_path / "new.safetensors"
    done = CliRunner().invoke(
        app, ["pretrain", "SpanBudget-v0", "--out", str(path), "--steps", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "by action" in done.output
    assert load_metadata(str(path))["pretrain_config"]["steps"] == 3


def test_settings_change_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PRETRAIN_CONFIGS, "span-budget", SMALL_PRETRAIN)
    path = tmp_path / "new.safetensors"
    command = ["pretrain", "SpanBudget-v0", "--out", str(path), "--steps", "3"]
    changes = ["--set", "model.dims=8", "--set", "batch=2", "--set", "dataset=digits"]
    done = CliRunner().invoke(app, [*command, *changes])
    assert done.exit_code == 0, done.output
    config = load_metadata(str(path))["pretrain_config"]
    assert (config["model"]["dims"], config["batch"], config["dataset"]) == (8, 2, "digits")
    for wrong in ("model.dim=8", "model.dims=wide", "dataset=gone", "steps=4", "batch=0"):
        done = CliRunner().invoke(app, [*command, "--set", wrong])
        assert isinstance(done.exception, UserError), done.output


STUDY = """
name = "own-weights"
total_timesteps = 4
seeds = [0]
[[environments]]
id = "spangym/SpanControl-v0"
kwargs.checkpoint = "own.safetensors"
kwargs.dataset = "own.txt"
kwargs.reward = "task"
kwargs.chunks_per_episode = 1
[evaluation]
episodes = 1
"""


def test_a_run_with_weights_and_content_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From another folder it can be replayed; changed or missing files are named."""
    (tmp_path / "own.safetensors").write_bytes(serialize(pretrained_stack(), {}))
    (tmp_path / "own.txt").write_text("abcdefgh" * 100)
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["compare", "study.toml", "--out", "run", "--workers", "1"])
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = runner.invoke(app, ["validate", "../run"])
    assert done.exit_code == 0, done.output
    assert "13 of 13 episodes" in done.output
    (tmp_path / "own.txt").write_text("hgfedcba" * 100)
    done = runner.invoke(app, ["validate", "../run"])
    assert done.exit_code == 1
    assert "manifest.json" in done.output
    (tmp_path / "own.txt").write_text("abcdefgh" * 100)
    (tmp_path / "own.safetensors").write_bytes(serialize(pretrained_stack(), {"another": 1}))
    for command, said in (
        (["compare", "--resume", "../run"], "different weights"),
        (["validate", "../run"], "neither shipped"),
    ):
        done = runner.invoke(app, command)
        assert isinstance(done.exception, UserError)
        assert said in str(done.exception)
        (tmp_path / "own.safetensors").unlink(missing_ok=True)
    assert runner.invoke(app, ["curves", "../run", "--figure", "pareto"]).exit_code == 0
