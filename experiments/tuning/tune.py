"""Hyperparameter search with Optuna, as ``spangym tune`` runs it."""

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

from spangym.experiments.runner.job import Failed, Finished, Progress
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.settings import with_nested
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent, StudyEnv
from spangym.experiments.tables.build_tables import TableBuild, tables_of
from spangym.experiments.trials.trial import make_trial
from spangym.experiments.tuning.search_space import Distribution, flatten
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.text import pluralize

if TYPE_CHECKING:
    import optuna

EVAL_SEED = 2_000_000
"""First evaluation seed: streams of the training split that no training reads."""

EVAL_LEVELS = 512
"""Levels of the evaluation in a table, by default."""

_EPISODES, _TABLE_EPISODES = 32, 128
"""Evaluation episodes by default; those in a table take hardly any time."""


@dataclass(frozen=True)
class Search:
    """A hyperparameter search.

    Attributes:
        study: Environment, training steps, training seeds and evaluation of every trial.
        entry: Agent, with the hyperparameters that are not searched.
        search_space: Distribution of each searched hyperparameter.
        num_trials: Number of trials.
        seed: Seed of the sampler.
    """

    study: Study
    entry: StudyAgent
    search_space: dict[str, Distribution]
    num_trials: int
    seed: int

    def agent_with(self, params: dict[str, Any], name: str) -> StudyAgent:
        """Return the agent with searched hyperparameters, under a name."""
        hyperparameters = with_nested(self.entry.hyperparameters, params)
        return dataclasses.replace(self.entry, name=name, hyperparameters=hyperparameters)

    def describe(self) -> str:
        """Describe the budget of the search."""
        study, levels = self.study, self.study.evaluation.num_levels
        content = pluralize(levels, "level") if levels else "the training split"
        return (
            f"{pluralize(self.num_trials, 'trial')} by Optuna's TPE (seed {self.seed}), each of "
            f"{study.total_timesteps:,} steps in {pluralize(study.n_envs, 'environment')} for "
            f"{pluralize(len(study.seeds), 'training seed')}, evaluated on "
            f"{pluralize(study.evaluation.episodes, 'episode')} of {content} that no training reads"
        )


@dataclass(frozen=True)
class TrialResult:
    """A trial, numbered from 0; its ``mean_return`` of an episode is None if it failed."""

    number: int
    params: dict[str, Any]
    mean_return: float | None
    error: str = ""

    def __str__(self) -> str:
        outcome = f"failed: {self.error}" if self.mean_return is None else f"{self.mean_return:.4f}"
        return f"trial {self.number}: {outcome} {json.dumps(self.params)}"


def rank(results: list[TrialResult]) -> list[TrialResult]:
    """Sort the trials that did not fail by mean return, highest first."""
    finished = [(each.mean_return, each) for each in results if each.mean_return is not None]
    return [each for _, each in sorted(finished, key=lambda pair: -pair[0])]


def trials_table(results: list[TrialResult], most: int = 5) -> RichTable:
    """Show the best trials for the terminal, one column each."""
    best = rank(results)[:most]
    table = RichTable("hyperparameter", box=box.SIMPLE_HEAD)
    for each in best:
        table.add_column(f"trial {each.number}", justify="right")
    table.add_row("mean return of an episode", *(f"{each.mean_return:.4f}" for each in best))
    for name in best[0].params:
        values = [each.params[name] for each in best]
        table.add_row(
            name, *(f"{v:.3g}" if isinstance(v, float) else json.dumps(v) for v in values)
        )
    return table


def find_study_agent(study: Study, agent: str) -> StudyAgent:
    """Return a study's agent by name; UserError unless it is compared in one environment."""
    found = [entry for entry in study.agents if entry.name == agent]
    if not found:
        names = [entry.name for entry in study.agents]
        hint = did_you_mean(agent, names) if names else "; it has none"
        raise UserError(f"study {study.name!r} has no agent {agent!r}{hint}")
    if len(found) > 1 or len(_environments_of(study, found[0])) > 1:
        raise UserError(
            f"agent {agent!r} of the study {study.name!r} is compared in several environments: a "
            "search has one"
        )
    return found[0]


def _environments_of(study: Study, entry: StudyAgent) -> tuple[StudyEnv, ...]:
    return tuple(each for each in study.environments if entry in study.agents_in(each))


def build_search(
    study: Study,
    agent: str,
    search_space: dict[str, Distribution],
    *,
    num_trials: int,
    seeds: int,
    seed: int,
    episodes: int | None = None,
    eval_levels: int = EVAL_LEVELS,
) -> Search:
    """Build a search for an agent of a normalized study; UserError if the options do not fit.

    ``seeds`` and ``episodes`` are those of each trial, ``seed`` is that of the sampler. If the
    training looks everything up in a table, so does the evaluation, on the ``eval_levels`` levels
    after those of the training.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune needs Optuna, which is not installed: pip install 'spangym[tune]'")
    entry = find_study_agent(study, agent)
    try:
        entry.spec().check_options({name.partition(".")[0]: None for name in search_space})
    except ValueError as error:
        raise UserError(f"search space: {error}") from error
    (environment,) = _environments_of(study, entry)
    trial_study = dataclasses.replace(
        study,
        name=f"{study.name}-tune",
        total_timesteps=study.steps_in(environment),
        agents=(entry,),
        seeds=tuple(range(seeds)),
        environments=(dataclasses.replace(environment, seeds=(), total_timesteps=0),),
        evaluation=_evaluation(environment, episodes, eval_levels),
    )
    return Search(normalize_study(trial_study), entry, search_space, num_trials, seed)


def _evaluation(environment: StudyEnv, episodes: int | None, eval_levels: int) -> EvalConfig:
    """Return an evaluation on data of the training split that no training reads."""
    if environment.is_foreign or environment.kwargs["backend"] != "table":
        return EvalConfig(EVAL_SEED, episodes or _EPISODES, regret_episodes=0, split="train")
    return EvalConfig(
        EVAL_SEED,
        episodes or _TABLE_EPISODES,
        regret_episodes=0,
        split="train",
        num_levels=eval_levels,
        start_level=environment.levels.stop,
        backend="table",
    )


def tables_of_search(search: Search) -> list[TableBuild]:
    """Return the tables that all trials of a search share."""
    (environment,) = search.study.environments
    return tables_of([make_trial(search.study, environment, search.entry, seed=0)])


def optimize(
    search: Search, folder: Path, workers: int, progress: Callable[[int], None]
) -> Iterator[TrialResult]:
    """Run a search and yield its results; trials that the folder already holds are not repeated.

    The first trial has the study's own hyperparameters, as far as the search space contains them.
    ``progress`` is called with the number of steps taken by the new trials. The folder holds
    Optuna's journal; that of another search raises a UserError.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_search(search, folder)
    optimizer = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=5),
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        study_name="search",
        load_if_exists=True,
    )
    earlier = [each for each in optimizer.trials if each.state.is_finished()]
    for each in earlier:
        yield _to_result(search, each)
    space = search.search_space
    if not earlier:
        own = flatten(search.entry.hyperparameters, space)
        optimizer.enqueue_trial(
            {name: space[name].encode(v) for name, v in own.items() if space[name].contains(v)}
        )
    steps_per_trial = search.study.total_timesteps * len(search.study.seeds)
    batch_size = max(1, workers // len(search.study.seeds))
    with LocalExecutor(workers) as executor:
        for done in range(len(earlier), search.num_trials, batch_size):
            # Trials of a batch are sampled before any of them has finished.
            batch = [
                optimizer.ask({name: each.to_optuna() for name, each in space.items()})
                for _ in range(min(batch_size, search.num_trials - done))
            ]
            candidates = {f"trial-{trial.number}": _decode(search, trial.params) for trial in batch}
            steps_before = (done - len(earlier)) * steps_per_trial
            outcomes = _train(
                search,
                [search.agent_with(params, name) for name, params in candidates.items()],
                folder / "trials",
                executor,
                lambda steps, steps_before=steps_before: progress(steps_before + steps),
            )
            for trial, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, str):
                    trial.set_user_attr("error", outcome)
                    optimizer.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    optimizer.tell(trial, outcome)
                yield _to_result(search, optimizer.trials[trial.number])


def save_best(path: Path, search: Search, best: TrialResult) -> None:
    """Write the best trial as an agent of a study, with a comment on the search."""
    entry = dataclasses.asdict(search.agent_with(best.params, search.entry.name))
    used = {
        name: value for name, value in entry.items() if value or name in ("algo", "hyperparameters")
    }
    space = {
        name: [*each.choices] if each.choices else [each.low, each.high]
        for name, each in search.search_space.items()
    }
    text = (
        f"# {search.describe()};\n"
        f"# mean return of an episode: {best.mean_return:.4f}. Search space: {json.dumps(space)}\n"
    )
    with atomic_write(path) as tmp:
        tmp.write_text(text + tomli_w.dumps({"agents": [used]}), "utf-8")


def _check_same_search(search: Search, folder: Path) -> None:
    path = folder / "search.json"
    description = {
        "study": search.study.to_toml(),
        "search_space": {
            name: dataclasses.asdict(each) for name, each in search.search_space.items()
        },
        "seed": search.seed,
    }
    text = json.dumps(description, indent=2) + "\n"
    if path.exists() and path.read_bytes() != text.encode():
        raise UserError(f"folder {str(folder)!r} holds another search: choose another with --out")
    with atomic_write(path) as tmp:
        tmp.write_text(text, "utf-8")


def _train(
    search: Search,
    agents: list[StudyAgent],
    folder: Path,
    executor: LocalExecutor,
    progress: Callable[[int], None],
) -> list[float | str]:
    """Train agents; return the mean return of each, or its error."""
    study = search.study
    (environment,) = study.environments
    trials = [
        make_trial(study, environment, agent, seed) for agent in agents for seed in study.seeds
    ]
    steps: dict[str, int] = {}
    returns: dict[str, list[float]] = {agent.name: [] for agent in agents}
    errors: dict[str, str] = {}
    names = {trial.job_id: trial.agent.name for trial in trials}
    shutil.rmtree(folder, ignore_errors=True)
    for event in executor.run([(each, folder / each.job_id) for each in trials]):
        job_id = event.job.job_id
        if isinstance(event, Progress):
            steps[job_id] = min(event.done, study.total_timesteps)
            progress(sum(steps.values()))
        elif isinstance(event, Failed):
            errors[names[job_id]] = event.error
        elif isinstance(event, Finished):
            result = json.loads((folder / job_id / "result.json").read_text("utf-8"))
            returns[names[job_id]].append(result["evaluation_return"])
    # The checkpoints of hundreds of trials would fill a disk.
    shutil.rmtree(folder)
    return [errors.get(agent.name) or fmean(returns[agent.name]) for agent in agents]


def _decode(search: Search, params: dict[str, Any]) -> dict[str, Any]:
    return {name: search.search_space[name].decode(value) for name, value in params.items()}


def _to_result(search: Search, trial: optuna.trial.FrozenTrial) -> TrialResult:
    error = trial.user_attrs.get("error", "" if trial.value is not None else "interrupted")
    return TrialResult(trial.number, _decode(search, trial.params), trial.value, error)
