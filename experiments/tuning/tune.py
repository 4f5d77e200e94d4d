"""``spangym tune``: a search for an agent's hyperparameters, by Optuna."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import tomli_w
from rich import box
from rich.table import Table as RichTable

from spangym.experiments.runner.events import Failed, Finished, Progress
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent
from spangym.experiments.tuning.search_space import (
    Distribution,
    flatten,
    load_search_space,
    unflatten,
)
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import optuna

EVAL_SEED = 2_000_000
"""Trials are judged on streams of the training split from here on, which no training reads."""


@dataclass(frozen=True)
class Search:
    """A search for hyperparameters.

    Attributes:
        study: Environment, steps, environments and training seeds of each trial.
        entry: The agent: what it observes, and hyperparameters that are not searched.
        search_space: What is searched.
        trials: How many hyperparameters are tried.
        seed: Of the sampler.
    """

    study: Study
    entry: StudyAgent
    search_space: dict[str, Distribution]
    trials: int
    seed: int

    def candidate(self, number: int, params: dict[str, Any]) -> StudyAgent:
        """The agent with hyperparameters that were chosen."""
        hyperparameters = unflatten(params, self.entry.hyperparameters)
        return dataclasses.replace(
            self.entry, name=f"trial-{number}", hyperparameters=hyperparameters
        )

    def describe(self) -> str:
        """What is tried, in a sentence."""
        study = self.study
        return (
            f"{self.trials} trials by Optuna's TPE (seed {self.seed}), each of {study.total_timesteps:,} "
            f"steps in {study.n_envs} envs from {len(study.seeds)} training seed(s), evaluated on "
            f"{study.evaluation.episodes} episodes of the training split that no training reads"
        )


@dataclass(frozen=True)
class TrialResult:
    """Hyperparameters that were tried.

    Attributes:
        number: Of the trial.
        params: The hyperparameters that have a range.
        mean_return: Mean return of an episode; None if the trial failed.
        error: Why it failed.
    """

    number: int
    params: dict[str, Any]
    mean_return: float | None
    error: str = ""

    def __str__(self) -> str:
        """In a line."""
        said = f"failed: {self.error}"
        if self.mean_return is not None:
            said = f"{self.mean_return:.4f}"
        return f"trial {self.number}: {said} {json.dumps(self.params)}"


def best_of(tried: list[TrialResult]) -> TrialResult | None:
    """The one that earned most; None if all failed."""
    whole = [each for each in tried if each.mean_return is not None]
    return max(whole, key=lambda each: each.mean_return or 0.0, default=None)


def trials_table(tried: list[TrialResult], most: int = 5) -> RichTable:
    """The best for the terminal, a column each."""
    whole = [each for each in tried if each.mean_return is not None]
    whole.sort(key=lambda each: -(each.mean_return or 0.0))
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("hyperparameter")
    for each in whole[:most]:
        table.add_column(f"trial {each.number}", justify="right")
    table.add_row(
        "mean return of an episode", *(f"{each.mean_return:.4f}" for each in whole[:most])
    )
    for name in whole[0].params:
        table.add_row(name, *(_short(each.params[name]) for each in whole[:most]))
    return table


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def search_space_for(study: Study, agent: str, path: Path | None) -> dict[str, Distribution]:
    """Ranges for an agent of a study: from a file, or those shipped for its kind.

    Raises:
        UserError: There is no such agent, or there is no search space.
    """
    return load_search_space(_entry(study, agent).algo if path is None else str(path))


def _entry(study: Study, agent: str) -> StudyAgent:
    found = [entry for entry in study.agents if entry.name == agent]
    known = [entry.name for entry in study.agents]
    if not found:
        hint = did_you_mean(agent, known) if known else "; it has none"
        raise UserError(f"study {study.name!r} has no agent {agent!r}{hint}")
    places = [each for each in study.environments if any(entry.applies_to(each) for entry in found)]
    if len(found) > 1 or len(places) > 1:
        raise UserError(
            f"agent {agent!r} of the study {study.name!r} is compared in "
            f"{len(places)} environments: a search is of one"
        )
    return found[0]


def build_search(
    study: Study,
    agent: str,
    search_space: dict[str, Distribution],
    *,
    trials: int,
    total_timesteps: int | None,
    seeds: int,
    episodes: int,
    seed: int,
) -> Search:
    """A search for an agent of a study.

    Args:
        study: A resolved study.
        agent: Name of one of its agents.
        search_space: What is searched.
        trials: How many hyperparameters are tried.
        total_timesteps: Steps of each training; the study's if None.
        seeds: Training seeds of each trial.
        episodes: Episodes that judge it.
        seed: Of the sampler.

    Raises:
        UserError: There is no such agent, or what is asked for cannot be run.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune needs Optuna, which is not installed: pip install 'spangym[tune]'")
    entry = _entry(study, agent)
    for name in search_space:
        try:
            entry.spec().check_options({name.partition(".")[0]: None})
        except ValueError as error:
            raise UserError(f"search space: {error}") from error
    tried = dataclasses.replace(
        study,
        name=f"{study.name}-tune",
        agents=(entry,),
        seeds=tuple(range(seeds)),
        total_timesteps=study.total_timesteps if total_timesteps is None else total_timesteps,
        environments=tuple(each for each in study.environments if entry.applies_to(each)),
        evaluation=EvalConfig(EVAL_SEED, episodes, regret_episodes=0, split="train"),
    )
    return Search(normalize_study(tried), entry, search_space, trials, seed)


def optimize(
    search: Search, folder: Path, workers: int, progress: Callable[[int], None]
) -> Iterator[TrialResult]:
    """Try hyperparameters; what was tried in the folder before is not tried again.

    The first to be tried are the study's own, as far as they are in the search space.

    Args:
        search: What to search.
        folder: Keeps Optuna's journal.
        workers: Trainings side by side.
        progress: Called with the steps that were taken of all trials not tried before.

    Yields:
        What was tried, those of earlier runs first.

    Raises:
        UserError: The folder holds another search.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_search(search, folder)
    optimizer = optuna.create_study(
        direction="maximize",
        # Batches of trials are asked for before any of them is told.
        sampler=optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=5),
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        study_name="search",
        load_if_exists=True,
    )
    before = [each for each in optimizer.trials if each.state.is_finished()]
    for each in before:
        yield _from_frozen_trial(each, search.search_space)
    if not before:
        known = flatten(search.entry.hyperparameters, search.search_space)
        values = {
            name: value
            for name, value in known.items()
            if search.search_space[name].contains(value)
        }
        optimizer.enqueue_trial(_encoded(values, search.search_space), skip_if_exists=True)
    done = len(before)
    together = max(1, workers // len(search.study.seeds))
    while done < search.trials:
        asked = [optimizer.ask() for _ in range(min(together, search.trials - done))]
        params = [_suggest(each, search.search_space) for each in asked]
        numbers = [each.number for each in asked]
        steps = (done - len(before)) * search.study.total_timesteps * len(search.study.seeds)
        results = _run(
            search,
            numbers,
            params,
            folder,
            workers,
            lambda more, steps=steps: progress(steps + more),
        )
        for trial, values, result in zip(asked, params, results, strict=True):
            if isinstance(result, str):
                optimizer.tell(trial, state=optuna.trial.TrialState.FAIL)
                yield TrialResult(trial.number, values, None, result)
            else:
                optimizer.tell(trial, result)
                yield TrialResult(trial.number, values, result)
        done += len(asked)


def save_best(path: Path, search: Search, best: TrialResult) -> None:
    """Write the best hyperparameters as an agent of a study, with how they were found."""
    entry = dataclasses.replace(search.candidate(0, best.params), name=search.entry.name)
    kept = {
        name: value
        for name, value in dataclasses.asdict(entry).items()
        if value or name in ("algo", "hyperparameters")
    }
    search_space = {
        name: [*each.choices] if each.choices else [each.low, each.high]
        for name, each in search.search_space.items()
    }
    text = (
        f"# {search.describe()};\n"
        f"# the best earned {best.mean_return:.4f} an episode. Searched: {json.dumps(search_space)}\n"
    )
    with atomic_write(path) as tmp:
        tmp.write_text(text + tomli_w.dumps({"agents": [kept]}), "utf-8")


def _check_same_search(search: Search, folder: Path) -> None:
    """Note which search the folder is of, or see that it is the same."""
    path = folder / "search.json"
    mine = {
        "study": search.study.to_toml(),
        "search_space": {
            name: dataclasses.asdict(each) for name, each in search.search_space.items()
        },
        "seed": search.seed,
    }
    text = json.dumps(mine, indent=2) + "\n"
    if path.exists() and path.read_text("utf-8") != text:
        raise UserError(f"folder {str(folder)!r} holds another search: choose another with --out")
    with atomic_write(path) as tmp:
        tmp.write_text(text, "utf-8")


def _run(
    search: Search,
    numbers: list[int],
    params: list[dict[str, Any]],
    folder: Path,
    workers: int,
    progress: Callable[[int], None],
) -> list[float | str]:
    """Mean returns of several hyperparameters, or why they failed."""
    study = search.study
    (environment,) = study.environments
    entries = [search.candidate(*each) for each in zip(numbers, params, strict=True)]
    pairs = [
        (trial, folder / "trials" / trial.job_id)
        for entry in entries
        for trial in (study.trial(environment, entry, seed) for seed in study.seeds)
    ]
    for _, path in pairs:
        shutil.rmtree(path, ignore_errors=True)
    steps: dict[str, int] = {}
    results: dict[str, list[float]] = {entry.name: [] for entry in entries}
    errors: dict[str, str] = {}
    labels = {trial.job_id: trial.agent.name for trial, _ in pairs}
    for event in LocalExecutor(workers).run(pairs):
        label = labels[event.job.job_id]
        if isinstance(event, Progress):
            steps[event.job.job_id] = min(event.done, study.total_timesteps)
            progress(sum(steps.values()))
        elif isinstance(event, Failed):
            errors[label] = event.error
        elif isinstance(event, Finished):
            path = folder / "trials" / event.job.job_id / "result.json"
            result = json.loads(path.read_text("utf-8"))
            results[label].append(result["evaluation_return"])
    # Hundreds of trials with their checkpoints would fill a disk.
    shutil.rmtree(folder / "trials")
    return [errors.get(entry.name) or fmean(results[entry.name]) for entry in entries]


def _suggest(trial: optuna.Trial, search_space: dict[str, Distribution]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, each in search_space.items():
        if each.choices:
            # Optuna's choices are plain values; by their place they may be lists, too.
            index = trial.suggest_categorical(name, [*range(len(each.choices))])
            params[name] = each.choices[index]
        elif each.is_whole:
            params[name] = trial.suggest_int(name, each.low, each.high, log=each.log)  # pyright: ignore[reportArgumentType]
        else:
            params[name] = trial.suggest_float(name, each.low, each.high, log=each.log)  # pyright: ignore[reportArgumentType]
    return params


def _encoded(values: dict[str, Any], search_space: dict[str, Distribution]) -> dict[str, Any]:
    """Values as Optuna knows them: choices by their place."""
    return {
        name: search_space[name].index(value) if search_space[name].choices else value
        for name, value in values.items()
    }


def _from_frozen_trial(
    record: optuna.trial.FrozenTrial, search_space: dict[str, Distribution]
) -> TrialResult:
    params = {
        name: search_space[name].choices[value] if search_space[name].choices else value
        for name, value in record.params.items()
    }
    error = "" if record.value is not None else "it failed in an earlier run"
    return TrialResult(record.number, params, record.value, error)
