"""Policies trained on the returns of all action sequences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.benchmarks.ceiling import (
    CeilingBench,
    CeilingRow,
    Levels,
    Policy,
    read_levels,
)
from spangym.experiments.cli.app import app


def solvable(count: int, seed: int) -> Levels:
    """Levels of three actions and two layers, whose best sequence is all that observations show.

    The second layer sees its best action only after the right first one.
    """
    rng = np.random.default_rng(seed)
    first, second = rng.integers(3, size=(2, count))
    shown = np.zeros((count, 3, 3), np.float32)
    rows = np.arange(count)
    shown[rows, first, second] = 1
    returns = np.zeros((count, 9), np.float32)
    returns[rows, 3 * first + second] = 1
    observations = [np.eye(3, dtype=np.float32)[first][:, None], shown]
    return Levels(
        [torch.from_numpy(each) for each in observations],
        torch.from_numpy(returns),
        torch.from_numpy(first),
    )


def test_the_policy_reaches_the_oracle_where_observations_show_everything():
    bench = CeilingBench(epochs=60, batch=32, hidden=16)
    policy = bench.train(solvable(128, 0), solvable(32, 1), seed=0)
    held_out = solvable(32, 2)
    assert policy.greedy_return(held_out) == 1.0
    best_fixed, content_oracle, oracle = held_out.bounds()
    assert best_fixed < content_oracle < oracle == 1.0
    row = CeilingRow("a", "held-out", 32, best_fixed, content_oracle, oracle, (1.0, best_fixed))
    assert row.share == pytest.approx(0.5)
    assert CeilingRow("a", "held-out", 1, 0.5, 0.5, 0.5, (0.5,)).share is None


def test_probabilities_of_action_sequences():
    levels = solvable(5, 0)
    policy = Policy(levels, 8).requires_grad_(False)
    first, second = (logits.softmax(-1) for logits in policy(levels))
    joint = policy.probabilities(levels)
    assert joint.sum(1).tolist() == pytest.approx([1.0] * 5)
    assert float(joint[3, 3 * 2 + 1]) == pytest.approx(float(first[3, 0, 2] * second[3, 2, 1]))


def test_levels_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))
    path = tmp_path / "ceiling.json"
    words = ["bench", "ceiling", "LongRange-v0", "--seeds", "1", "--workers", "1"]
    sizes = ["--num-levels", "20", "--eval-levels", "2", "--set", "num_actions=2"]
    done = CliRunner().invoke(app, [*words, *sizes, "--json", str(path)], catch_exceptions=False)
    assert "digits" in done.output
    rows = json.loads(path.read_text())["rows"]
    assert [(row["levels"], row["num_levels"]) for row in rows] == [
        ("held-out", 2),
        ("evaluation", 2),
    ] * 2
    for row in rows:
        assert row["best_fixed"] <= row["content_oracle"] + 1e-6 <= row["oracle"] + 2e-6

    bench = CeilingBench("LongRange-v0", {"num_actions": 2}, 20, 2)
    config = bench.config("evaluation", {"encoding": "box"})
    levels = read_levels(config)
    assert [tuple(each.shape[:2]) for each in levels.observations] == [(2, 1), (2, 2)]
    env = SB3SpanControlVecEnv(config, 1)
    env.seed(0)
    observation = env.reset()
    level = env.reset_infos[0]["level"]
    assert levels.observations[0][level, 0].tolist() == observation[0].tolist()
    rewards = [env.step(np.array([action]))[1][0] for action in (1, 0)]
    assert float(levels.returns[level, 2]) == pytest.approx(sum(rewards), abs=1e-6)
