"""``spangym leaderboard``: agents of several runs, ranked once their rows are reproduced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from spangym.experiments.analysis.comparison_stats import compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.reports.tables import format_number
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.replay import replay
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.text import DASH


@dataclass(frozen=True)
class LeaderboardEntry:
    """An agent's place.

    Attributes:
        agent: Its label.
        rank: From 1 by score; None where it lacks an environment, or there are no scores.
        score: Interquartile mean over environments and training seeds; 0 is random, 1 the oracle.
        low: Lower bound of its 95 % interval; None where there are too few seeds.
        high: Upper bound.
        scores: Mean score by environment.
        trials: How many trials stand behind that, all of them played again.
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
        environments: Labels.
        entries: Ranked agents, then the others.
        episodes: How many were played again.
        rejected: Trials that were not reproduced and are left out, with the first difference.
    """

    environments: tuple[str, ...]
    entries: tuple[LeaderboardEntry, ...]
    episodes: int
    rejected: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def make_leaderboard(runs: Sequence[RunDir], progress: Callable[[int, int], None]) -> Leaderboard:
    """Play every stored evaluation episode again, and rank the agents whose rows are reproduced.

    Trials that several runs have in common, as baselines, are played once.

    Args:
        runs: Folders of runs.
        progress: Called with trials played, and how many there are.

    Raises:
        UserError: Stored rows are damaged.
    """
    total = sum(len(run.finished()) for run in runs)
    played = episodes = 0
    rejected = []

    def is_reproduced(run: RunDir, trial: Trial) -> bool:
        nonlocal played, episodes
        found = [*replay(run, trial)]
        wrong = [row for row in found if not row.reproduced]
        played, episodes = played + 1, episodes + len(found)
        progress(played, total)
        if wrong:
            rejected.append(f"{run.path}: {wrong[0]}")
        return not wrong

    results = load_results(runs, accept=is_reproduced)
    progress(total, total)
    statistics = compute_statistics(results, np.random.default_rng(0))
    aggregates = statistics.aggregates.query("statistic == 'iqm'").to_dict("records")
    estimates = {row["agent"]: row for row in aggregates}
    scores: dict[str, dict[str, float]] = {}
    for row in statistics.summaries.to_dict("records"):
        if np.isfinite(row["score"]):
            scores.setdefault(row["agent"], {})[row["environment"]] = row["score"]
    trials = results.trials.groupby("agent").size().to_dict()
    ranked = sorted(estimates, key=lambda agent: -estimates[agent]["estimate"])
    others = [agent for agent in results.agents if agent in trials and agent not in estimates]
    entries = []
    for agent in (*ranked, *others):
        rank = ranked.index(agent) + 1 if agent in estimates else None
        score, low, high = (
            _number(estimates.get(agent), name) for name in ("estimate", "low", "high")
        )
        entries.append(
            LeaderboardEntry(
                agent, rank, score, low, high, scores.get(agent, {}), int(trials[agent])
            )
        )
    return Leaderboard(results.environments, tuple(entries), episodes, tuple(rejected))


def leaderboard_table(board: Leaderboard) -> RichTable:
    """The entries for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("agent", min_width=18, overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    several = len(board.environments) > 1
    for environment in board.environments if several else ():
        table.add_column(escape(environment), justify="right", overflow="fold")
    table.add_column("trials", justify="right")
    for each in board.entries:
        score = DASH if each.score is None else format_number(each.score, 2)
        if each.low is not None and each.high is not None:
            score += f" [{format_number(each.low, 2)}, {format_number(each.high, 2)}]"
        of = [
            format_number(each.scores.get(environment, np.nan), 2)
            for environment in (board.environments if several else ())
        ]
        rank = DASH if each.rank is None else str(each.rank)
        table.add_row(rank, escape(each.agent), escape(score), *of, str(each.trials))
    return table


def _number(row: dict[str, Any] | None, name: str) -> float | None:
    return float(row[name]) if row is not None and np.isfinite(row[name]) else None
