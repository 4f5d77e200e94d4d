"""Reading, normalizing and changing studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spangym.agents import Agent, TabularAgent
from spangym.attention.features import NUM_STATES
from spangym.envs import make_config
from spangym.envs.data.dataset_registry import DATASETS
from spangym.envs.model.model_checkpoint import builtin_checkpoints
from spangym.envs.registration import full_id
from spangym.experiments.studies.field_types import check_numbers
from spangym.experiments.studies.foreign_env import ForeignEnv
from spangym.experiments.studies.study import OBS_FIELDS, Study, StudyAgent, StudyEnv, is_baseline
from spangym.utils.errors import UserError, report_user_code
from spangym.utils.importing import is_import_path
from spangym.utils.process_state import preserve_process_state
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml

S = TypeVar("S")


def builtin_studies() -> dict[str, str]:
    """Return the TOML texts of the built-in studies, by name."""
    return builtin_texts("spangym.experiments.studies", "builtin")


def load_study(name: str) -> Study:
    """Read and normalize a study: a TOML file or a built-in one; UserError if it is not valid."""
    return parse_study(find_text("study", name, builtin_studies()), name)


def parse_study(text: str, name: str) -> Study:
    """Read a study from TOML and normalize it; a UserError starts with the name of the source."""
    return parse_and_normalize(text, name, Study, normalize_study)


def parse_and_normalize(text: str, name: str, kind: type[S], normalize: Callable[[S], S]) -> S:
    """Read a study of either kind from TOML and normalize it; errors start with the name."""
    study = parse_toml(text, name, kind)
    try:
        return normalize(study)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def normalize_study(study: Study) -> Study:
    """Fill in defaults and check that the study can be run; UserError if not."""
    study = dataclasses.replace(
        study,
        agents=tuple(normalize_agent(each) for each in study.agents),
        environments=tuple(_normalize_env(each) for each in study.environments),
    )
    _check_budget(study)
    _check_names(study)
    for environment in study.environments:
        for agent in study.agents_in(environment):
            try:
                agent.config_in(environment, "train")
            except (TypeError, ValueError) as error:
                raise UserError(f"agent {agent.name!r}: {error}") from error
    return study


def normalize_agent(agent: StudyAgent) -> StudyAgent:
    """Fill in name and encoding, and check the agent; UserError if it cannot be made."""
    with preserve_process_state():
        try:
            spec = agent.spec()
            spec.check_options(agent.hyperparameters)
        except ValueError as error:
            raise UserError(str(error)) from error
        with report_user_code(f"agent {agent.algo!r} cannot be made"):
            made = agent.make(seed=0)
    if spec.encoding == "state" and agent.encoding not in ("", "state"):
        raise UserError(
            f"agent {agent.algo!r} learns from state ids: its encoding must be 'state', "
            f"got {agent.encoding!r}"
        )
    if (
        spec.needs_layer_index
        and not agent.include_layer_index
        and agent.hyperparameters.get("by_layer", True)
    ):
        raise UserError(
            f"agent {agent.algo!r} distinguishes layers by the last entry of the observation: set "
            "include_layer_index = true for it, or by_layer = false among its hyperparameters"
        )
    index = agent.include_layer_index
    return dataclasses.replace(
        agent,
        name=agent.name or agent.algo[-80:],
        encoding=agent.encoding or spec.encoding,
        include_layer_index=spec.include_layer_index if index is None else index,
        **_counts(agent, made),
    )


def _counts(agent: StudyAgent, made: Agent) -> dict[str, int]:
    """Return the numbers of states and actions: those of a refiner, else as they are given."""
    counts = made.env_counts if isinstance(made, TabularAgent) else {}
    for name, count in counts.items():
        if (given := getattr(agent, name)) not in (0, count):
            raise UserError(
                f"agent {agent.algo!r} has {count} {name.removeprefix('num_')}, but {name} = "
                f"{given}: omit {name}"
            )
    return {"num_states": agent.num_states or NUM_STATES} | counts


def _normalize_env(environment: StudyEnv) -> StudyEnv:
    for name in (*OBS_FIELDS, "split"):
        if name in environment.kwargs:
            place = "evaluation.split" if name == "split" else "the agents"
            raise UserError(f"environment argument {name!r} must be set in {place} instead")
    env_id = full_id(environment.id)
    name = environment.name or env_id.rpartition(":")[2].rpartition("/")[2]
    try:
        with preserve_process_state():
            if environment.is_foreign:
                return _normalize_foreign_env(StudyEnv(env_id, name, environment.kwargs))
            config = dataclasses.asdict(make_config(environment.id, environment.kwargs))
    except (TypeError, ValueError) as error:
        raise UserError(f"environment: {error}") from error
    for key in (*OBS_FIELDS, "split"):
        del config[key]
    # As TOML gives it back.
    config["fixes"] = [*config["fixes"]]
    if config["control_kv_cache"]:
        raise UserError(
            "environment argument 'control_kv_cache' must be false in comparisons: their baselines "
            "choose spans only"
        )
    for key, builtin in (("dataset", DATASETS), ("checkpoint", builtin_checkpoints())):
        if config[key] and config[key] not in builtin and not is_import_path(config[key]):
            # A run may be resumed from another working folder.
            config[key] = str(Path(config[key]).resolve())
    return StudyEnv(env_id, name, config)


def _normalize_foreign_env(environment: StudyEnv) -> StudyEnv:
    """Check an environment that is not spangym's by playing it."""
    with report_user_code(f"environment {environment.id!r} cannot stand in a study"):
        _ = ForeignEnv(environment.id, check_numbers(environment.kwargs)).traits
    return environment


def _check_budget(study: Study) -> None:
    steps, evaluation = study.total_timesteps, study.evaluation
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds must differ, got {list(study.seeds)}")
    if steps % study.n_envs:
        raise UserError(
            f"total_timesteps must be a multiple of n_envs, got total_timesteps={steps}, "
            f"n_envs={study.n_envs}"
        )
    earlier = study.resumed_from_steps
    if earlier != tuple(sorted({*earlier, steps}))[:-1]:
        raise UserError(
            f"resumed_from_steps must ascend and stay below total_timesteps={steps}, "
            f"got {list(earlier)}"
        )
    least = max(each.episode_steps for each in study.environments) * study.n_envs
    if steps < least:
        raise UserError(
            f"total_timesteps must be at least {least}, one episode in each environment, "
            f"got {steps}"
        )
    if evaluation.regret_episodes > evaluation.episodes:
        raise UserError(
            f"evaluation: regret_episodes must be at most episodes={evaluation.episodes}, "
            f"got {evaluation.regret_episodes}"
        )


def _check_names(study: Study) -> None:
    check_distinct("environments", [each.slug for each in study.environments])
    names = [each.name for each in study.environments]
    for agent in study.agents:
        for name in agent.environments:
            if name not in names:
                raise UserError(
                    f"agent {agent.name!r}: environment {name!r} is not part of the study"
                    f"{did_you_mean(name, names)}"
                )
    for environment in study.environments:
        check_distinct("agents", [each.slug for each in study.agents_in(environment)])


def check_distinct(what: str, slugs: Sequence[str]) -> None:
    """UserError if two folder names are equal, also on file systems that ignore case."""
    lower = [slug.lower() for slug in slugs]
    for slug in slugs:
        if lower.count(slug.lower()) > 1:
            raise UserError(f"two {what} would have the same folder, {slug!r}: rename one of them")


def override_study(
    study: Study,
    *,
    seeds: int | None = None,
    total_timesteps: int | None = None,
    agents: Sequence[str] = (),
    device: str | None = None,
) -> Study:
    """Change a study by options of the command line, and normalize it.

    ``seeds`` is a number of training seeds, counted from 0. Agents are those of the study or others
    by name, and replace those of the study.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    if total_timesteps is not None:
        changes["total_timesteps"] = total_timesteps
    if agents:
        changes["agents"] = tuple(
            agent
            for name in dict.fromkeys(agents)
            if not is_baseline(name)
            for agent in [each for each in study.agents if each.name == name] or [StudyAgent(name)]
        )
    if device is not None:
        changes["environments"] = tuple(
            dataclasses.replace(each, kwargs={**each.kwargs, "device": device})
            for each in study.environments
        )
    return normalize_study(dataclasses.replace(study, **changes))
