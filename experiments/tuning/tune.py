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
from rich.table import Table

from spangym.experiments.runner.events import Failed, Finished, Progress
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.studies.load_study import resolve
from spangym.experiments.studies.study import AgentEntry, EvaluationEntry, Study
from spangym.experiments.tuning.search_space import Range, flat, load_ranges, nested
from spangym.utils.atomic_io import written_whole
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import optuna

FIRST_SEED = 2_000_000
"""Trials are judged on streams of the training split from here on, which no training reads."""


@dataclass(frozen=True)
class Search:
    """A search for hyperparameters.

    Attributes:
        study: Environment, steps, lanes and training seeds of each trial.
        entry: The agent: what it observes, and options that have no range.
        ranges: What is searched.
        trials: How many hyperparameters are tried.
        seed: Of the sampler.
    """

    study: Study
    entry: AgentEntry
    ranges: dict[str, Range]
    trials: int
    seed: int

    def candidate(self, number: int, chosen: dict[str, Any]) -> AgentEntry:
        """The agent with hyperparameters that were chosen."""
        options = nested(chosen, self.entry.options)
        return dataclasses.replace(self.entry, label=f"trial-{number}", options=options)

    def describe(self) -> str:
        """What is tried, in a sentence."""
        study = self.study
        return (
            f"{self.trials} trials by Optuna's TPE (seed {self.seed}), each of {study.steps:,} "
            f"steps in {study.lanes} lanes from {len(study.seeds)} training seed(s), judged by "
            f"{study.evaluation.episodes} episodes of the training split that no training reads"
        )


@dataclass(frozen=True)
class Tried:
    """Hyperparameters that were tried.

    Attributes:
        number: Of the trial.
        chosen: The hyperparameters that have a range.
        mean_return: Mean return of an episode; None if the trial failed.
        error: Why it failed.
    """

    number: int
    chosen: dict[str, Any]
    mean_return: float | None
    error: str = ""

    def __str__(self) -> str:
        """In a line."""
        said = f"failed: {self.error}"
        if self.mean_return is not None:
            said = f"{self.mean_return:.4f}"
        return f"trial {self.number}: {said} {json.dumps(self.chosen)}"


def best_of(tried: list[Tried]) -> Tried | None:
    """The one that earned most; None if all failed."""
    whole = [each for each in tried if each.mean_return is not None]
    return max(whole, key=lambda each: each.mean_return or 0.0, default=None)


def make_tried_table(tried: list[Tried], most: int = 5) -> Table:
    """The best for the terminal, a column each."""
    whole = [each for each in tried if each.mean_return is not None]
    whole.sort(key=lambda each: -(each.mean_return or 0.0))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("hyperparameter")
    for each in whole[:most]:
        table.add_column(f"trial {each.number}", justify="right")
    table.add_row(
        "mean return of an episode", *(f"{each.mean_return:.4f}" for each in whole[:most])
    )
    for name in whole[0].chosen:
        table.add_row(name, *(_short(each.chosen[name]) for each in whole[:most]))
    return table


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def read_ranges(study: Study, label: str, path: Path | None) -> dict[str, Range]:
    """Ranges for an agent of a study: from a file, or those shipped for its kind.

    Raises:
        UserError: There is no such agent, or there are no ranges.
    """
    return load_ranges(_entry(study, label).agent if path is None else str(path))


def _entry(study: Study, label: str) -> AgentEntry:
    found = [entry for entry in study.agents if entry.label == label]
    known = [entry.label for entry in study.agents]
    if not found:
        hint = did_you_mean(label, known) if known else "; it has none"
        raise UserError(f"study {study.name!r} has no agent {label!r}{hint}")
    places = [each for each in study.environments if any(entry.acts_in(each) for entry in found)]
    if len(found) > 1 or len(places) > 1:
        raise UserError(
            f"agent {label!r} of the study {study.name!r} is compared in "
            f"{len(places)} environments: a search is of one"
        )
    return found[0]


def make_search(
    study: Study,
    label: str,
    ranges: dict[str, Range],
    *,
    trials: int,
    steps: int | None,
    seeds: int,
    episodes: int,
    seed: int,
) -> Search:
    """A search for an agent of a study.

    Args:
        study: A resolved study.
        label: Of one of its agents.
        ranges: What is searched.
        trials: How many hyperparameters are tried.
        steps: Steps of each training; the study's if None.
        seeds: Training seeds of each trial.
        episodes: Episodes that judge it.
        seed: Of the sampler.

    Raises:
        UserError: There is no such agent, or what is asked for cannot be run.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune needs Optuna, which is not installed: pip install 'spangym[tune]'")
    entry = _entry(study, label)
    for name in ranges:
        try:
            entry.kind().check_options({name.partition(".")[0]: None})
        except ValueError as error:
            raise UserError(f"ranges: {error}") from error
    tried = dataclasses.replace(
        study,
        name=f"{study.name}-tune",
        agents=(entry,),
        seeds=tuple(range(seeds)),
        steps=study.steps if steps is None else steps,
        environments=tuple(each for each in study.environments if entry.acts_in(each)),
        evaluation=EvaluationEntry(FIRST_SEED, episodes, regret_episodes=0, split="train"),
    )
    return Search(resolve(tried), entry, ranges, trials, seed)


def run_search(
    search: Search, folder: Path, jobs: int, progress: Callable[[int], None]
) -> Iterator[Tried]:
    """Try hyperparameters; what was tried in the folder before is not tried again.

    The first to be tried are the study's own, as far as they have ranges.

    Args:
        search: What to search.
        folder: Keeps Optuna's journal.
        jobs: Trainings side by side.
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
    _claim(search, folder)
    optimiser = optuna.create_study(
        direction="maximize",
        # Batches of trials are asked for before any of them is told.
        sampler=optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=5),
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        study_name="search",
        load_if_exists=True,
    )
    before = [each for each in optimiser.trials if each.state.is_finished()]
    for each in before:
        yield _of_record(each, search.ranges)
    if not before:
        known = flat(search.entry.options, search.ranges)
        values = {name: value for name, value in known.items() if search.ranges[name].holds(value)}
        optimiser.enqueue_trial(_encoded(values, search.ranges), skip_if_exists=True)
    done = len(before)
    together = max(1, jobs // len(search.study.seeds))
    while done < search.trials:
        asked = [optimiser.ask() for _ in range(min(together, search.trials - done))]
        chosen = [_suggest(each, search.ranges) for each in asked]
        numbers = [each.number for each in asked]
        steps = (done - len(before)) * search.study.steps * len(search.study.seeds)
        results = _run(
            search, numbers, chosen, folder, jobs, lambda more, steps=steps: progress(steps + more)
        )
        for trial, values, result in zip(asked, chosen, results, strict=True):
            if isinstance(result, str):
                optimiser.tell(trial, state=optuna.trial.TrialState.FAIL)
                yield Tried(trial.number, values, None, result)
            else:
                optimiser.tell(trial, result)
                yield Tried(trial.number, values, result)
        done += len(asked)


def write_best(path: Path, search: Search, best: Tried) -> None:
    """Write the best hyperparameters as an agent of a study, with how they were found."""
    entry = dataclasses.replace(search.candidate(0, best.chosen), label=search.entry.label)
    kept = {
        name: value
        for name, value in dataclasses.asdict(entry).items()
        if value or name in ("agent", "options")
    }
    ranges = {
        name: [*each.choices] if each.choices else [each.low, each.high]
        for name, each in search.ranges.items()
    }
    text = (
        f"# {search.describe()};\n"
        f"# the best earned {best.mean_return:.4f} an episode. Searched: {json.dumps(ranges)}\n"
    )
    with written_whole(path) as aside:
        aside.write_text(text + tomli_w.dumps({"agents": [kept]}), "utf-8")


def _claim(search: Search, folder: Path) -> None:
    """Note which search the folder is of, or see that it is the same."""
    path = folder / "search.json"
    mine = {
        "study": search.study.to_toml(),
        "ranges": {name: dataclasses.asdict(each) for name, each in search.ranges.items()},
        "seed": search.seed,
    }
    text = json.dumps(mine, indent=2) + "\n"
    if path.exists() and path.read_text("utf-8") != text:
        raise UserError(f"folder {str(folder)!r} holds another search: choose another with --out")
    with written_whole(path) as aside:
        aside.write_text(text, "utf-8")


def _run(
    search: Search,
    numbers: list[int],
    chosen: list[dict[str, Any]],
    folder: Path,
    jobs: int,
    progress: Callable[[int], None],
) -> list[float | str]:
    """Mean returns of several hyperparameters, or why they failed."""
    study = search.study
    (environment,) = study.environments
    entries = [search.candidate(*each) for each in zip(numbers, chosen, strict=True)]
    pairs = [
        (trial, folder / "trials" / trial.name)
        for entry in entries
        for trial in (study.trial(environment, entry, seed) for seed in study.seeds)
    ]
    for _, path in pairs:
        shutil.rmtree(path, ignore_errors=True)
    steps: dict[str, int] = {}
    results: dict[str, list[float]] = {entry.label: [] for entry in entries}
    errors: dict[str, str] = {}
    labels = {trial.name: trial.agent.label for trial, _ in pairs}
    for event in LocalExecutor(jobs).run(pairs):
        label = labels[event.job.name]
        if isinstance(event, Progress):
            steps[event.job.name] = min(event.done, study.steps)
            progress(sum(steps.values()))
        elif isinstance(event, Failed):
            errors[label] = event.error
        elif isinstance(event, Finished):
            path = folder / "trials" / event.job.name / "result.json"
            result = json.loads(path.read_text("utf-8"))
            results[label].append(result["evaluation_return"])
    # Hundreds of trials with their checkpoints would fill a disk.
    shutil.rmtree(folder / "trials")
    return [errors.get(entry.label) or fmean(results[entry.label]) for entry in entries]


def _suggest(trial: optuna.Trial, ranges: dict[str, Range]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, each in ranges.items():
        if each.choices:
            # Optuna's choices are plain values; by their place they may be lists, too.
            index = trial.suggest_categorical(name, [*range(len(each.choices))])
            chosen[name] = each.choices[index]
        elif each.is_whole:
            chosen[name] = trial.suggest_int(name, each.low, each.high, log=each.log)  # pyright: ignore[reportArgumentType]
        else:
            chosen[name] = trial.suggest_float(name, each.low, each.high, log=each.log)  # pyright: ignore[reportArgumentType]
    return chosen


def _encoded(values: dict[str, Any], ranges: dict[str, Range]) -> dict[str, Any]:
    """Values as Optuna knows them: choices by their place."""
    return {
        name: ranges[name].index(value) if ranges[name].choices else value
        for name, value in values.items()
    }


def _of_record(record: optuna.trial.FrozenTrial, ranges: dict[str, Range]) -> Tried:
    chosen = {
        name: ranges[name].choices[value] if ranges[name].choices else value
        for name, value in record.params.items()
    }
    error = "" if record.value is not None else "it failed in an earlier run"
    return Tried(record.number, chosen, record.value, error)
