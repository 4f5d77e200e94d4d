"""Reading studies: from TOML or by name, resolved, with errors that say what would be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spangym.envs import Settings, settings_for
from spangym.envs.data.dataset_registry import SOURCES
from spangym.envs.model.model_checkpoint import shipped_weights
from spangym.envs.registration import full_id
from spangym.experiments.studies.study import (
    OBSERVATION,
    REFERENCES,
    AgentEntry,
    EnvironmentEntry,
    EvaluationEntry,
    Study,
    Trial,
    make_agent,
)
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml

_TABLES: dict[str, type[Any]] = {
    "environments": EnvironmentEntry,
    "agents": AgentEntry,
    "evaluation": EvaluationEntry,
}


def shipped_studies() -> dict[str, str]:
    """TOML texts of the studies that come with the package, by name."""
    return builtin_texts("spangym.experiments.studies", "builtin")


def load_study(name: str) -> Study:
    """Read a study.

    Args:
        name: A TOML file, or the name of a shipped study.

    Returns:
        The study, resolved.

    Raises:
        UserError: There is no such file, or it is no study.
    """
    return parse_study(find_text("study", name, shipped_studies()), name)


def parse_study(text: str, name: str) -> Study:
    """Read a study from TOML and resolve it.

    Args:
        text: The TOML.
        name: What to call it in error messages.

    Returns:
        The study, resolved.

    Raises:
        UserError: It is not TOML, or no study that can be run.
    """
    study = parse_resolved(text, name)
    try:
        return resolve(study)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def parse_resolved(text: str, name: str) -> Study:
    """Read a study from TOML that was resolved before, without a look at its agents.

    Args:
        text: The TOML.
        name: What to call it in error messages.

    Raises:
        UserError: It is not TOML, or no study.
    """
    return parse_toml(text, name, Study, Study, _TABLES)


def resolve(study: Study) -> Study:
    """Fill in what a study leaves out, and refuse what cannot be run.

    Raises:
        UserError: An agent, an option or an argument of the environment is wrong.
    """
    study = dataclasses.replace(
        study,
        agents=tuple(resolve_agent(entry) for entry in study.agents),
        environments=tuple(_resolve_environment(each) for each in study.environments),
    )
    _check_budget(study)
    _check_labels(study)
    for environment in study.environments:
        for entry in study.entries(environment):
            try:
                study.trial(environment, entry, seed=0).training()
            except (TypeError, ValueError) as error:
                raise UserError(f"agent {entry.label!r}: {error}") from error
    return study


def _check_labels(study: Study) -> None:
    _check_slugs("environments", [each.slug for each in study.environments])
    labels = [each.label for each in study.environments]
    for entry in study.agents:
        for label in entry.environments:
            if label not in labels:
                raise UserError(
                    f"agent {entry.label!r} is to be compared in {label!r}, which is no "
                    f"environment of the study{did_you_mean(label, labels)}"
                )
    for environment in study.environments:
        _check_slugs("agents", [each.slug for each in study.entries(environment)])


def _check_slugs(what: str, slugs: Sequence[str]) -> None:
    lower = [slug.lower() for slug in slugs]
    for slug in slugs:
        if lower.count(slug.lower()) > 1:
            raise UserError(
                f"two {what} would be kept in one folder, {slug!r}: give one another label"
            )


def resolve_agent(entry: AgentEntry) -> AgentEntry:
    """Fill in what an agent's entry leaves out.

    Raises:
        UserError: There is no such agent, it cannot be made, or an option is wrong.
    """
    try:
        kind = entry.kind()
        kind.check_options(entry.options)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        make_agent(entry, seed=0)
    except (Exception, SystemExit) as error:  # Whatever a user's constructor may raise.
        raise UserError(
            f"agent {entry.agent!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if kind.encoding == "state" and entry.encoding not in ("", "state"):
        raise UserError(
            f"agent {entry.agent!r} learns from state ids: its encoding must be 'state', "
            f"got {entry.encoding!r}"
        )
    if kind.by_layer and not entry.layer_index and entry.options.get("by_layer", True):
        raise UserError(
            f"agent {entry.agent!r} keeps layers apart by the index that observations end with: "
            "set layer_index = true for it, or by_layer = false among its options"
        )
    return dataclasses.replace(
        entry, label=entry.label or entry.agent[-80:], encoding=entry.encoding or kind.encoding
    )


def _resolve_environment(entry: EnvironmentEntry) -> EnvironmentEntry:
    for name in (*OBSERVATION, "split"):
        if name in entry.arguments:
            belongs = "evaluation decides it" if name == "split" else "set it for an agent"
            raise UserError(f"environment argument {name!r} is not the environment's: {belongs}")
    try:
        settings = dataclasses.asdict(settings_for(entry.id, entry.arguments))
    except (TypeError, ValueError) as error:
        raise UserError(f"environment: {error}") from error
    for name in (*OBSERVATION, "split"):
        del settings[name]
    if settings["refresh"]:
        raise UserError(
            "environment argument 'refresh' is not for comparisons: their reference policies "
            "decide on spans alone"
        )
    for name, shipped in (("source", SOURCES), ("weights", shipped_weights())):
        if settings[name] and settings[name] not in shipped:
            # A run is gone on with from any folder.
            settings[name] = str(Path(settings[name]).resolve())
    name = full_id(entry.id)
    return EnvironmentEntry(name, entry.label or name.rpartition("/")[2], settings)


def judging(trial: Trial) -> Settings:
    """Settings in which the agent of a stored trial is evaluated.

    Raises:
        UserError: What the study reads is no longer there, or not on this machine.
    """
    try:
        return trial.judging()
    except (TypeError, ValueError) as error:
        raise UserError(f"the study's environment cannot be made: {error}") from error


def _check_budget(study: Study) -> None:
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds must differ, got {list(study.seeds)}")
    if study.steps % study.lanes:
        raise UserError(
            f"steps must be a multiple of lanes, got steps={study.steps}, lanes={study.lanes}"
        )
    if study.earlier_steps != tuple(sorted({*study.earlier_steps, study.steps}))[:-1]:
        raise UserError(
            f"earlier_steps must ascend to less than steps={study.steps}, "
            f"got {list(study.earlier_steps)}"
        )
    least = max(each.episode_steps for each in study.environments) * study.lanes
    if study.steps < least:
        raise UserError(
            f"steps must be at least {least}, one episode in each lane, got {study.steps}"
        )
    judged = study.evaluation
    if judged.regret_episodes > judged.episodes:
        raise UserError(
            f"evaluation: regret_episodes must be at most episodes={judged.episodes}, "
            f"got {judged.regret_episodes}"
        )


def change_study(
    study: Study,
    *,
    seeds: int | None = None,
    steps: int | None = None,
    agents: Sequence[str] = (),
    device: str | None = None,
) -> Study:
    """A study with some of it changed, as from the command line.

    Args:
        study: The study.
        seeds: Number of training seeds, counted from 0.
        steps: Steps of each training.
        agents: Labels of the study's agents, or names of others; only these are compared.
        device: Where the layers run.

    Returns:
        The changed study, resolved.

    Raises:
        UserError: What results is no study.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    if steps is not None:
        changes["steps"] = steps
    if agents:
        mine: dict[str, list[AgentEntry]] = {}
        for entry in study.agents:
            mine.setdefault(entry.label, []).append(entry)
        wanted = [name for name in dict.fromkeys(agents) if name not in REFERENCES]
        changes["agents"] = tuple(
            entry for name in wanted for entry in mine.get(name, [AgentEntry(name)])
        )
    if device is not None:
        changes["environments"] = tuple(
            dataclasses.replace(each, arguments={**each.arguments, "device": device})
            for each in study.environments
        )
    return resolve(dataclasses.replace(study, **changes))
