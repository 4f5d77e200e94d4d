"""Loads the results of finished jobs from run folders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spangym.attention.geometry import MAX_ACTIONS
from spangym.experiments.analysis.differences import RANDOM
from spangym.experiments.analysis.hypervolume import (
    tradeoff_metric_infos,
    tradeoff_metrics,
    tradeoff_points,
)
from spangym.experiments.analysis.results import (
    ACTION_COUNT_COLUMNS,
    ACTION_VALUE_COLUMNS,
    ALL_SPLITS,
    COMPARISON_METRICS,
    CURVE_COLUMNS,
    EPISODE_COLUMNS,
    EVALUATED,
    EVALUATION,
    KEYS,
    PILOT_METRICS,
    TRAINING,
    VALUE_COLUMNS,
    WHOLE_MODEL,
    AttentionMap,
    Results,
)
from spangym.experiments.analysis.sample_efficiency import area_under_curve, sample_efficiency
from spangym.experiments.pilot.attention_maps import load_attention_maps
from spangym.experiments.pilot.pilot_run import PILOT, PilotDir
from spangym.experiments.runner.run_dir import RunDir, run_command
from spangym.experiments.studies.study import EvalConfig, StudyEnv, baseline_names, is_baseline
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.trial import Trial
from spangym.utils.errors import UserError
from spangym.utils.text import printable

JobKey = tuple[str, str, int]
"""Environment, group and training seed."""


def open_run(path: Path) -> RunDir[Any, Any]:
    """Open the folder of a comparison or a pilot; UserError if it is neither."""
    kind = PILOT if run_command(path) == PILOT.command else COMPARISON
    return RunDir[Any, Any].open(path, kind)


def open_runs(paths: Sequence[Path]) -> list[RunDir[Any, Any]]:
    """Open the folders of comparisons, or of one pilot; UserError for any other folders."""
    for path in paths:
        if run_command(path) == PILOT.command and len(paths) > 1:
            raise UserError(f"{str(path)!r} is a pilot: pilots are shown one at a time")
    return [open_run(path) for path in paths]


def load_results(
    runs: Sequence[RunDir[Any, Any]],
    failed: Mapping[str, str] | None = None,
    accept: Callable[[ComparisonDir, Trial], bool] | None = None,
) -> Results:
    """Load the results of the finished jobs of comparisons, or of one pilot.

    If several comparisons have an agent of one name with different hyperparameters or another
    budget, the later one is renamed to ``NAME (RUN FOLDER)``; so are environments. Trials that
    several runs share are loaded once.

    Args:
        runs: Run folders; runs may be in progress.
        failed: Job ids with one-line errors, in addition to the errors stored in the folders.
        accept: Whether a finished trial of a comparison is loaded; all by default.

    Raises:
        UserError: A stored file is damaged.
    """
    if runs[0].kind is PILOT:
        return _load_pilot(runs[0], dict(failed or {}))
    return _load_comparisons(runs, dict(failed or {}), accept)


def _load_comparisons(
    runs: Sequence[ComparisonDir],
    errors: dict[str, str],
    accept: Callable[[ComparisonDir, Trial], bool] | None,
) -> Results:
    names, missing = _UniqueNames(), 0
    tradeoffs: list[pd.DataFrame] = []
    trials: list[dict[str, Any]] = []
    episodes, curves, action_counts = _Rows(), _Rows(), _Rows()
    for run in runs:
        jobs, run_name = run.jobs(), printable(run.path.name)
        agent_names = names.add_run(run_name, jobs)
        for trial in jobs:
            agent = agent_names[trial.agent.name]
            key = names.add_trial(run_name, trial, agent, run.folder_of(trial).name)
            if key is None:
                continue
            if not run.is_finished(trial):
                if error := errors.get(trial.job_id) or run.error(trial):
                    errors[trial.job_id] = error
                else:
                    missing += 1
            elif accept is None or accept(run, trial):
                result, evaluation = run.result(trial), run.table(trial, "evaluation")
                episodes.append(key, evaluation)
                action_counts.append(key, run.table(trial, "action_counts"))
                steps = trial.environment.episode_steps
                points = tradeoff_points(evaluation, result["full_qk_pairs"] * steps)
                if points is not None:
                    tradeoffs.append(points.assign(**dict(zip(KEYS, key, strict=True))))
                if trial.total_timesteps:
                    curves.append(key, run.table(trial, "curve"))
                trials.append(
                    {
                        **dict(zip(KEYS, key, strict=True)),
                        "return": evaluation["return"].mean(),
                        "regret": _number(result["regret"]),
                        "generalization_gap": _number(result.get("generalization_gap")),
                        "mean_span": evaluation["mean_span"].mean(),
                        "qk_pairs": evaluation["qk_pairs"].mean() / steps,
                        "full_qk_pairs": result["full_qk_pairs"],
                        "seconds": result["wall_seconds"],
                        "steps": trial.total_timesteps,
                    }
                )
    baselines = tuple(each for each in baseline_names(MAX_ACTIONS) if each in names.agents)
    wide = add_normalized_scores(pd.DataFrame(trials, columns=[*KEYS, *_STORED]))
    if not wide["generalization_gap"].notna().to_numpy().any():
        wide = wide.drop(columns="generalization_gap")
    training = curves.concat(["step", "return", "qk_pairs", "wall_seconds"])
    wide = wide.merge(learning_speed(training, wide), on=[*KEYS], how="left")
    if tradeoffs:
        wide = wide.merge(tradeoff_metrics(pd.concat(tradeoffs)), on=[*KEYS], how="left")
    return Results(
        study_type="comparison",
        environments=tuple(names.environments),
        groups=(*(each for each in names.agents if not is_baseline(each)), *baselines),
        baselines=baselines,
        splits=(EVALUATION,),
        metrics=COMPARISON_METRICS | tradeoff_metric_infos([*wide.columns]),
        primary="return",
        values=to_long(wide),
        curves=curves_to_long(training),
        episodes=episodes.concat(EPISODE_COLUMNS[3:], others=True),
        action_counts=action_counts.concat(ACTION_COUNT_COLUMNS[3:]),
        failed=tuple(errors.items()),
        missing=missing,
    )


_STORED = (
    *("return", "regret", "generalization_gap", "mean_span", "qk_pairs", "full_qk_pairs"),
    *("seconds", "steps"),
)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def add_normalized_scores(trials: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``score``: 0 for the mean of random, 1 for that of the oracle.

    Args:
        trials: With ``environment``, ``group`` and ``return``.

    Example:
        >>> rows = [("a", "random", 1.0), ("a", "oracle", 3.0), ("a", "dqn", 2.5)]
        >>> trials = pd.DataFrame(rows, columns=["environment", "group", "return"])
        >>> add_normalized_scores(trials)["score"].tolist()
        [0.0, 1.0, 0.75]
    """
    means = _mean_returns(trials)
    scores = pd.Series(np.nan, trials.index, dtype=float)
    for environment, rows in trials.groupby("environment"):
        worst, best = (means.get((str(environment), each), np.nan) for each in (RANDOM, "oracle"))
        if best > worst:
            scores[rows.index] = (rows["return"] - worst) / (best - worst)
    return trials.assign(score=scores)


def learning_speed(curves: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Compute ``area`` and ``efficiency`` of each training.

    Args:
        curves: One row for each training episode, with ``step`` and ``return``.
        trials: With the ``return`` of random, from which efficiency is measured.
    """
    starts, rows = _mean_returns(trials), []
    by_training: dict[Any, pd.DataFrame] = dict(list(curves.groupby([*KEYS])))
    for key, curve in by_training.items():
        steps, returns = curve["step"].to_numpy(float), curve["return"].to_numpy(float)
        start = starts.get((key[0], RANDOM), math.nan)
        area = area_under_curve(steps, returns)
        rows.append((*key, area, sample_efficiency(steps, returns, start)))
    return pd.DataFrame(rows, columns=[*KEYS, "area", "efficiency"]).astype({"seed": int})


def to_long(trials: pd.DataFrame) -> pd.DataFrame:
    """Values of a comparison in long format, from one row for each trial."""
    long = trials.melt([*KEYS], var_name="metric").assign(split=EVALUATION)
    return pd.DataFrame(long[[*VALUE_COLUMNS]]).astype({"value": float})


def curves_to_long(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves of a comparison in long format, from one row for each training episode."""
    shared = curves.rename(columns={"wall_seconds": "seconds"})
    shared = shared.assign(split=TRAINING, layer=WHOLE_MODEL)
    parts = [shared.assign(metric=each, value=shared[each]) for each in ("return", "qk_pairs")]
    return pd.DataFrame(pd.concat(parts, ignore_index=True)[[*CURVE_COLUMNS]])


def _mean_returns(trials: pd.DataFrame) -> dict[tuple[str, str], float]:
    by_group: dict[Any, Any] = dict(list(trials.groupby(["environment", "group"])["return"]))
    return {key: float(rows.to_numpy(float).mean()) for key, rows in by_group.items()}


@dataclass
class _UniqueNames:
    """Names of environments and agents of several runs, such that no two share one.

    Attributes:
        environments: Environment and evaluation by name.
        agents: Configurations by name, as text.
        trials: Folder name, which holds the hash, by environment, agent and seed.
    """

    environments: dict[str, tuple[StudyEnv, EvalConfig]] = field(default_factory=dict)
    agents: dict[str, set[str]] = field(default_factory=dict)
    trials: dict[JobKey, str] = field(default_factory=dict)

    def add_run(self, run: str, trials: Sequence[Trial]) -> dict[str, str]:
        """Add the agents of a run; return their unique names by their names in the run."""
        configs: dict[str, set[str]] = {}
        for trial in trials:
            agent = replace(trial.agent, name="", environments=())
            config = (agent, trial.total_timesteps, trial.n_envs, trial.resumed_from_steps)
            configs.setdefault(trial.agent.name, set()).add(repr(config))
        unique = {}
        for name, config in configs.items():
            is_same = is_baseline(name) or self.agents.setdefault(name, config) == config
            unique[name] = name if is_same else f"{name} ({run})"
            self.agents.setdefault(unique[name], config)
        return unique

    def add_trial(self, run: str, trial: Trial, agent: str, folder: str) -> JobKey | None:
        """Add a trial; return its environment, agent and seed, or None if it is there already."""
        environment, config = trial.environment.name, (trial.environment, trial.evaluation)
        if self.environments.setdefault(environment, config) != config:
            environment = f"{environment} ({run})"
            self.environments[environment] = config
        key = (environment, agent, trial.seed)
        if key not in self.trials:
            self.trials[key] = folder
            return key
        if self.trials[key] == folder or is_baseline(agent):
            return None
        # The same configuration with another module of the user's, or on other content.
        agent = f"{agent} ({run})"
        self.agents.setdefault(agent, set())
        return (environment, agent, trial.seed)


@dataclass
class _Rows:
    """Tables of several jobs."""

    parts: list[tuple[JobKey, pd.DataFrame]] = field(default_factory=list)

    def append(self, key: JobKey, rows: pd.DataFrame) -> None:
        """Add the table of a job."""
        self.parts.append((key, rows))

    def concat(self, columns: Sequence[str], others: bool = False) -> pd.DataFrame:
        """Concatenate the tables, with the keys of the jobs as first columns.

        Args:
            columns: Columns that come first after the keys.
            others: Whether the other columns are kept after them.
        """
        columns = [*KEYS, *columns]
        if not self.parts:
            return pd.DataFrame(columns=columns)
        # Empty tables have no dtypes.
        parts = [part for part in self.parts if len(part[1])] or self.parts[:1]
        table = pd.concat([rows for _, rows in parts], ignore_index=True)
        lengths = [len(rows) for _, rows in parts]
        for name, values in zip(KEYS, zip(*(key for key, _ in parts), strict=True), strict=True):
            dtype = int if name == "seed" else object
            table[name] = np.repeat(np.array(values, dtype), lengths)
        more = [each for each in table.columns if others and each not in columns]
        return table.reindex(columns=[*columns, *more])


def _load_pilot(run: PilotDir, errors: dict[str, str]) -> Results:
    study, missing = run.study(), 0
    metrics = PILOT_METRICS[study.task]
    groups = tuple(each.name for each in study.variants)
    costs: list[dict[str, Any]] = []
    evaluations, curves, spans, by_action = _Rows(), _Rows(), _Rows(), _Rows()
    attention_maps: list[AttentionMap] = []
    stopped = []
    for job in sorted(run.jobs(), key=lambda job: (groups.index(job.variant.name), job.seed)):
        key = (study.task, job.variant.name, job.seed)
        if run.is_finished(job):
            result = run.result(job)
            costs.append({**dict(zip(KEYS, key, strict=True)), **result})
            if result["stopped"]:
                stopped.append((*key[1:], result["stopped"]))
            evaluations.append(key, run.table(job, "evaluation"))
            curves.append(key, run.table(job, "curve"))
            spans.append(key, run.table(job, "spans"))
            by_action.append(key, run.table(job, "by_span"))
            if job.seed == study.seeds[0]:
                try:
                    attention_maps += load_attention_maps(run.folder_of(job), job.variant.name)
                except ValueError as error:
                    raise UserError(f"run folder is damaged: {error}") from error
        elif error := errors.get(job.job_id) or run.error(job):
            errors[job.job_id] = error
        else:
            missing += 1
    evaluation = evaluations.concat(["update", "seconds", "split", *EVALUATED])
    action_values = by_action.concat(["split", "action", "error"])
    action_values = action_values.rename(columns={"error": "value"}).assign(metric="error")
    return Results(
        study_type="pilot",
        environments=(study.task,),
        groups=groups,
        baselines=groups[:1],
        splits=tuple(dict.fromkeys(evaluation["split"])),
        metrics=metrics,
        primary="error",
        values=pilot_values(pd.DataFrame(costs), evaluation, groups[0], metrics),
        curves=pilot_curves(
            evaluation,
            curves.concat(["update", "seconds", "loss"]),
            spans.concat(["update", "seconds", "layer", "span", "qk_pairs"]),
        ),
        action_values=action_values.reindex(columns=[*ACTION_VALUE_COLUMNS]),
        attention_maps=tuple(attention_maps),
        pairs=pilot_pairs(study.temperature_law_pairs, study.predictor_counterpart),
        stopped=tuple(stopped),
        failed=tuple(errors.items()),
        missing=missing,
    )


_COSTS = ("updates", "parameters", "seconds", "milliseconds", "qk_pairs", "full_qk_pairs", "span")


def pilot_values(
    costs: pd.DataFrame, evaluation: pd.DataFrame, baseline: str, metrics: Mapping[str, Any]
) -> pd.DataFrame:
    """Values of a pilot: the costs of each training, and its last evaluation on each split.

    Args:
        costs: One row for each finished training; the keys and the content of its result.
        evaluation: One row for each evaluation and split.
        baseline: Name of the plain attention, whose update time is the unit of ``time_ratio``.
        metrics: Metrics that are kept.
    """
    if not len(costs):
        return pd.DataFrame(columns=[*VALUE_COLUMNS])
    costs = costs.astype(dict.fromkeys(_COSTS, float))
    plain = costs[costs["group"] == baseline]
    times: dict[Any, float] = dict(zip(plain["seed"], plain["milliseconds"], strict=True))
    units = [times.get(seed, math.nan) for seed in costs["seed"]]
    costs["time_ratio"] = costs["milliseconds"] / units
    costs["qk_share"] = costs["qk_pairs"] / costs["full_qk_pairs"]
    costs = costs[[*KEYS, *_COSTS, "time_ratio", "qk_share"]].assign(split=ALL_SPLITS)
    last = evaluation.sort_values("update").drop_duplicates([*KEYS, "split"], keep="last")
    last = last[[*KEYS, "split", *(each for each in EVALUATED if each in metrics)]]
    parts = [each.melt([*KEYS, "split"], var_name="metric") for each in (last, costs)]
    values = pd.concat([each for each in parts if len(each)], ignore_index=True)
    return pd.DataFrame(values[[*VALUE_COLUMNS]]).astype({"value": float})


def pilot_curves(evaluation: pd.DataFrame, loss: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Curves of a pilot in long format, from one row for each evaluation or measurement."""
    loss = loss.assign(split=TRAINING, layer=WHOLE_MODEL)
    evaluation, spans = evaluation.assign(layer=WHOLE_MODEL), spans.assign(split=TRAINING)
    columns = [(loss, "loss"), (evaluation, "loss"), (evaluation, "error")]
    columns += [(spans, "span"), (spans, "qk_pairs")]
    parts = [table.assign(metric=each, value=table[each]) for table, each in columns if len(table)]
    if not parts:
        return pd.DataFrame(columns=[*CURVE_COLUMNS])
    long = pd.concat(parts, ignore_index=True).rename(columns={"update": "step"})
    return pd.DataFrame(long[[*CURVE_COLUMNS]]).astype({"value": float})


def pilot_pairs(
    laws: Mapping[str, str], counterparts: Mapping[str, str]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Pairs of variants that are compared in addition to those with plain attention.

    Args:
        laws: Temperature laws of the variants that differ in nothing else.
        counterparts: Variants with an agent, each with the same layer without one.
    """
    pairs = itertools.combinations(laws, 2)
    return {
        "temperature law": tuple(pair for pair in pairs if laws[pair[0]] != laws[pair[1]]),
        "controller": tuple(counterparts.items()),
    }
