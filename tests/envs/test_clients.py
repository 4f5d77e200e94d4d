"""Real clients: the libraries that people train with, in small configurations.

What is not installed is skipped, with the reason; ``pip install "spangym[clients]"`` brings it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from spangym.envs import EnvConfig, SB3SpanControlVecEnv, check_vector_env

NAME = "spangym.envs:spangym/SpanControl-v0"
SMALL: dict[str, Any] = {
    "dims": 16,
    "heads": 2,
    "ctx": 32,
    "chunks_per_episode": 2,
    "encoding": "box",
}
EPISODE = 4
make = functools.partial(gym.make, NAME, **SMALL)

OFF_POLICY: dict[str, Any] = {"learning_starts": 8, "batch_size": 8, "buffer_size": 64}
NET: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}
ALGORITHMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DQN": ("stable_baselines3", "MlpPolicy", {**OFF_POLICY, **NET}),
    "PPO": ("stable_baselines3", "MlpPolicy", {"n_steps": 8, "batch_size": 8, **NET}),
    "A2C": ("stable_baselines3", "MlpPolicy", {"n_steps": 8, **NET}),
    "QRDQN": ("sb3_contrib", "MlpPolicy", {**OFF_POLICY, **NET}),
    "RecurrentPPO": (
        "sb3_contrib",
        "MlpLstmPolicy",
        {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
}


def train(name: str, env: VecEnv) -> BaseAlgorithm:
    package, policy, arguments = ALGORITHMS[name]
    algorithm = getattr(pytest.importorskip(package, reason=f"{package} is not installed"), name)
    model = algorithm(policy, env, seed=3, device="cpu", **arguments)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(32)
    assert model.num_timesteps == 32
    assert any(not torch.equal(before[key], each) for key, each in parameters(model).items())
    return model


def parameters(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    return model.policy.state_dict()


@pytest.mark.parametrize(
    ("name", "encoding"), [*((name, "box") for name in ALGORITHMS), ("DQN", "digits")]
)
def test_sb3_learns_the_same_from_envs_and_from_scalar_environments(
    name: str, encoding: str, tmp_path: Path
):
    arguments = {**SMALL, "encoding": encoding}
    scalar = [functools.partial(gym.make, NAME, **arguments)] * 2
    ours = train(name, SB3SpanControlVecEnv(EnvConfig(**arguments), n_envs=2))
    dummies = train(name, DummyVecEnv(scalar))
    learned, again = parameters(ours), parameters(dummies)
    assert all(torch.isfinite(each).all() for each in learned.values())
    assert all(torch.equal(learned[key], again[key]) for key in learned)
    ours.save(tmp_path / "model.zip")
    loaded = type(ours).load(tmp_path / "model.zip")
    env = make(encoding=encoding)
    seen, _ = env.reset(seed=0)
    action, _ = loaded.predict(seen, deterministic=True)
    assert action == ours.predict(seen, deterministic=True)[0]
    assert env.action_space.contains(action[()])
    env.step(action)


def test_sb3_bootstraps_over_truncation():
    """The end of an episode is no end of the return: the last observation is the next one."""
    model = train("DQN", SB3SpanControlVecEnv(EnvConfig(**SMALL), n_envs=2))
    assert isinstance(model, sb3.DQN)
    buffer = model.replay_buffer
    assert buffer is not None
    ends = np.arange(EPISODE - 1, 16, EPISODE)
    assert np.flatnonzero(buffer.dones[:16].any(1)).tolist() == ends.tolist()
    assert buffer.timeouts[ends].all()
    # The next episode's first observation stands in the next row; it is another.
    assert (buffer.next_observations[ends[:-1]] != buffer.observations[ends[:-1] + 1]).any()


def num_envs() -> SB3SpanControlVecEnv:
    env = SB3SpanControlVecEnv(EnvConfig(**SMALL), n_envs=3)
    env.seed(0)
    return env


def test_vec_monitor_counts_episodes():
    env = VecMonitor(num_envs())
    env.reset()
    rewards = np.zeros(3)
    for step in range(2 * EPISODE):
        _, reward, dones, infos = env.step(np.array([2, 5, 9]))
        rewards += reward
        assert dones.all() == ("episode" in infos[0]) == (step % EPISODE == EPISODE - 1)
        if dones.all():
            returns = [info["episode"]["r"] for info in infos]
            np.testing.assert_allclose(returns, rewards, rtol=1e-5)
            assert [info["episode"]["l"] for info in infos] == [EPISODE] * 3
            rewards[:] = 0


def test_vec_normalize_normalizes_last_observations_too():
    plain, env = num_envs(), VecNormalize(num_envs())
    plain.reset()
    env.reset()
    infos = raw_infos = []
    for _ in range(EPISODE):
        raw, _, _, raw_infos = plain.step(np.array([2, 5, 9]))
        seen, _, _, infos = env.step(np.array([2, 5, 9]))
        np.testing.assert_array_equal(env.get_original_obs(), raw)
        np.testing.assert_array_equal(seen, env.normalize_obs(np.asarray(raw)))
    assert len(infos) == 3
    for info, raw_info in zip(infos, raw_infos, strict=True):
        last = env.normalize_obs(raw_info["terminal_observation"])
        np.testing.assert_array_equal(info["terminal_observation"], last)


def test_vec_frame_stack_begins_anew_with_the_episode():
    env = VecFrameStack(num_envs(), n_stack=2)
    width = env.venv.observation_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
    first = np.asarray(env.reset())
    assert first.shape == (3, 2 * width)
    assert not first[:, :width].any()
    before = first
    for _ in range(EPISODE):
        seen, _, dones, infos = env.step(np.array([2, 5, 9]))
        seen = np.asarray(seen)
        last = np.stack([info["terminal_observation"] for info in infos]) if dones.all() else seen
        np.testing.assert_array_equal(last[:, :width], before[:, width:])
        before = seen
    assert not before[:, :width].any()


@pytest.mark.parametrize("wrap", [VecMonitor, VecNormalize, lambda env: VecFrameStack(env, 2)])
def test_sb3_learns_through_wrappers(wrap: Callable[[VecEnv], VecEnv]):
    train("PPO", wrap(SB3SpanControlVecEnv(EnvConfig(**SMALL), n_envs=2)))


def test_gymnasium_counts_episodes_of_the_scalar_environment():
    env = RecordEpisodeStatistics(make())
    env.reset(seed=0)
    rewards, info = [], {}
    for _ in range(EPISODE):
        _, reward, _, truncated, info = env.step(7)
        rewards.append(reward)
        assert truncated == ("episode" in info)
    assert info["episode"]["l"] == EPISODE
    assert info["episode"]["r"] == pytest.approx(sum(rewards))


def test_gymnasium_counts_episodes_of_envs():
    envs = RecordVectorStatistics(gym.make_vec(NAME, 3, **SMALL))
    envs.reset(seed=0)
    rewards = np.zeros(3)
    for step in range(2 * EPISODE):
        _, reward, _, truncations, infos = envs.step(np.array([2, 5, 9]))
        rewards += reward
        assert truncations.all() == ("episode" in infos) == (step % EPISODE == EPISODE - 1)
        if truncations.all():
            assert infos["_episode"].all()
            assert infos["episode"]["l"].tolist() == [EPISODE] * 3
            np.testing.assert_allclose(infos["episode"]["r"], rewards, rtol=1e-5)
            rewards[:] = 0


@pytest.mark.slow
def test_gymnasium_in_processes():
    envs = AsyncVectorEnv([make] * 2, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        check_vector_env(envs, make, steps=EPISODE + 1)
    finally:
        envs.close()


@pytest.fixture
def torchrl() -> Any:
    return pytest.importorskip("torchrl.envs", reason="torchrl is not installed")


def rolled_out(torchrl: Any, env: Any) -> Any:
    """Two random episodes, the same again from the same seeds."""
    torchrl.check_env_specs(env)
    runs = []
    for _ in range(2):
        env.set_seed(0)
        torch.manual_seed(0)
        runs.append(env.rollout(2 * EPISODE, break_when_any_done=False))
    for key in ("observation", "action", ("next", "reward")):
        assert torch.equal(runs[0][key], runs[1][key])
    return runs[0]


@pytest.mark.parametrize("encoding", ["digits", "box", "state"])
def test_torchrl_rolls_out(torchrl: Any, encoding: str):
    run = rolled_out(torchrl, torchrl.GymWrapper(gym.make(NAME, **{**SMALL, "encoding": encoding})))
    truncated = run["next", "truncated"].flatten()
    assert truncated.nonzero().flatten().tolist() == [EPISODE - 1, 2 * EPISODE - 1]
    assert not run["next", "terminated"].any()
    assert torch.isfinite(run["next", "reward"]).all()
    assert run["next", "reward"].unique().numel() > 1


def test_torchrl_makes_it_by_name(torchrl: Any):
    rolled_out(torchrl, torchrl.GymEnv(NAME, **SMALL))


CONFIGURATION = """
spangym/SpanControl-v0:
  n_envs: 2
  n_timesteps: 64
  policy: MlpPolicy
  n_steps: 16
  batch_size: 16
  policy_kwargs: "dict(net_arch=[8])"
"""


@pytest.mark.slow
def test_rl_zoo_trains(tmp_path: Path):
    if not importlib.util.find_spec("rl_zoo3"):
        pytest.skip("rl_zoo3 is not installed: it comes with the extra clients")
    (tmp_path / "ppo.yml").write_text(CONFIGURATION)
    arguments = [f"{key}:{value!r}" for key, value in SMALL.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rl_zoo3.train", "--algo", "ppo"),
            *("--env", "spangym/SpanControl-v0", "--gym-packages", "spangym.envs"),
            *("--conf-file", "ppo.yml", "-n", "64", "--env-kwargs", *arguments),
            *("--eval-freq", "32", "--eval-episodes", "2", "--seed", "0"),
            *("--num-threads", "1", "--device", "cpu", "--log-folder", "logs"),
        ],
        cwd=tmp_path,
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (saved,) = (tmp_path / "logs").rglob("spangym-SpanControl-v0.zip")
    model = sb3.PPO.load(saved, device="cpu")
    assert model.num_timesteps >= 64
    seen, _ = make().reset(seed=0)
    assert make().action_space.contains(model.predict(seen)[0][()])
