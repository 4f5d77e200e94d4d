"""Reading run folders: what their finished trials left behind, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from spangym.experiments.analysis.results import Results
from spangym.experiments.studies.study import BASELINES, EvalConfig, StudyEnv, Trial
from spangym.experiments.trials.run_dir import RunDir

_NAMES = ("environment", "agent", "training_seed")
_TRIALS = (
    *_NAMES,
    *("return", "score", "regret", "mean_span", "qk_pairs", "full_qk_pairs", "seconds", "steps"),
)
_EPISODES = (*_NAMES, "evaluation_seed", "return")
_CURVES = (*_NAMES, "step", "return", "qk_pairs", "wall_seconds")
_ACTION_COUNTS = (*_NAMES, "layer", "content_type", "action", "count", "mean_span")


def _any(folder: RunDir, trial: Trial) -> bool:
    del folder, trial
    return True


def load_results(
    folders: Sequence[RunDir],
    failed: Mapping[str, str] | None = None,
    accept: Callable[[RunDir, Trial], bool] = _any,
) -> Results:
    """Read what the finished trials of runs left behind.

    Where several runs have an agent of one label, made with other hyperparameters or another
    budget, the label of the later gets the name of its run's folder behind it. So do environments
    of one label that differ. Trials that are the same in several runs stand once.

    Args:
        folders: Folders of runs, which may be in progress.
        failed: Names of trials known to have failed, each with its error in a line, beside those
            whose folder says so.
        accept: Says of a finished trial whether it is read.

    Raises:
        UserError: Stored rows are damaged.
    """
    tables, labels, errors, missing = _Tables(), _Labels(), dict(failed or {}), 0
    for folder in folders:
        run, trials = folder.path.resolve().name, folder.jobs()
        names = labels.of_run(run, trials)
        for trial in trials:
            name = names[trial.agent.name]
            trial_key = labels.find(run, trial, name, folder.folder_of(trial).name)
            if trial_key is None:
                continue
            if folder.is_finished(trial):
                if accept(folder, trial):
                    tables.read(folder, trial, trial_key)
            elif error := errors.get(trial.job_id) or folder.error(trial):
                errors[trial.job_id] = error
            else:
                missing += 1
    return Results(
        environments=tuple(labels.environments),
        learners=tuple(each for each in labels.agents if each not in BASELINES),
        baselines=tuple(each for each in BASELINES if each in labels.agents),
        trials=add_normalized_scores(_table(tables.trials, _TRIALS)),
        episodes=_table(tables.episodes, _EPISODES, others=True),
        curves=_table(tables.curves, _CURVES),
        action_counts=_table(tables.action_counts, _ACTION_COUNTS),
        failed=tuple(errors.items()),
        missing=missing,
    )


def add_normalized_scores(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with their ``score``: in each environment 0 for random, 1 for the oracle.

    Args:
        trials: With ``environment``, ``agent`` and ``return``.

    Example:
        >>> rows = [("a", "random", 1.0), ("a", "oracle", 3.0), ("a", "dqn", 2.5)]
        >>> trials = pd.DataFrame(rows, columns=["environment", "agent", "return"])
        >>> add_normalized_scores(trials)["score"].tolist()
        [0.0, 1.0, 0.75]
    """
    means = {
        names: float(rows["return"].to_numpy(float).mean())
        for names, rows in trials.groupby(["environment", "agent"])
    }
    scores = pd.Series(np.nan, trials.index, dtype=float)
    for environment, rows in trials.groupby("environment"):
        worst, best = (means.get((environment, each), np.nan) for each in ("random", "oracle"))
        if best > worst:
            scores[rows.index] = (rows["return"] - worst) / (best - worst)
    return trials.assign(score=scores)


_TrialKey = tuple[str, str, int]
_KeyedTable = tuple[_TrialKey, pd.DataFrame]
_EnvKey = tuple[StudyEnv, EvalConfig]


@dataclass
class _Labels:
    """What environments and agents of several runs are called, lest two have one name."""

    environments: dict[str, _EnvKey] = field(default_factory=dict)
    agents: dict[str, frozenset[str]] = field(default_factory=dict)
    _trials: dict[_TrialKey, str] = field(default_factory=dict)

    def of_run(self, run: str, trials: Sequence[Trial]) -> dict[str, str]:
        """What the agents of a run are called, by their labels in it.

        Where an earlier run has the label for an agent with other hyperparameters or another
        budget, the name of the run stands behind it.
        """
        made: dict[str, set[str]] = {}
        for trial in trials:
            agent = replace(trial.agent, name="", environments=())
            how = (agent, trial.total_timesteps, trial.n_envs, trial.resumed_from_steps)
            made.setdefault(trial.agent.name, set()).add(repr(how))
        names = {}
        for label, how in made.items():
            same = self.agents.setdefault(label, frozenset(how)) == how
            names[label] = label if same or label in BASELINES else f"{label} ({run})"
            self.agents.setdefault(names[label], frozenset(how))
        return names

    def find(self, run: str, trial: Trial, agent: str, folder: str) -> _TrialKey | None:
        """Environment, agent and seed of a trial; None if it is there already.

        Args:
            run: Name of the run.
            trial: The trial.
            agent: What its agent is called.
            folder: Name of the trial's folder, which holds its key.
        """
        place = trial.environment, trial.evaluation
        environment = trial.environment.name
        if self.environments.setdefault(environment, place) != place:
            environment = f"{environment} ({run})"
            self.environments[environment] = place
        trial_key = (environment, agent, trial.seed)
        if trial_key not in self._trials:
            self._trials[trial_key] = folder
            return trial_key
        if self._trials[trial_key] == folder or agent in BASELINES:
            return None
        # Made alike, but with another module of the user's, or on other content.
        agent = f"{agent} ({run})"
        self.agents.setdefault(agent, frozenset())
        return (environment, agent, trial.seed)


@dataclass
class _Tables:
    """Rows of trials, a table each."""

    trials: list[_KeyedTable] = field(default_factory=list)
    episodes: list[_KeyedTable] = field(default_factory=list)
    curves: list[_KeyedTable] = field(default_factory=list)
    action_counts: list[_KeyedTable] = field(default_factory=list)

    def read(self, folder: RunDir, trial: Trial, trial_key: _TrialKey) -> None:
        """Read what a finished trial left behind."""
        result, evaluation = folder.result(trial), folder.evaluation(trial)
        self.episodes.append((trial_key, evaluation))
        self.action_counts.append((trial_key, folder.action_counts(trial)))
        if trial.total_timesteps:
            self.curves.append((trial_key, folder.curve(trial)))
        decisions = trial.environment.episode_steps
        summary = {
            "return": evaluation["return"].mean(),
            "regret": np.nan if result["regret"] is None else result["regret"],
            "mean_span": evaluation["mean_span"].mean(),
            "qk_pairs": evaluation["qk_pairs"].mean() / decisions,
            "full_qk_pairs": result["full_qk_pairs"],
            "seconds": result["wall_seconds"],
            "steps": trial.total_timesteps,
        }
        self.trials.append((trial_key, pd.DataFrame([summary])))


def _table(
    parts: Sequence[_KeyedTable], columns: Sequence[str], others: bool = False
) -> pd.DataFrame:
    """Rows of several trials, one below the other, that say whose they are.

    Args:
        parts: Rows of a trial each.
        columns: Those that come first.
        others: Whether the other columns are kept behind them.
    """
    if not parts:
        return pd.DataFrame(columns=[*columns])
    lengths = [len(rows) for _, rows in parts]
    table = pd.concat([rows for _, rows in parts], ignore_index=True)
    for name, values in zip(
        _NAMES, zip(*(trial_key for trial_key, _ in parts), strict=True), strict=True
    ):
        table[name] = np.repeat(
            np.array(values, object if name != "training_seed" else int), lengths
        )
    more = [each for each in table.columns if others and each not in columns]
    return table.reindex(columns=[*columns, *more])
