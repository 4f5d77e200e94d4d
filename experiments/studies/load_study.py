"""Reading studies: from TOML or by name, resolved, with errors that say what would be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spangym.envs import EnvConfig, make_config
from spangym.envs.data.dataset_registry import DATASETS
from spangym.envs.model.model_checkpoint import builtin_checkpoints
from spangym.envs.registration import full_id
from spangym.experiments.studies.study import (
    BASELINES,
    OBS_FIELDS,
    EvalConfig,
    Study,
    StudyAgent,
    StudyEnv,
    Trial,
    make_agent,
)
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml

_TABLES: dict[str, type[Any]] = {
    "environments": StudyEnv,
    "agents": StudyAgent,
    "evaluation": EvalConfig,
}


def builtin_studies() -> dict[str, str]:
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
    return parse_study(find_text("study", name, builtin_studies()), name)


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
    study = parse_normalized(text, name)
    try:
        return normalize_study(study)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def parse_normalized(text: str, name: str) -> Study:
    """Read a study from TOML that was resolved before, without a look at its agents.

    Args:
        text: The TOML.
        name: What to call it in error messages.

    Raises:
        UserError: It is not TOML, or no study.
    """
    return parse_toml(text, name, Study, Study, _TABLES)


def normalize_study(study: Study) -> Study:
    """Fill in what a study leaves out, and refuse what cannot be run.

    Raises:
        UserError: An agent, an option or an argument of the environment is wrong.
    """
    study = dataclasses.replace(
        study,
        agents=tuple(normalize_agent(entry) for entry in study.agents),
        environments=tuple(_normalize_env(each) for each in study.environments),
    )
    _check_budget(study)
    _check_names(study)
    for environment in study.environments:
        for entry in study.agents_in(environment):
            try:
                study.trial(environment, entry, seed=0).train_config()
            except (TypeError, ValueError) as error:
                raise UserError(f"agent {entry.name!r}: {error}") from error
    return study


def _check_names(study: Study) -> None:
    _check_slugs("environments", [each.slug for each in study.environments])
    names = [each.name for each in study.environments]
    for entry in study.agents:
        for name in entry.environments:
            if name not in names:
                raise UserError(
                    f"agent {entry.name!r} is to be compared in {name!r}, which is no "
                    f"environment of the study{did_you_mean(name, names)}"
                )
    for environment in study.environments:
        _check_slugs("agents", [each.slug for each in study.agents_in(environment)])


def _check_slugs(what: str, slugs: Sequence[str]) -> None:
    lower = [slug.lower() for slug in slugs]
    for slug in slugs:
        if lower.count(slug.lower()) > 1:
            raise UserError(
                f"two {what} would be kept in one folder, {slug!r}: give one another name"
            )


def normalize_agent(entry: StudyAgent) -> StudyAgent:
    """Fill in what an agent's entry leaves out.

    Raises:
        UserError: There is no such agent, it cannot be made, or an option is wrong.
    """
    try:
        spec = entry.spec()
        spec.check_options(entry.hyperparameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        make_agent(entry, seed=0)
    except (Exception, SystemExit) as error:  # Whatever a user's constructor may raise.
        raise UserError(
            f"agent {entry.algo!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if spec.encoding == "state" and entry.encoding not in ("", "state"):
        raise UserError(
            f"agent {entry.algo!r} learns from state ids: its encoding must be 'state', "
            f"got {entry.encoding!r}"
        )
    if (
        spec.needs_layer_index
        and not entry.include_layer_index
        and entry.hyperparameters.get("by_layer", True)
    ):
        raise UserError(
            f"agent {entry.algo!r} keeps layers apart by the index that observations end with: "
            "set include_layer_index = true for it, or by_layer = false among its hyperparameters"
        )
    return dataclasses.replace(
        entry, name=entry.name or entry.algo[-80:], encoding=entry.encoding or spec.encoding
    )


def _normalize_env(entry: StudyEnv) -> StudyEnv:
    for name in (*OBS_FIELDS, "split"):
        if name in entry.kwargs:
            belongs = "evaluation decides it" if name == "split" else "set it for an agent"
            raise UserError(f"environment argument {name!r} is not the environment's: {belongs}")
    try:
        config = dataclasses.asdict(make_config(entry.id, entry.kwargs))
    except (TypeError, ValueError) as error:
        raise UserError(f"environment: {error}") from error
    for name in (*OBS_FIELDS, "split"):
        del config[name]
    if config["control_kv_cache"]:
        raise UserError(
            "environment argument 'control_kv_cache' is not for comparisons: their baselines "
            "decide on spans alone"
        )
    for name, builtin in (("dataset", DATASETS), ("checkpoint", builtin_checkpoints())):
        if config[name] and config[name] not in builtin:
            # A run is gone on with from any folder.
            config[name] = str(Path(config[name]).resolve())
    name = full_id(entry.id)
    return StudyEnv(name, entry.name or name.rpartition("/")[2], config)


def eval_env_config(trial: Trial) -> EnvConfig:
    """EnvConfig in which the agent of a stored trial is evaluated.

    Raises:
        UserError: What the study reads is no longer there, or not on this machine.
    """
    try:
        return trial.eval_config()
    except (TypeError, ValueError) as error:
        raise UserError(f"the study's environment cannot be made: {error}") from error


def _check_budget(study: Study) -> None:
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds must differ, got {list(study.seeds)}")
    if study.total_timesteps % study.n_envs:
        raise UserError(
            f"total_timesteps must be a multiple of n_envs, got total_timesteps={study.total_timesteps}, n_envs={study.n_envs}"
        )
    if (
        study.resumed_from_steps
        != tuple(sorted({*study.resumed_from_steps, study.total_timesteps}))[:-1]
    ):
        raise UserError(
            f"resumed_from_steps must ascend to less than total_timesteps={study.total_timesteps}, "
            f"got {list(study.resumed_from_steps)}"
        )
    least = max(each.episode_steps for each in study.environments) * study.n_envs
    if study.total_timesteps < least:
        raise UserError(
            f"total_timesteps must be at least {least}, one episode in each environment, got {study.total_timesteps}"
        )
    evaluation = study.evaluation
    if evaluation.regret_episodes > evaluation.episodes:
        raise UserError(
            f"evaluation: regret_episodes must be at most episodes={evaluation.episodes}, "
            f"got {evaluation.regret_episodes}"
        )


def override_study(
    study: Study,
    *,
    seeds: int | None = None,
    total_timesteps: int | None = None,
    agents: Sequence[str] = (),
    device: str | None = None,
) -> Study:
    """A study with some of it changed, as from the command line.

    Args:
        study: The study.
        seeds: Number of training seeds, counted from 0.
        total_timesteps: Steps of each training.
        agents: Display names of the study's agents, or names of others; only these are compared.
        device: Where the layers run.

    Returns:
        The changed study, resolved.

    Raises:
        UserError: What results is no study.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    if total_timesteps is not None:
        changes["total_timesteps"] = total_timesteps
    if agents:
        mine: dict[str, list[StudyAgent]] = {}
        for entry in study.agents:
            mine.setdefault(entry.name, []).append(entry)
        wanted = [name for name in dict.fromkeys(agents) if name not in BASELINES]
        changes["agents"] = tuple(
            entry for name in wanted for entry in mine.get(name, [StudyAgent(name)])
        )
    if device is not None:
        changes["environments"] = tuple(
            dataclasses.replace(each, kwargs={**each.kwargs, "device": device})
            for each in study.environments
        )
    return normalize_study(dataclasses.replace(study, **changes))
