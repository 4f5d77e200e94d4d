"""``spangym bench compare``: whether agents decide on a device as they do on the CPU."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spangym.experiments.benchmarks.measure import BenchRow
from spangym.experiments.compare import compare
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.evaluate import evaluate
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.experiments.trials.trial import ignore

DECISIONS_GOAL = 0.95
"""Share of equal decisions: rounding may turn a digit of an observation."""
RETURNS_GOAL = 1e-3
"""Largest difference of the returns of equal decisions, over the larger of 1 and the return."""


@dataclass(frozen=True)
class CompareBench:
    """A miniature comparison with live layers.

    Attributes:
        environment: Id of the environment.
        agents: Agents that learn; the baselines of the environment stand beside them.
        total_timesteps: Steps of each training.
        episodes: Evaluation episodes.
        settings: More values of the study, as in `spangym.experiments.compare.compare`.
    """

    environment: str = "LongRange-v0"
    agents: tuple[str, ...] = ("refiner", "ppo")
    total_timesteps: int = 128
    episodes: int = 4
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"n_envs": 4, "chunks_per_episode": 2}
    )

    def run(self, device: str, folder: Path) -> ComparisonDir:
        """Train and evaluate on a device."""
        run = compare(
            environments=[self.environment],
            agents=self.agents,
            seeds=1,
            total_timesteps=self.total_timesteps,
            settings={
                "evaluation.episodes": self.episodes,
                "evaluation.regret_episodes": 0,
                **self.settings,
            },
            device=device,
            out=folder,
            quiet=True,
        )
        return RunDir.open(run.path, COMPARISON)

    def agreement(self, run: ComparisonDir, agent: str) -> tuple[float, float | None]:
        """Play an agent's evaluation episodes again on the CPU.

        Returns:
            Share of equal decisions, and the largest difference of the returns where all decisions
            of an episode are equal (see `RETURNS_GOAL`); None if there is no such episode.
        """
        trained = load_trained_agent(run, agent)
        config = dataclasses.replace(trained.config, device="cpu")
        stored = run.table(trained.trial, "evaluation")
        first = min(int(seed) for seed in stored["evaluation_seed"])
        again = evaluate(trained.agent, [config], first, len(stored), ignore)
        equal, differences = [], []
        for before, now in zip(stored.to_dict("records"), again, strict=True):
            same = np.array(before["actions"].split(" ")) == np.array(now["actions"].split(" "))
            equal.append(same.mean())
            if same.all():
                scale = max(1.0, abs(now["return"]))
                differences.append(abs(before["return"] - now["return"]) / scale)
        return float(np.mean(equal)), max(differences, default=None)


def run(device: str, bench: CompareBench | None = None) -> Iterator[BenchRow]:
    """Compare agents on a device, and play their evaluation again on the CPU.

    Args:
        device: Device of the layers.
        bench: Sizes; the defaults if None.

    Yields:
        Two figures for each kind of agent.

    Raises:
        UserError: A training failed.
    """
    bench = bench or CompareBench()
    with tempfile.TemporaryDirectory() as place:
        stored = bench.run(device, Path(place, "run"))
        names = dict.fromkeys(each.agent.name for each in stored.jobs())
        # The fixed spans count as one agent.
        for kind, same in itertools.groupby(names, lambda name: name.partition(":")[0]):
            measured = [bench.agreement(stored, agent) for agent in same]
            equal = min(share for share, _ in measured)
            differences = [each for _, each in measured if each is not None]
            row = f"decisions equal to the CPU's, {kind}, {bench.environment}"
            yield BenchRow(row, equal, DECISIONS_GOAL, "higher")
            row = f"difference of the returns of equal decisions, {kind}, {bench.environment}"
            yield BenchRow(row, max(differences, default=None), RETURNS_GOAL, "lower")
