"""Environments of other packages, named by entry points of an installed package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from spangym.envs import EnvConfig
from spangym.envs.other_environments import other_environments
from spangym.envs.registration import descriptions, list_envs, register_environments
from spangym.experiments.benchmarks.baselines import measure_baselines
from spangym.experiments.studies.load_study import load_study
from spangym.experiments.trials.watch_episode import load_policy, render_episode

MODULE = """
ENVIRONMENTS = {
    "acme/Bells-v0": {
        "description": "count the bells",
        "kwargs": {
            "dataset": "acme_bells_data:Bells", "ctx": 16, "dims": 16, "heads": 2, "num_actions": 3,
            "chunks_per_episode": 2, "cost_coef": 0.5,
        },
    },
    "acme/Plain-v0": {"description": "no arguments"},
}

BROKEN = {"acme/Bells-v0": {"descripton": "?"}}
NO_NAMESPACE = {"Bells-v0": {"description": "count the bells"}}
SPANGYM = {"spangym/Bells-v0": {"description": "count the bells"}}
NO_DESCRIPTION = {"acme/Bells-v0": {}}
KWARGS = {"acme/Bells-v0": {"description": "count the bells", "kwargs": [1]}}
NO_TABLE = 3
"""
DATA = """
import numpy as np

from spangym.envs import Dataset, Stream


class Bells(Dataset):
    def sample(self, generator, chunks, ctx):
        bells = generator.integers(2, size=(chunks, ctx), dtype=np.uint8)
        return Stream(bells, ("bells",) * chunks)
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package with entry points in a temporary folder."""
    monkeypatch.syspath_prepend(tmp_path)
    known = {*gym.registry}

    def install_package(**entry_points: str) -> None:
        (tmp_path / "acme_bells.py").write_text(MODULE)
        (tmp_path / "acme_bells_data.py").write_text(DATA)
        info = tmp_path / "acme_bells-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bells\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[spangym.environments]", *lines]))

    yield install_package
    for name in {*gym.registry} - known:
        del gym.registry[name]
    for module in ("acme_bells", "acme_bells_data"):
        sys.modules.pop(module, None)


def test_environments_of_an_installed_package_are_registered(install: Install):
    install(bells="acme_bells:ENVIRONMENTS")
    assert list_envs()[-2:] == ["acme/Bells-v0", "acme/Plain-v0"]
    assert descriptions()["acme/Bells-v0"] == "count the bells"
    register_environments()
    env = gym.make("acme/Bells-v0")
    _, info = env.reset(seed=0)
    assert info["content_type"] == "bells"
    assert gym.make_vec("acme/Bells-v0", 2).reset(seed=0)[0].shape[0] == 2
    # Studies, baselines and rendered episodes take them as spangym's own.
    suite = {each.id: each for each in load_study("suite").environments}
    assert suite["acme/Plain-v0"].name == "Plain-v0"
    assert suite["acme/Plain-v0"].has_user_code
    # The suite's Refiner has ten actions.
    assert "acme/Bells-v0" not in suite
    row = measure_baselines("acme/Bells-v0", 2, lambda *_: None)
    assert len(row.fixed) == 3
    policy = load_policy("acme/Bells-v0", "random", 0)
    assert isinstance(policy.config, EnvConfig)
    assert "bells" in next(iter(render_episode(policy, 0, "ansi")))


def test_the_command_line_lists_them(install: Install, tmp_path: Path):
    install(bells="acme_bells:ENVIRONMENTS")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "spangym", "list", "envs", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["acme/Bells-v0"] == "count the bells"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("acme_bells:BROKEN", "unknown key 'descripton'; did you mean 'description'"),
        ("acme_bells:NO_NAMESPACE", "must be named PACKAGE/Name-v0"),
        ("acme_bells:SPANGYM", "must be named PACKAGE/Name-v0"),
        ("acme_bells:NO_DESCRIPTION", "lacks a description"),
        ("acme_bells:KWARGS", "kwargs must be a dict"),
        ("acme_bells:NO_TABLE", "must name a dict of environments by id"),
        ("acme_bells:GONE", "'GONE'"),
        ("acme_gone:ENVIRONMENTS", "no module 'acme_gone'"),
    ],
)
def test_wrong_entry_points_are_warnings(install: Install, value: str, message: str):
    install(bells="acme_bells:ENVIRONMENTS", wrong=value)
    with pytest.warns(UserWarning, match=f"entry point 'wrong'.*{message}"):
        found: Any = other_environments()
    # The others are there all the same.
    assert "acme/Plain-v0" in found
