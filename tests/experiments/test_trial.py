import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spangym.agents import FixedAgent
from spangym.envs import SpanControlEnv, SpanControlVecEnv
from spangym.experiments.evaluation import evaluate
from spangym.experiments.recorder import Recorder
from spangym.experiments.studies import Study, Trial
from spangym.experiments.trial import decisions, run_trial, stream_seed

COLUMNS = [
    "step",
    "episode",
    "return",
    "reward_coverage",
    "reward_entropy",
    "reward_price",
    "mean_span",
    "visited_keys",
    "wall_seconds",
]


def test_curve_holds_what_the_environment_did(tiny: Study, tmp_path: Path):
    """Two lanes of a fixed span, against scalar environments with the same seeds."""
    settings = tiny.training(tiny.agents[0])
    env = SpanControlVecEnv(settings, 2)
    seen: list[int] = []
    recorder = Recorder(env, tmp_path, env.simulator.reward.parts, 16, 7, seen.append)
    recorder.seed(99)  # What an agent asks for does not change the streams.
    FixedAgent(6).learn(recorder, 16)
    recorder.close()
    rows = pd.read_csv(tmp_path / "curve.csv")
    assert list(rows.columns) == COLUMNS
    assert rows["step"].tolist() == [8, 8, 16, 16]
    assert rows["episode"].tolist() == [0, 1, 2, 3]
    assert seen == [2, 4, 6, 8, 10, 12, 14, 16]
    scalars = [SpanControlEnv(dims=8, heads=2, ctx=16, chunks=2, win_size=16) for _ in range(2)]
    for episode in range(2):
        for lane, scalar in enumerate(scalars):
            scalar.reset(seed=7 + lane if episode == 0 else None)
            steps = [scalar.step(6) for _ in range(4)]
            row = rows.iloc[2 * episode + lane]
            assert row["return"] == pytest.approx(sum(step[1] for step in steps))
            infos = [step[4] for step in steps]
            assert row["mean_span"] == np.mean([info["span"] for info in infos])
            assert row["visited_keys"] == sum(info["visited_keys"] for info in infos)
            entropy = sum(info["reward_parts"]["entropy"] for info in infos)
            assert row["reward_entropy"] == pytest.approx(entropy)
    board = EventAccumulator(str(tmp_path)).Reload()
    scalars = [event.value for event in board.Scalars("training/return")]
    assert scalars == pytest.approx(rows["return"].tolist())


def test_more_steps_than_given_are_refused(tiny: Study, tmp_path: Path):
    env = SpanControlVecEnv(tiny.training(tiny.agents[0]), 1)
    recorder = Recorder(env, tmp_path, env.simulator.reward.parts, 3, 0, lambda _: None)
    with pytest.raises(RuntimeError, match="more than the 3 steps"):
        FixedAgent(1).learn(recorder, 4)
    recorder.close()


def test_streams_and_agents_draw_from_different_seeds():
    streams = [stream_seed(seed) for seed in range(1000)]
    assert len(set(streams)) == 1000
    assert min(streams) > 1000
    assert max(streams) < 2**31


def test_evaluation_is_the_same_for_all_and_repeatable(tiny: Study):
    settings = tiny.judging(tiny.agents[0])
    one, other = (evaluate(FixedAgent(5), settings, 100, 3, lambda _: None) for _ in range(2))
    assert one == other
    assert [row["evaluation_seed"] for row in one] == [100, 101, 102]
    scalar = SpanControlEnv(
        dims=8, heads=2, ctx=16, chunks=2, win_size=16, split="evaluation", encoding="state"
    )
    for row in one:
        scalar.reset(seed=row["evaluation_seed"])
        assert row["return"] == pytest.approx(sum(scalar.step(5)[1] for _ in range(4)))


def test_a_trial_leaves_everything_and_result_last(tiny: Study, tmp_path: Path):
    trial, seen = Trial(tiny.agents[0], 1), []
    run_trial(tiny, trial, tmp_path, seen.append)
    names = {each.name for each in tmp_path.iterdir() if "tfevents" not in each.name}
    assert names == {"agent.npz", "checkpoints", "curve.csv", "evaluation.csv", "result.json"}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert seen[-1] == decisions(tiny, trial) == 64 + 2 * 4
    result = json.loads((tmp_path / "result.json").read_text())
    judged = pd.read_csv(tmp_path / "evaluation.csv")
    assert result["training_steps"] == 64
    assert result["evaluation_return"] == pytest.approx(judged["return"].mean())


def test_a_fixed_span_is_not_trained(tiny: Study, tmp_path: Path):
    trial = next(each for each in tiny.trials() if each.entry.agent == "fixed:4")
    run_trial(tiny, trial, tmp_path, lambda _: None)
    assert (tmp_path / "curve.csv").read_text() == ",".join(COLUMNS) + "\n"
