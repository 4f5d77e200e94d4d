"""``spangym bench tables``: environments that look up their numbers, against live layers."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from spangym.agents import make_agent
from spangym.agents.base import num_actions_in
from spangym.envs import SB3SpanControlVecEnv, make_config, tabulate
from spangym.envs.tables.table_core import TableCore
from spangym.experiments.benchmarks.measure import BenchRow, interleaved_timing
from spangym.experiments.studies.load_study import load_study
from spangym.experiments.studies.study import OBS_FIELDS
from spangym.experiments.trials.recorder import EpisodeRecorder
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.experiments.trials.trial import ignore

STEPS_GOAL = 300.0
"""Speed of the environments over live ones."""
TRAINING_GOALS = {"ppo": 15.0, "dqn": 10.0, "refiner": 100.0}
"""Speed of a whole training over that in live environments."""
ZEROS_GOAL = 1.15
"""Time of a training over that in environments that return zeros."""
MEMORY_GOAL = 0.5
"""Memory of each of `_NUM_PROCESSES` processes with one table, over the size of the table."""

_NUM_PROCESSES = 4
SMAPS = Path("/proc/self/smaps_rollup")
"""Memory of a process, on Linux."""


@dataclass(frozen=True)
class TablesBench:
    """Sizes of the measurement. Hyperparameters are those of the study ``span-budget``.

    Attributes:
        rounds: Turns of each function.
        num_levels: Levels of the table.
        n_envs: Parallel environments.
        live_steps: Steps of a training in live environments.
        steps: Steps of a training with a table.
        min_seconds: Duration of a turn.
        env_id: Id of the environment.
        device: Device of the live layers.
    """

    rounds: int = 5
    num_levels: int = 64
    n_envs: int = 16
    live_steps: int = 1_024
    steps: int = 4_096
    min_seconds: float = 0.5
    env_id: str = "SpanBudget-v0"
    device: str = "cpu"

    def make(
        self, backend: str, observation: dict[str, Any], zeros: bool = False
    ) -> SB3SpanControlVecEnv:
        """Make environments on the levels of the table."""
        make = ZerosVecEnv if zeros else SB3SpanControlVecEnv
        arguments = {**observation, "num_levels": self.num_levels, "backend": backend}
        arguments["device"] = self.device
        return make(make_config(self.env_id, arguments), self.n_envs)

    def steps_over_live(self) -> float:
        """Speed of the steps of random actions over that of live environments."""
        rng, episodes = np.random.default_rng(0), []
        for backend in ("table", "live"):
            env = self.make(backend, {"encoding": "box"})
            env.seed(0)
            env.reset()
            actions = rng.integers(num_actions_in(env), size=(env.episode_steps, self.n_envs))

            def play(env: VecEnv = env, actions: NDArray[np.int64] = actions) -> None:
                for each in actions:
                    env.step(each)

            episodes.append(play)
        table, live = self._time(*episodes)
        return live / table

    def training_over_live(self, algo: str) -> float:
        """Speed of a training over that in live environments."""
        observation, _ = self._settings(algo)
        table, live = self.make("table", observation), self.make("live", observation)
        on_table, on_live = self._time(
            lambda: self._train(algo, table, self.steps),
            lambda: self._train(algo, live, self.live_steps),
        )
        return (on_live / self.live_steps) / (on_table / self.steps)

    def training_over_zeros(self, algo: str) -> tuple[float, float]:
        """Time of a training over that in environments of zeros, without and with recording."""
        observation, _ = self._settings(algo)
        table, zeros = self.make("table", observation), self.make("live", observation, zeros=True)
        on_table, recorded, on_zeros = self._time(
            lambda: self._train(algo, table, self.steps),
            lambda: self._train_recorded(algo, table),
            lambda: self._train(algo, zeros, self.steps),
        )
        return on_table / on_zeros, recorded / on_zeros

    def _train(self, algo: str, env: VecEnv, steps: int) -> None:
        _, hyperparameters = self._settings(algo)
        make_agent(algo, seed=0, **hyperparameters).learn(env, steps)

    def _train_recorded(self, algo: str, env: SB3SpanControlVecEnv) -> None:
        """Train as a trial does, which stores numbers of each episode."""
        with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
            logger = stack.enter_context(contextlib.closing(TrialLogger(Path(place))))
            names = env.core.reward.components
            recorder = EpisodeRecorder(env, names, Path(place), logger, self.steps, 0, ignore)
            self._train(algo, stack.enter_context(contextlib.closing(recorder)), self.steps)

    def seconds_to_open(self) -> float:
        """Seconds to make the environments, the layers included."""
        (seconds,) = self._time(lambda: self.make("table", {"encoding": "box"}))
        return seconds

    def memory_over_table(self) -> float:
        """Memory that a table takes in each of several processes, over its size."""
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(_NUM_PROCESSES)
        with context.Pool(_NUM_PROCESSES, _set_barrier, (barrier,)) as pool:
            return float(np.mean(pool.map(_memory_over_table, [self] * _NUM_PROCESSES, 1)))

    def _settings(self, algo: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of the observation and the hyperparameters of an agent."""
        if algo == "refiner":
            return {"encoding": "state"}, {}
        (agent,) = [each for each in load_study("span-budget").agents if each.name == algo]
        options = agent.hyperparameters
        if "learning_starts" in options:
            # Long trainings spend hardly any time before it.
            options = {**options, "learning_starts": 2 * self.n_envs}
        return {name: getattr(agent, name) for name in OBS_FIELDS}, options

    def _time(self, *functions: Callable[[], object]) -> list[float]:
        return interleaved_timing(*functions, rounds=self.rounds, min_seconds=self.min_seconds)


class ZerosVecEnv(SB3SpanControlVecEnv):
    """Environments with the same spaces that return zeros: the rest is the algorithm's time."""

    def reset(self) -> NDArray[Any]:
        """Return zeros."""
        self._step_count = 0
        space = self.observation_space
        self._zeros = np.zeros((self.num_envs, *(space.shape or ())), space.dtype)
        return self._zeros.copy()

    def step_wait(self) -> VecEnvStepReturn:
        """Return zeros; episodes are as long as those of the other environments."""
        self._step_count += 1
        ends = self._step_count % self.episode_steps == 0
        last = {"terminal_observation": self._zeros[0], "TimeLimit.truncated": True}
        infos = [{**last} if ends else {} for _ in range(self.num_envs)]
        rewards = np.zeros(self.num_envs, np.float32)
        return self._zeros.copy(), rewards, np.full(self.num_envs, ends), infos


def run(quick: bool, bench: TablesBench | None = None, device: str = "cpu") -> Iterator[BenchRow]:
    """Make a small table, and measure; agents compute on the CPU.

    Args:
        quick: Whether to use fewer levels, rounds and steps.
        bench: Sizes; the defaults if None.
        device: Device of the live layers.

    Yields:
        Figures in the order of measurement.
    """
    bench = bench or (TablesBench(1, 32, steps=2_048) if quick else TablesBench())
    bench = dataclasses.replace(bench, device=device)
    tabulate(bench.env_id, bench.num_levels, device=device)
    sizes = f"{bench.env_id}, environments {bench.n_envs}"
    yield BenchRow(
        f"steps, speed over live, {sizes}", bench.steps_over_live(), STEPS_GOAL, "higher"
    )
    for algo, goal in TRAINING_GOALS.items():
        speed = bench.training_over_live(algo)
        yield BenchRow(f"{algo} training, speed over live, {sizes}", speed, goal, "higher")
    for algo in ("ppo", "dqn"):
        plain, recorded = bench.training_over_zeros(algo)
        for how, value in (("training", plain), ("recorded training", recorded)):
            row = f"{algo} {how}, time over training on zeros, {sizes}"
            yield BenchRow(row, value, ZEROS_GOAL, "lower")
    levels = f"{bench.env_id}, levels {bench.num_levels}"
    yield BenchRow(f"seconds to open, {levels}", bench.seconds_to_open(), None, "lower")
    memory = bench.memory_over_table() if SMAPS.exists() else None
    row = f"memory over that of the table, each of {_NUM_PROCESSES} processes, {levels}"
    yield BenchRow(row, memory, MEMORY_GOAL, "lower")


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _memory_over_table(bench: TablesBench) -> float:
    """Open and read the table in one of several processes."""
    bench.make("live", {"encoding": "box"})
    before = _proportional_bytes()
    env = bench.make("table", {"encoding": "box"})
    assert isinstance(env.core, TableCore)
    arrays = env.core.table.arrays.values()
    for each in arrays:
        each.sum()
    _barrier.wait()
    after = _proportional_bytes()
    _barrier.wait()
    return (after - before) / sum(each.nbytes for each in arrays)


def _proportional_bytes() -> int:
    """Memory of this process; a page that n processes share counts as 1/n."""
    found = re.search(r"^Pss: +(\d+) kB", SMAPS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
