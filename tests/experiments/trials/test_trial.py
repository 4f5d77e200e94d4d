import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spangym.agents import FixedSpanPolicy
from spangym.envs import SB3SpanControlVecEnv, SpanControlEnv
from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent
from spangym.experiments.trials.evaluate import evaluate, measure_regret
from spangym.experiments.trials.recorder import EpisodeRecorder
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.experiments.trials.trial import Trial, env_seed, trials_of
from tests.factories import as_env_config

COLUMNS = [
    "step",
    "episode",
    "return",
    "reward_coverage",
    "reward_entropy",
    "reward_cost",
    "mean_span",
    "qk_pairs",
    "wall_seconds",
]


def test_curve_agrees_with_scalar_environments(tiny: Study, tmp_path: Path):
    """Two environments of a fixed span, against scalar environments with the same seeds."""
    config = as_env_config(trials_of(tiny)[0].train_config())
    env = SB3SpanControlVecEnv(config, 2)
    seen: list[int] = []
    with contextlib.closing(TrialLogger(tmp_path)) as board:
        components = env.core.reward.components
        recorder = EpisodeRecorder(env, components, tmp_path, board, 16, 7, seen.append)
        recorder.seed(99)  # What an agent asks for does not change the streams.
        FixedSpanPolicy(6).learn(recorder, 16)
        recorder.close()
    rows = pd.read_csv(tmp_path / "curve.csv")
    assert list(rows.columns) == COLUMNS
    assert rows["step"].tolist() == [8, 8, 16, 16]
    assert rows["episode"].tolist() == [0, 1, 2, 3]
    assert seen == [2, 4, 6, 8, 10, 12, 14, 16]
    scalars = [
        SpanControlEnv(dims=8, heads=2, ctx=16, chunks_per_episode=2, win_size=16) for _ in range(2)
    ]
    for episode in range(2):
        for env_index, scalar in enumerate(scalars):
            scalar.reset(seed=7 + env_index if episode == 0 else None)
            steps = [scalar.step(6) for _ in range(4)]
            row = rows.iloc[2 * episode + env_index]
            assert row["return"] == pytest.approx(sum(step[1] for step in steps))
            infos = [step[4] for step in steps]
            assert row["mean_span"] == np.mean([info["span"] for info in infos])
            assert row["qk_pairs"] == sum(info["qk_pairs"] for info in infos)
            entropy = sum(info["reward_components"]["entropy"] for info in infos)
            assert row["reward_entropy"] == pytest.approx(entropy)
    events = EventAccumulator(str(tmp_path), {"histograms": 0}).Reload()
    shown = [event.value for event in events.Scalars("training/return")]
    assert shown == pytest.approx(rows["return"].tolist())
    histograms = [event.histogram_value for event in events.Histograms("training/actions")]
    assert sum(each.num for each in histograms) == 16
    assert all(each.min == 0 and each.sum == 6 * each.num for each in histograms)


def test_more_steps_than_the_budget_raise(tiny: Study, tmp_path: Path):
    env = SB3SpanControlVecEnv(as_env_config(trials_of(tiny)[0].train_config()), 1)
    board = TrialLogger(tmp_path)
    recorder = EpisodeRecorder(env, (), tmp_path, board, 3, 0, lambda _: None)
    with pytest.raises(RuntimeError, match="3 steps"):
        FixedSpanPolicy(1).learn(recorder, 4)
    recorder.close()


def test_streams_and_agents_draw_from_different_seeds():
    streams = [env_seed(seed) for seed in range(1000)]
    assert len(set(streams)) == 1000
    assert min(streams) > 1000
    assert max(streams) < 2**31


def test_evaluation_is_repeatable(tiny: Study):
    config = trials_of(tiny)[0].eval_config()
    one, other = (evaluate(FixedSpanPolicy(5), [config], 100, 3, lambda _: None) for _ in range(2))
    assert one == other
    assert [row["evaluation_seed"] for row in one] == [100, 101, 102]
    scalar = SpanControlEnv(
        dims=8,
        heads=2,
        ctx=16,
        chunks_per_episode=2,
        win_size=16,
        split="evaluation",
        encoding="state",
    )
    for row in one:
        scalar.reset(seed=row["evaluation_seed"])
        assert row["return"] == pytest.approx(sum(scalar.step(5)[1] for _ in range(4)))


def test_trial_writes_all_files(tiny: Study, tmp_path: Path):
    trial, seen = trials_of(tiny)[1], []
    trial.run(tmp_path, seen.append)
    names = {each.name for each in tmp_path.iterdir() if "tfevents" not in each.name}
    tables = {"curve.csv", "evaluation.csv", "action_counts.csv", "regret.csv"}
    assert names == {"job.json", "agent.safetensors", "checkpoints", "result.json", *tables}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert seen[-1] == trial.total == 64 + 2 * 4
    result = json.loads((tmp_path / "result.json").read_text())
    episode_rows = pd.read_csv(tmp_path / "evaluation.csv")
    assert result["total_timesteps"] == 64
    assert result["evaluation_return"] == pytest.approx(episode_rows["return"].mean())
    assert result["regret"] is None
    action_counts = pd.read_csv(tmp_path / "action_counts.csv")
    decisions, spans = (action_counts[name].to_numpy(float) for name in ("count", "mean_span"))
    assert decisions.sum() == 2 * 4
    assert decisions @ spans / 8 == pytest.approx(episode_rows["mean_span"].mean())
    job = json.loads((tmp_path / "job.json").read_text())
    assert (job["agent"]["algo"], job["seed"], job["total_timesteps"]) == ("refiner", 1, 64)


def test_tensorboard_has_the_same_names_for_every_agent(tiny: Study, tmp_path: Path):
    """Scalars, histograms, a figure and the HParams tab's summaries, of a learner and a policy."""
    shown = []
    for trial in (trials_of(tiny)[2], trials_of(tiny)[-1]):
        folder = tmp_path / trial.agent.slug
        folder.mkdir()
        trial.run(folder)
        events = EventAccumulator(str(folder)).Reload()
        tags = events.Tags()
        assert tags["images"] == ["evaluation/spans"]
        assert events.Histograms("evaluation/actions")[0].histogram_value.num == 8
        parts = events.SummaryMetadata("_hparams_/session_start_info")
        assert parts.plugin_data.plugin_name == "hparams"
        shown.append([each for each in tags["scalars"] if each.startswith("evaluation/")])
    assert shown[0] == shown[1]
    assert {"evaluation/return", "evaluation/mean_span", "evaluation/qk_pairs"} <= {*shown[0]}


def test_regret_compares_with_lookahead(tiny: Study):
    """The oracle regrets nothing; a fixed span what the best ways have over its own, summed."""
    oracle, fixed = (
        next(each for each in trials_of(tiny) if each.agent.algo == name)
        for name in ("oracle", "fixed:3")
    )
    regrets = []
    for trial in (oracle, fixed):
        rows = evaluate(trial.make_agent(), [trial.eval_config()], 100, 2, lambda _: None)
        regrets.append(measure_regret(trial.eval_config(), rows))
    assert len(regrets[0]) == len(regrets[1]) == 2 * 4
    assert regrets[0]["regret"].abs().max() == 0
    assert (regrets[1]["regret"] >= 0).all()
    assert regrets[1]["regret"].sum() > 0
    assert regrets[1]["action"].tolist() == [3] * 8
    assert regrets[1]["layer"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_fixed_span_is_not_trained(tiny: Study, tmp_path: Path):
    trial = next(each for each in trials_of(tiny) if each.agent.algo == "fixed:4")
    trial.run(tmp_path)
    assert (tmp_path / "curve.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_trial_is_strict(tiny: Study):
    with pytest.raises(TypeError):
        replace(trials_of(tiny)[0], steps=3)


CUSTOM = """
class Mine:
    def choose_action(self, state):
        return {action}
    def update(self, state, action, reward, next_state):
        pass
"""


def key_of(trial: Trial) -> str:
    return config_hash(trial.config_for_hash(DatasetHashes()))


def test_hash_ignores_names(tiny: Study):
    trial = trials_of(tiny)[0]
    agent = replace(trial.agent, name="another", environments=("elsewhere",))
    environment = replace(trial.environment, name="elsewhere")
    assert key_of(replace(trial, agent=agent, environment=environment)) == key_of(trial)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"total_timesteps": 128},
        {"n_envs": 2},
        {"resumed_from_steps": (32,)},
        {"evaluation": EvalConfig(episodes=2, regret_episodes=1)},
    ],
)
def test_hash_depends_on_the_trial(tiny: Study, change: dict[str, Any]):
    trial = trials_of(tiny)[0]
    assert key_of(replace(trial, **change)) != key_of(trial)


@pytest.mark.parametrize(
    "change", [{"hyperparameters": {"alpha": 0.2}}, {"pool_groups": 4}, {"algo": "random"}]
)
def test_hash_depends_on_the_agent(tiny: Study, change: dict[str, Any]):
    trial = trials_of(tiny)[0]
    assert key_of(replace(trial, agent=replace(trial.agent, **change))) != key_of(trial)


def test_hash_depends_on_kwargs_and_content(tiny: Study, tmp_path: Path):
    trial = trials_of(tiny)[0]
    keys = {key_of(trial)}
    (tmp_path / "own.txt").write_text("abcdefgh" * 50)
    for change in ({"cost_coef": 0.5}, {"dataset": "code"}, {"dataset": str(tmp_path / "own.txt")}):
        kwargs = {**trial.environment.kwargs, **change}
        environment = replace(trial.environment, kwargs=kwargs)
        keys.add(key_of(changed := replace(trial, environment=environment)))
    assert len(keys) == 4
    (tmp_path / "own.txt").write_text("hgfedcba" * 50)
    assert key_of(changed) not in keys


def test_hash_depends_on_the_module_of_a_users_agent(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    trial = replace(trials_of(tiny)[0], agent=StudyAgent("own_of_keys:Mine", encoding="state"))
    path = tmp_path / "own_of_keys.py"
    keys = set()
    for action in (3, 4, 3):
        path.write_text(CUSTOM.format(action=action))
        keys.add(key_of(trial))
    assert len(keys) == 2
