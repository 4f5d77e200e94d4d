"""Reading, normalizing and changing studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from spangym.agents import Agent, TabularAgent
from spangym.attention import NUM_ACTIONS
from spangym.attention.features import NUM_STATES
from spangym.envs import EnvConfig, make_config
from spangym.envs.data.dataset_registry import DATASETS
from spangym.envs.model.model_checkpoint import builtin_checkpoints
from spangym.envs.other_environments import other_environments
from spangym.envs.registration import NAMESPACE, default_kwargs, full_id
from spangym.experiments.studies.field_types import check_numbers
from spangym.experiments.studies.foreign_env import ForeignEnv, argument_names
from spangym.experiments.studies.settings import Scope, apply_settings, field_names, with_arguments
from spangym.experiments.studies.study import (
    OBS_FIELDS,
    EvalConfig,
    Study,
    StudyAgent,
    StudyEnv,
    is_baseline,
)
from spangym.utils.errors import UserError, report_user_code
from spangym.utils.importing import is_import_path
from spangym.utils.process_state import preserve_process_state
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml, validate

S = TypeVar("S")


def builtin_studies() -> dict[str, str]:
    """Return the TOML texts of the built-in studies, by name."""
    return builtin_texts("spangym.experiments.studies", "builtin")


def load_study(name: str) -> Study:
    """Read and normalize a study: a TOML file or a built-in one; UserError if it is not valid.

    The suite has the environments of other packages, too, if `SpanControlEnv` makes them with its
    default number of actions.
    """
    study = parse_study(find_text("study", name, builtin_studies()), name)
    if name != "suite":
        return study
    added = tuple(filter(_fits_the_suite, map(StudyEnv, other_environments())))
    if not added:
        return study
    environments = (*study.environments, *added)
    return normalize_study(dataclasses.replace(study, environments=environments))


def _fits_the_suite(environment: StudyEnv) -> bool:
    """Whether all agents of the suite can act in an environment of another package."""
    if environment.is_foreign:
        return False
    return default_kwargs(environment.id).get("num_actions", NUM_ACTIONS) == NUM_ACTIONS


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
        _check_levels(study.evaluation, environment)
        for agent in study.agents_in(environment):
            _check_configs(agent, environment, study.evaluation)
    return study


def _check_levels(evaluation: EvalConfig, environment: StudyEnv) -> None:
    """Check that the levels of the evaluation are not those of the training."""
    name = environment.name
    if evaluation.num_levels and not environment.has_level_arguments:
        raise UserError(
            f"evaluation: num_levels must be 0: environment {name!r}, which is not of spangym, "
            "has no levels"
        )
    training, levels = environment.levels, evaluation.levels
    shared = range(max(training.start, levels.start), min(training.stop, levels.stop))
    if evaluation.split == "train" and shared:
        raise UserError(
            f"evaluation: levels {shared.start} to {shared.stop - 1} are in the training of "
            f"environment {name!r}, too: set evaluation.start_level = {training.stop}, or "
            "evaluation.split = 'evaluation'"
        )


def _check_configs(agent: StudyAgent, environment: StudyEnv, evaluation: EvalConfig) -> None:
    """Check that training and evaluation of an agent can be made."""
    where = f"agent {agent.name!r}"
    try:
        agent.config_in(environment, "train")
        where = f"evaluation: {where}"
        agent.config_in(environment, evaluation.split, evaluation.level_arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


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
    if not agent.observes_index and spec.needs_index(agent.hyperparameters):
        raise UserError(
            f"agent {agent.algo!r} distinguishes layers by the last entry of the observation: set "
            "include_layer_index = true for it, or by_layer = false among its hyperparameters"
        )
    return dataclasses.replace(
        agent,
        name=_agent_name(agent),
        encoding=agent.encoding or spec.encoding,
        include_layer_index=agent.observes_index,
        **_counts(agent, made),
    )


def _agent_name(agent: StudyAgent) -> str:
    return agent.name or agent.algo[-80:]


def _env_name(environment: StudyEnv) -> str:
    return environment.name or full_id(environment.id).rpartition(":")[2].rpartition("/")[2]


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
    env_id, name = full_id(environment.id), _env_name(environment)
    try:
        with preserve_process_state():
            if environment.is_foreign:
                named = dataclasses.replace(environment, id=env_id, name=name)
                return _normalize_foreign_env(named)
            config = dataclasses.asdict(make_config(environment.id, environment.kwargs))
    except (TypeError, ValueError) as error:
        raise UserError(f"environment {name!r}: {error}") from error
    for key in (*OBS_FIELDS, "split"):
        del config[key]
    config = _as_toml(config)
    if config["control_kv_cache"]:
        raise UserError(
            "environment argument 'control_kv_cache' must be false in comparisons: their baselines "
            "choose spans only"
        )
    # A run may be resumed from another working folder.
    if isinstance(config["dataset"], tuple):
        config["dataset"] = [str(Path(each).resolve()) for each in config["dataset"]]
    for key, builtin in (("dataset", DATASETS), ("checkpoint", builtin_checkpoints())):
        value = config[key]
        if isinstance(value, str) and value and value not in builtin and not is_import_path(value):
            config[key] = str(Path(value).resolve())
    return dataclasses.replace(environment, id=env_id, name=name, kwargs=config)


def _as_toml(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an environment as TOML gives them back."""
    lists = ("fixes", "spans", "cost_coef")
    return {
        name: [*value] if name in lists and isinstance(value, tuple) else value
        for name, value in config.items()
    }


def _normalize_foreign_env(environment: StudyEnv) -> StudyEnv:
    """Check an environment that is not spangym's by playing it."""
    with report_user_code(f"environment {environment.id!r} cannot stand in a study"):
        _ = ForeignEnv(environment.id, check_numbers(environment.kwargs)).traits
    return environment


def _check_budget(study: Study) -> None:
    evaluation = study.evaluation
    for environment in study.environments:
        _check_training(study, environment)
    steps, earlier = study.total_timesteps, study.resumed_from_steps
    if earlier != tuple(sorted({*earlier, steps}))[:-1]:
        raise UserError(
            f"resumed_from_steps must ascend and stay below total_timesteps={steps}, "
            f"got {list(earlier)}"
        )
    if evaluation.regret_episodes > evaluation.episodes:
        raise UserError(
            f"evaluation: regret_episodes must be at most episodes={evaluation.episodes}, "
            f"got {evaluation.regret_episodes}"
        )


def _check_training(study: Study, environment: StudyEnv) -> None:
    steps, seeds = study.steps_in(environment), study.seeds_in(environment)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must differ, got {list(seeds)}")
    if steps % study.n_envs:
        raise UserError(
            f"total_timesteps must be a multiple of n_envs, got total_timesteps={steps}, "
            f"n_envs={study.n_envs}"
        )
    least = environment.episode_steps * study.n_envs
    if steps < least:
        raise UserError(
            f"total_timesteps must be at least {least}, one episode in each environment, "
            f"got {steps}"
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
    seeds: int | Sequence[int] | None = None,
    total_timesteps: int | None = None,
    agents: Sequence[str | StudyAgent] = (),
    environments: Sequence[str | StudyEnv] = (),
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Study:
    """Change a study, and normalize it.

    Args:
        study: The study.
        seeds: Training seeds, or their number, counted from 0.
        total_timesteps: Environment steps of each training.
        agents: Names of the study's agents, or others, which replace those of the study.
        environments: Names or ids of the study's environments, or others, which replace those of
            the study; agents that are in none of them are left out.
        device: Torch device of the layers.
        settings: Values by key: ``AGENT.option`` is a hyperparameter or an attribute of a
            `StudyAgent`; ``ENV.argument`` is an argument of an environment, by name or id, and
            ``argument`` of all environments; ``evaluation.KEY``, ``n_envs``, ``total_timesteps``,
            ``seeds`` and ``name`` are keys of the study; ``ENV.seeds`` and ``ENV.total_timesteps``
            are for one environment. Dots lead into nested tables.

    Raises:
        UserError: A value is not valid, a key is unknown, or two arguments set the same value.

    Example:
        >>> study = load_study("quickstart")
        >>> changed = override_study(study, settings={"dqn.gamma": 0.5, "ctx": 128, "n_envs": 2})
        >>> changed.agents[3].hyperparameters["gamma"], changed.environments[0].kwargs["ctx"]
        (0.5, 128)
    """
    settings = with_arguments(
        settings or {}, seeds=seeds, total_timesteps=total_timesteps, device=device
    )
    study = _with_names(study)
    if agents:
        chosen = tuple(
            agent
            for index, each in enumerate(agents)
            if each not in agents[:index]
            for agent in _find_agents(study, each)
        )
        study = _with_names(dataclasses.replace(study, agents=chosen))
    if environments:
        study = _in_environments(study, environments)
    if settings:
        study = _with_settings(study, settings)
    return normalize_study(study)


def _find_agents(study: Study, agent: str | StudyAgent) -> list[StudyAgent]:
    """Return the agents of the study of that name, else the agent itself; no baselines."""
    if isinstance(agent, StudyAgent):
        return [agent]
    if is_baseline(agent):
        return []
    return [each for each in study.agents if each.name == agent] or [StudyAgent(agent)]


def _in_environments(study: Study, environments: Sequence[str | StudyEnv]) -> Study:
    known = {each.name: each for each in study.environments}
    known |= {each.id: each for each in study.environments}
    chosen = tuple(
        each
        if isinstance(each, StudyEnv)
        else known.get(each) or known.get(full_id(each)) or StudyEnv(each)
        for index, each in enumerate(environments)
        if each not in environments[:index]
    )
    study = _with_names(dataclasses.replace(study, environments=chosen))
    names = [each.name for each in study.environments]
    agents = [
        dataclasses.replace(
            each, environments=tuple(name for name in each.environments if name in names)
        )
        for each in study.agents
        if not each.environments or {*each.environments} & {*names}
    ]
    return dataclasses.replace(study, agents=tuple(agents))


def _with_names(study: Study) -> Study:
    """Fill in the names of agents and environments, which settings refer to."""
    return dataclasses.replace(
        study,
        agents=tuple(dataclasses.replace(each, name=_agent_name(each)) for each in study.agents),
        environments=tuple(
            dataclasses.replace(each, id=full_id(each.id), name=_env_name(each))
            for each in study.environments
        ),
    )


def _with_settings(study: Study, settings: Mapping[str, Any]) -> Study:
    study = dataclasses.replace(
        study,
        agents=tuple(map(without_counts, study.agents)),
        environments=tuple(map(_without_derived, study.environments)),
    )
    data = TypeAdapter(Study).dump_python(study, mode="json")
    for each in data["environments"]:
        # A setting of the whole study is for every environment.
        each |= {name: empty for name, empty in _ENV_TRAINING.items() if name in settings}
    scopes = [
        Scope("", [data], _STUDY_KEYS),
        Scope("evaluation", [data["evaluation"]], field_names(EvalConfig), "evaluation.KEY"),
    ]
    for name in dict.fromkeys(each.name for each in study.agents):
        chosen = [
            (agent, table)
            for agent, table in zip(study.agents, data["agents"], strict=True)
            if agent.name == name
        ]
        scopes += agent_scopes(name, *zip(*chosen, strict=True))
    scopes += [Scope(each["name"], [each], _ENV_TRAINING) for each in data["environments"]]
    scopes += _env_scopes(study.environments, [each["kwargs"] for each in data["environments"]])
    apply_settings(settings, scopes, lambda: validate(data, Study))
    return validate(data, Study)


def agent_scopes(
    prefix: str, agents: Sequence[StudyAgent], tables: Sequence[dict[str, Any]]
) -> list[Scope]:
    """Return the scopes of settings of agents of one name: their attributes and options."""
    try:
        with preserve_process_state():
            options = [each.spec().options for each in agents]
    except ValueError as error:
        raise UserError(str(error)) from error
    known = None if None in options else {name for names in options for name in names or ()}
    hyperparameters = [each["hyperparameters"] for each in tables]
    return [
        Scope(prefix, tables, (*OBS_FIELDS, "num_actions")),
        Scope(prefix, hyperparameters, known, f"{prefix}.OPTION"),
    ]


def set_arguments(environments: Sequence[str], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of environments, by id, that settings give them.

    Keys are ``argument``, for all environments, and ``ENV_ID.argument``.

    Raises:
        UserError: A key is unknown, or two settings set the same value.
    """
    chosen = [StudyEnv(full_id(name), _env_name(StudyEnv(name))) for name in environments]
    tables: list[dict[str, Any]] = [{} for _ in chosen]
    scopes = _env_scopes(chosen, tables)
    apply_settings(settings, scopes, lambda: None)
    return tables


def _env_scopes(environments: Sequence[StudyEnv], tables: Sequence[dict[str, Any]]) -> list[Scope]:
    """Return the scopes of settings of environments: one of them, those of an id, and all."""
    names = [*map(_argument_names, environments)]
    scopes = [
        Scope(each.name, [table], known, f"{each.name}.ARGUMENT")
        for each, table, known in zip(environments, tables, names, strict=True)
    ]
    for env_id, known in {
        each.id: known for each, known in zip(environments, names, strict=True)
    }.items():
        same = [
            table for table, each in zip(tables, environments, strict=True) if each.id == env_id
        ]
        prefixes = (env_id, env_id.removeprefix(f"{NAMESPACE}/"))
        scopes += [Scope(prefix, same, known) for prefix in prefixes]
    known = [{*each} for each in names if each is not None]
    common = set.intersection(*known) if known else None
    return [*scopes, Scope("", tables, common, "ARGUMENT")]


_ENV_TRAINING: dict[str, Any] = {"seeds": [], "total_timesteps": 0}
"""Attributes of the trainings in one environment, which replace those of the study."""

_STUDY_KEYS = ("name", "total_timesteps", "seeds", "n_envs")

_DETERMINING = ("checkpoint", "layer_class", "layers", "layers_kwargs", "weights_seed")
"""Arguments of environments from which the defaults of others follow."""


def _argument_names(environment: StudyEnv) -> tuple[str, ...] | None:
    """Return the names of the arguments of an environment; None if it takes any."""
    try:
        if environment.is_foreign:
            return argument_names(environment.id)
    except ValueError as error:
        raise UserError(f"environment: {error}") from error
    return tuple(name for name in field_names(EnvConfig) if name not in (*OBS_FIELDS, "split"))


def _without_derived(environment: StudyEnv) -> StudyEnv:
    """Omit arguments that follow from others, since a setting may change these."""
    kwargs = environment.kwargs
    try:
        with preserve_process_state():
            if environment.is_foreign:
                return environment
            chosen = {name: kwargs[name] for name in _DETERMINING if name in kwargs}
            derived = dataclasses.asdict(make_config(environment.id, chosen))
    except (TypeError, ValueError):  # Normalizing the study says what is wrong.
        return environment
    derived = _as_toml(derived)
    kept = {
        name: value
        for name, value in kwargs.items()
        if name in chosen or name not in derived or value != derived[name]
    }
    return dataclasses.replace(environment, kwargs=kept)


def without_counts(agent: StudyAgent) -> StudyAgent:
    """Omit the numbers of states and actions that follow from hyperparameters."""
    try:
        with preserve_process_state():
            made = agent.make(seed=0)
            counts = _counts(dataclasses.replace(agent, num_states=0, num_actions=0), made)
    except Exception:  # Normalizing the study says what is wrong.
        return agent
    changes = {name: 0 for name, count in counts.items() if getattr(agent, name) == count}
    return dataclasses.replace(agent, **changes)
