"""Rows as a comparison would leave them, made up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from spangym.experiments.analysis.comparison_stats import ComparisonStats, compute_statistics
from spangym.experiments.analysis.load_results import curves_to_long, learning_speed, to_long
from spangym.experiments.analysis.results import COMPARISON_METRICS, KEYS, Results

FIXED = tuple(f"fixed:{action}" for action in range(10))
BASELINES = ("oracle", "threshold", "random", *FIXED)
CONTENTS = ("documentation", "code", "noise", "letters", "repeats")
FULL_QK_PAIRS = 500_000
# From random to oracle.
REFERENCE_SCORES = {"oracle": 1.0, "threshold": 0.45, "random": 0.0} | {
    label: 0.6 - 0.05 * (action - 6) ** 2 for action, label in enumerate(FIXED)
}
EPISODES = 4


def make_results(
    environments: Sequence[str] = ("spangym/SpanBudget-v0",),
    learners: Sequence[str] = ("refiner", "dqn", "ppo"),
    seeds: int = 5,
    *,
    baselines: Sequence[str] = BASELINES,
    episodes: int = 200,
    num_envs: int = 2,
    layers: int = 2,
    contents: Sequence[str] = CONTENTS,
    failed: tuple[tuple[str, str], ...] = (),
    missing: int = 0,
    seed: int = 0,
) -> Results:
    """Plausible rows.

    Args:
        environments: Labels.
        learners: Labels; the first learns least.
        seeds: Training seeds of each learner.
        baselines: Labels; one training seed each.
        episodes: Of each training.
        num_envs: How many episodes end together.
        layers: Of each environment.
        contents: Kinds of content.
        failed: Names and errors of trials.
        missing: Trials that are not there.
        seed: Of what is drawn.
    """
    generator = np.random.default_rng(seed)
    trials, rows, action_counts = [], [], []
    curves: list[pd.DataFrame] = []
    for number, environment in enumerate(environments):
        random, oracle = -0.5 - 0.3 * number, -0.15 + 0.2 * number
        for agent in (*learners, *baselines):
            learns = agent in learners
            quality = REFERENCE_SCORES.get(agent, 0.0)
            if learns:
                place = learners.index(agent) + 1
                quality = 0.9 - 0.5 / place + 0.1 * float(generator.normal())
            for training_seed in range(seeds if learns or agent == "random" else 1):
                level = quality + 0.08 * float(generator.normal()) * (training_seed > 0)
                span = 22.0 * FIXED.index(agent) if agent in FIXED else 60 + 100 * max(level, 0)
                mean = random + level * (oracle - random)
                trials.append(
                    {
                        "environment": environment,
                        "group": agent,
                        "seed": training_seed,
                        "return": mean,
                        "score": level,
                        "regret": (oracle - mean) / 8,
                        "mean_span": span,
                        "qk_pairs": FULL_QK_PAIRS * span / 200,
                        "full_qk_pairs": FULL_QK_PAIRS,
                        "seconds": 40.0 + 20 * float(generator.random()),
                        "steps": episodes * 16 if learns else 0,
                    }
                )
                key = {name: trials[-1][name] for name in KEYS}
                rows += [
                    {**key, "evaluation_seed": 1_000_000 + episode, "return": mean}
                    for episode in range(EPISODES)
                ]
                for layer, content in itertools.product(range(layers), contents):
                    wanted = span * (1 + contents.index(content)) * (2 - layer) / 4
                    for action in (4, 5):
                        action_counts.append(
                            {
                                **key,
                                "layer": layer,
                                "content_type": content,
                                "action": action,
                                "count": 10 * action,
                                "mean_span": wanted * action / 4,
                            }
                        )
                if learns:
                    shape = (random, oracle, level, episodes, num_envs)
                    curves.append(_training(generator, *shape).assign(**key))
    training = pd.DataFrame(columns=[*KEYS, "step", "return", "qk_pairs", "wall_seconds"])
    if curves:
        training = pd.concat(curves, ignore_index=True)
    wide = pd.DataFrame(trials)
    wide = wide.merge(learning_speed(training, wide), on=[*KEYS], how="left")
    return Results(
        study_type="comparison",
        environments=tuple(environments),
        groups=(*learners, *baselines),
        baselines=tuple(baselines),
        splits=("evaluation",),
        metrics=COMPARISON_METRICS,
        primary="return",
        values=to_long(wide),
        curves=curves_to_long(training),
        episodes=pd.DataFrame(rows),
        action_counts=pd.DataFrame(action_counts),
        failed=failed,
        missing=missing,
    )


def _training(
    generator: np.random.Generator,
    random: float,
    oracle: float,
    level: float,
    episodes: int,
    num_envs: int,
) -> pd.DataFrame:
    ends = (np.arange(episodes) // num_envs + 1) * 16 * num_envs
    learned = level * (1 - np.exp(-5 * ends / ends[-1]))
    return pd.DataFrame(
        {
            "step": ends,
            "return": random
            + (oracle - random) * (learned + 0.2 * generator.normal(size=episodes)),
            "qk_pairs": generator.integers(1000, 5000, size=episodes),
            "wall_seconds": ends * (0.01 + 0.004 * float(generator.random())),
        }
    )


def make_statistics(rows: Results) -> ComparisonStats:
    """What such rows say, by few resamples."""
    return compute_statistics(rows, np.random.default_rng(0), resamples=50)
