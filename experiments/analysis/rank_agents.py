"""``spangym leaderboard``: ranks the agents of several runs, after replaying their evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from spangym.experiments.analysis.comparison_stats import compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.reports.tables import format_number
from spangym.experiments.trials.comparison_run import ComparisonDir
from spangym.experiments.trials.replay import replay
from spangym.experiments.trials.trial import Trial
from spangym.utils.text import DASH


@dataclass(frozen=True)
class LeaderboardEntry:
    """Rank of an agent.

    Attributes:
        agent: Name.
        rank: Rank by score, from 1; None without a score in every environment.
        score: Interquartile mean over environments and training seeds; 0 is random, 1 the oracle.
        low: Lower bound of its 95 % interval; None with too few seeds.
        high: Upper bound.
        scores: Mean score by environment.
        trials: Number of replayed trials.
    """

    agent: str
    rank: int | None
    score: float | None
    low: float | None
    high: float | None
    scores: dict[str, float]
    trials: int


@dataclass(frozen=True)
class Leaderboard:
    """Agents by rank.

    Attributes:
        environments: Names.
        entries: Ranked agents, then the others.
        episodes: Number of replayed episodes.
        rejected: First difference of each trial that was not reproduced and is left out.
        notes: Why environments have no scores and agents no rank.
    """

    environments: tuple[str, ...]
    entries: tuple[LeaderboardEntry, ...]
    episodes: int
    rejected: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Content of the JSON file."""
        return asdict(self)


def make_leaderboard(
    runs: Sequence[ComparisonDir], progress: Callable[[int, int], None]
) -> Leaderboard:
    """Replay every stored evaluation episode, and rank the agents whose trials are reproduced.

    Trials that several runs share are replayed once.

    Args:
        runs: Run folders.
        progress: Called with the number of replayed trials and of all trials.

    Raises:
        UserError: A stored file is damaged.
    """
    total = sum(len(run.finished()) for run in runs)
    replayed = episodes = 0
    rejected = []

    def is_reproduced(run: ComparisonDir, trial: Trial) -> bool:
        nonlocal replayed, episodes
        rows = [*replay(run, trial)]
        wrong = [row for row in rows if not row.reproduced]
        replayed, episodes = replayed + 1, episodes + len(rows)
        progress(replayed, total)
        if wrong:
            rejected.append(f"{run.name}: {wrong[0]}")
        return not wrong

    results = load_results(runs, accept=is_reproduced)
    progress(total, total)
    statistics = compute_statistics(results, np.random.default_rng(0))
    iqm = statistics.aggregates.query("statistic == 'iqm'").set_index("group")
    iqm = iqm.sort_values("estimate", ascending=False, kind="stable")
    known = statistics.summary.query("metric == 'score'").dropna(subset="mean")
    trials = Counter(results.finished["group"])
    entries = []
    for group in (*iqm.index, *(each for each in results.groups if each not in iqm.index)):
        if group not in trials:
            continue
        score, low, high = (
            float(iqm.loc[group, each])
            if group in iqm.index and np.isfinite(iqm.loc[group, each])
            else None
            for each in ("estimate", "low", "high")
        )
        own = known[known["group"] == group]
        scores = dict(zip(own["environment"], own["mean"], strict=True))
        rank = len(entries) + 1 if group in iqm.index else None
        entries.append(LeaderboardEntry(group, rank, score, low, high, scores, trials[group]))
    scored = {(each.agent, name) for each in entries for name in each.scores}
    notes = explain_missing(results.environments, results.finished, scored)
    return Leaderboard(results.environments, tuple(entries), episodes, tuple(rejected), notes)


def explain_missing(
    environments: Sequence[str], finished: pd.DataFrame, scored: Collection[tuple[str, str]]
) -> tuple[str, ...]:
    """Say why environments have no scores and agents no rank.

    Args:
        environments: Names of the environments.
        finished: Finished trials, with the columns ``group`` and ``environment``.
        scored: Pairs of an agent and an environment in which it has a score.
    """
    notes = []
    pairs = set(zip(finished["group"], finished["environment"], strict=True))
    ranked_in = [name for name in environments if any(each == name for _, each in scored)]
    for name in environments:
        if name in ranked_in:
            continue
        missing = [each for each in ("random", "oracle") if (each, name) not in pairs]
        reason = (
            f"it has no finished trial of {' and of '.join(missing)}, whose returns are 0 and 1 of "
            "the scale"
            if missing
            else "random and the oracle have the same return"
        )
        notes.append(f"{name} has no scores: {reason}")
    for agent in dict.fromkeys(finished["group"]):
        lacking = [name for name in ranked_in if (agent, name) not in scored]
        if lacking:
            notes.append(f"{agent} is not ranked: it has no score in {', '.join(lacking)}")
    return tuple(notes)


def leaderboard_table(board: Leaderboard) -> RichTable:
    """The entries for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("agent", min_width=18, overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    environments = board.environments if len(board.environments) > 1 else ()
    for environment in environments:
        table.add_column(escape(environment), justify="right", overflow="fold")
    table.add_column("trials", justify="right")
    for each in board.entries:
        score = DASH if each.score is None else format_number(each.score, 2)
        if each.low is not None and each.high is not None:
            score += f" [{format_number(each.low, 2)}, {format_number(each.high, 2)}]"
        scores = [format_number(each.scores.get(name, np.nan), 2) for name in environments]
        rank = DASH if each.rank is None else str(each.rank)
        table.add_row(rank, escape(each.agent), escape(score), *scores, str(each.trials))
    return table
