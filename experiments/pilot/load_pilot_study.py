"""Reading, normalizing and changing the studies of pilots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from spangym.agents import SB3Agent
from spangym.agents.baselines.constant import BaselinePolicy
from spangym.agents.baselines.env_aware import EnvAwarePolicy
from spangym.attention import NUM_ACTIONS
from spangym.envs.data.dataset_registry import DATASETS, validate_dataset_name
from spangym.envs.env_config import check_device
from spangym.experiments.pilot.estimate_pilot import estimate_pilot
from spangym.experiments.pilot.models import make_model
from spangym.experiments.pilot.pilot_study import (
    CONTROLLABLE_ATTENTION,
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.runner.workload import machine_memory
from spangym.experiments.studies.load_study import (
    agent_scopes,
    check_distinct,
    normalize_agent,
    parse_and_normalize,
    without_counts,
)
from spangym.experiments.studies.settings import (
    Scope,
    apply_settings,
    field_names,
    with_arguments,
)
from spangym.utils.errors import UserError
from spangym.utils.importing import is_import_path
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, validate


def builtin_pilot_studies() -> dict[str, str]:
    """Return the TOML texts of the built-in studies, by name."""
    return builtin_texts("spangym.experiments.pilot", "builtin")


def load_pilot_study(name: str, task: str | None = None) -> PilotStudy:
    """Read and normalize a study: a TOML file, or a built-in one with or without ``TASK-``.

    Raises:
        UserError: The file cannot be read, or is not a valid study of the task, if one is given.
    """
    builtin = builtin_pilot_studies()
    path = f"{task}-{name}" if f"{task}-{name}" in builtin else name
    study = parse_pilot_study(find_text("study", path, builtin), path)
    if task not in (None, study.task):
        raise UserError(
            f"study {name!r} is of {study.task}: run `spangym pilot {study.task} {name}`"
        )
    return study


def parse_pilot_study(text: str, name: str) -> PilotStudy:
    """Read a study from TOML and normalize it; a UserError starts with the name of the source."""
    return parse_and_normalize(text, name, PilotStudy, normalize_pilot_study)


def normalize_pilot_study(study: PilotStudy) -> PilotStudy:
    """Fill in defaults and check that the study can be run; UserError if not."""
    variants = tuple(_normalize_variant(each) for each in study.variants)
    study = dataclasses.replace(study, variants=variants)
    check_distinct("variants", [each.slug for each in variants])
    if len({*study.seeds}) < len(study.seeds):
        raise UserError(f"seeds must differ, got {list(study.seeds)}")
    if study.updates % study.chunks:
        raise UserError(
            f"updates must be a multiple of the {study.chunks} chunks of a stream, got "
            f"{study.updates}"
        )
    if study.evaluations * study.chunks > study.updates:
        raise UserError(
            f"evaluations must be at most one for each stream, {study.updates // study.chunks}, "
            f"got {study.evaluations}"
        )
    # The models are made below.
    estimate_pilot(study).check(machine_memory())
    try:
        check_device(study.device)
        if study.task == "text":
            validate_dataset_name(study.text.dataset)
        elif study.recordings and not Path(study.recordings).is_dir():
            raise ValueError(f"recordings {study.recordings!r} must be a folder")
        for each in variants:
            make_model(study.task, study.model, each, 2, study.text.ctx, 0)
            _check_budget(study, each)
    except ValueError as error:
        raise UserError(str(error)) from error
    # A run may be resumed from another working folder.
    if study.recordings:
        study = dataclasses.replace(study, recordings=str(Path(study.recordings).resolve()))
    if study.text.dataset not in DATASETS and not is_import_path(study.text.dataset):
        dataset = str(Path(study.text.dataset).resolve())
        study = dataclasses.replace(study, text=dataclasses.replace(study.text, dataset=dataset))
    return study


def _normalize_variant(variant: VariantConfig) -> VariantConfig:
    name, agent = f"variant {variant.name!r}", variant.agent
    if variant.soft_span and variant.attention not in ("hybrid", *CONTROLLABLE_ATTENTION):
        raise UserError(f"{name}: soft_span is not available for {variant.attention} attention")
    if variant.global_path != "full" and variant.attention in ("standard", "original"):
        raise UserError(f"{name}: global_path must be 'full' for {variant.attention} attention")
    if agent is None:
        return variant
    if variant.attention not in CONTROLLABLE_ATTENTION:
        raise UserError(
            f"{name}: agents control {' and '.join(CONTROLLABLE_ATTENTION)} attention, not "
            f"{variant.attention}"
        )
    if variant.soft_span:
        raise UserError(f"{name}: give either an agent or soft_span, not both")
    if agent.environments:
        raise UserError(f"{name}: the agent of a variant must have no environments")
    try:
        agent = normalize_agent(agent)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    made = agent.make(seed=0)
    if isinstance(made, SB3Agent):
        if not made.resumable and variant.learns == "online":
            raise UserError(
                f"{name}: {agent.algo} cannot learn online, since it plays whole episodes itself: "
                "set learns = 'environment'"
            )
    elif agent.num_actions not in (0, NUM_ACTIONS):
        raise UserError(
            f"{name}: layers of a pilot have {NUM_ACTIONS} actions, {agent.algo} has "
            f"{agent.num_actions}"
        )
    elif isinstance(made, EnvAwarePolicy) or (
        callable(getattr(made, "on_episode_start", None)) and not isinstance(made, BaselinePolicy)
    ):
        raise UserError(
            f"{name}: {agent.algo} looks ahead in an environment, which a model in training does "
            "not allow"
        )
    return dataclasses.replace(variant, agent=agent)


def _check_budget(study: PilotStudy, variant: VariantConfig) -> None:
    """Raise a ValueError if the agent of a variant would not learn once."""
    agent = variant.agent and variant.agent.make(seed=0)
    if isinstance(agent, SB3Agent):
        online = study.updates * study.model.num_layers * study.batch
        in_environment = study.agent_steps // study.batch * study.batch
        steps = online if variant.learns == "online" else in_environment
        episode_steps = study.chunks * study.model.num_layers
        try:
            agent.check_budget(steps, study.batch, episode_steps)
        except ValueError as error:
            raise ValueError(f"variant {variant.name!r}: {error}") from error


def override_pilot_study(
    study: PilotStudy,
    *,
    seeds: int | Sequence[int] | None = None,
    updates: int | None = None,
    variants: Sequence[str] = (),
    data: Path | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PilotStudy:
    """Change a study, and normalize it.

    Args:
        study: The study.
        seeds: Seeds, or their number, counted from 0.
        updates: Updates of each model, which are rounded up to whole streams.
        variants: Names of variants; the first one of the study, the baseline, is always trained.
        data: The user's recordings or texts.
        device: Torch device of the models.
        settings: Values by key: attributes of a `PilotStudy`, ``model.KEY``, ``text.KEY``,
            ``speech.KEY``, ``VARIANT.KEY``, and ``VARIANT.agent.OPTION`` for a hyperparameter or an
            attribute of its agent.

    Raises:
        UserError: A value is not valid, a key is unknown, or two arguments set the same value.
    """
    if updates is not None:
        updates = -(-updates // study.chunks) * study.chunks
        evaluations = min(study.evaluations, updates // study.chunks)
        study = dataclasses.replace(study, evaluations=evaluations)
    if variants:
        by_name = {each.name: each for each in study.variants}
        for name in variants:
            if name not in by_name:
                raise UserError(f"the study has no variant {name!r}{did_you_mean(name, by_name)}")
        first, *others = study.variants
        chosen = (first, *(each for each in others if each.name in variants))
        study = dataclasses.replace(study, variants=chosen)
    place = "recordings" if study.task == "speech" else "text.dataset"
    arguments = {"seeds": seeds, "updates": updates, "device": device, place: data}
    if settings := with_arguments(settings or {}, **arguments):
        study = _with_settings(study, settings)
    return normalize_pilot_study(study)


def _with_settings(study: PilotStudy, settings: Mapping[str, Any]) -> PilotStudy:
    variants = tuple(
        each if each.agent is None else dataclasses.replace(each, agent=without_counts(each.agent))
        for each in study.variants
    )
    study = dataclasses.replace(study, variants=variants)
    data = TypeAdapter(PilotStudy).dump_python(study, mode="json")
    nested = {"model": ModelConfig, "speech": SyntheticSpeechConfig, "text": TextConfig}
    names = [name for name in field_names(PilotStudy) if name not in ("task", "variants", *nested)]
    scopes = [Scope("", [data], names, "KEY")]
    for name, config in nested.items():
        scopes.append(Scope(name, [data[name]], field_names(config), f"{name}.KEY"))
    attributes = [name for name in field_names(VariantConfig) if name not in ("name", "agent")]
    for variant, table in zip(variants, data["variants"], strict=True):
        scopes.append(Scope(variant.name, [table], attributes, f"{variant.name}.KEY"))
        if variant.agent is not None:
            scopes += agent_scopes(f"{variant.name}.agent", [variant.agent], [table["agent"]])
    apply_settings(settings, scopes, lambda: validate(data, PilotStudy))
    return validate(data, PilotStudy)
