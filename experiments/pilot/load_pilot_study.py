"""Reading studies: from TOML or by name, resolved, with errors that say what would be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spangym.agents import SB3Agent
from spangym.envs.data.dataset_registry import DATASETS, validate_dataset_name
from spangym.envs.env_config import check_device
from spangym.experiments.pilot.models import make_model
from spangym.experiments.pilot.pilot_study import (
    CONTROLLABLE_ATTENTION,
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.load_study import normalize_agent
from spangym.experiments.studies.study import StudyAgent, make_agent
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml

_TABLES: dict[str, type[Any]] = {
    "model": ModelConfig,
    "variants": VariantConfig,
    "agent": StudyAgent,
    "speech": SyntheticSpeechConfig,
    "text": TextConfig,
}


def builtin_pilot_studies() -> dict[str, str]:
    """TOML texts of the studies that come with the package, by name."""
    return builtin_texts("spangym.experiments.pilot", "builtin")


def load_pilot_study(name: str, task: str | None = None) -> PilotStudy:
    """Read a study.

    Args:
        name: A TOML file, or the name of a built-in study; with ``task``, the name may leave out
            its prefix.
        task: ``speech`` or ``text``; any if None.

    Returns:
        The study, normalized.

    Raises:
        UserError: There is no such file, it is no study that can be run, or of another task.
    """
    builtin = builtin_pilot_studies()
    path = f"{task}-{name}" if f"{task}-{name}" in builtin else name
    study = parse_pilot_study(find_text("study", path, builtin), path)
    try:
        study = normalize_pilot_study(study)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if task not in (None, study.task):
        raise UserError(
            f"study {name!r} is of {study.task}: run `spangym pilot {study.task} {name}`"
        )
    return study


def parse_pilot_study(text: str, name: str) -> PilotStudy:
    """Read a study from TOML, without a look at its agents.

    Args:
        text: The TOML.
        name: What to call it in error messages.

    Raises:
        UserError: It is not TOML, or no study.
    """
    return parse_toml(text, name, PilotStudy, PilotStudy, _TABLES)


def override_pilot_study(
    study: PilotStudy,
    *,
    seeds: int | None = None,
    updates: int | None = None,
    variants: Sequence[str] = (),
    data: Path | None = None,
    device: str | None = None,
) -> PilotStudy:
    """A study with some of it changed, as from the command line.

    Args:
        study: The study.
        seeds: Number of seeds, counted from 0.
        updates: Updates of a model.
        variants: Labels of those that are trained beside the first, which the others are compared
            with.
        data: Recordings, or texts, of the user's own.
        device: Where the models train.

    Returns:
        The changed study, resolved.

    Raises:
        UserError: What results is no study.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    if updates is not None:
        # Whole streams, as many as it takes.
        changes["updates"] = -(-updates // study.chunks) * study.chunks
        most = changes["updates"] // study.chunks
        changes["evaluations"] = min(study.evaluations, most)
    if variants:
        by_name = {each.name: each for each in study.variants}
        for name in variants:
            if name not in by_name:
                raise UserError(f"the study has no variant {name!r}{did_you_mean(name, by_name)}")
        first, *others = study.variants
        changes["variants"] = (first, *(each for each in others if each.name in variants))
    if data is not None and study.task == "speech":
        changes["recordings"] = str(data)
    elif data is not None:
        changes["text"] = dataclasses.replace(study.text, dataset=str(data))
    if device is not None:
        changes["device"] = device
    return normalize_pilot_study(dataclasses.replace(study, **changes))


def normalize_pilot_study(study: PilotStudy) -> PilotStudy:
    """Fill in what a study leaves out, and refuse what cannot be run.

    Raises:
        UserError: A variant, an agent or a number is wrong.
    """
    variants = tuple(_normalize_variant(each) for each in study.variants)
    study = dataclasses.replace(study, variants=variants)
    for what, values in (
        ("variants", [each.slug.lower() for each in variants]),
        ("seeds", [*study.seeds]),
    ):
        if len({*values}) < len(values):
            raise UserError(f"two {what} are one, or would be kept in one folder: {values}")
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
    try:
        check_device(study.device)
        if study.task == "text":
            validate_dataset_name(study.text.dataset)
        elif study.recordings and not Path(study.recordings).is_dir():
            raise ValueError(f"recordings {study.recordings!r} must be a folder")
        for each in variants:
            make_model(study.task, study.model, each, 2, study.text.ctx, 0)
    except ValueError as error:
        raise UserError(str(error)) from error
    # A run is gone on with from any folder.
    if study.recordings:
        study = dataclasses.replace(study, recordings=str(Path(study.recordings).resolve()))
    if study.text.dataset not in DATASETS:
        dataset = str(Path(study.text.dataset).resolve())
        study = dataclasses.replace(study, text=dataclasses.replace(study.text, dataset=dataset))
    return study


def _normalize_variant(variant: VariantConfig) -> VariantConfig:
    name = f"variant {variant.name!r}"
    if variant.soft_span and variant.attention not in ("hybrid", *CONTROLLABLE_ATTENTION):
        raise UserError(f"{name}: soft_span is not of {variant.attention} attention")
    if variant.agent is None:
        return variant
    if variant.attention not in CONTROLLABLE_ATTENTION:
        raise UserError(
            f"{name}: an agent decides the spans of {' and '.join(CONTROLLABLE_ATTENTION)} attention, not of "
            f"{variant.attention}"
        )
    if variant.soft_span:
        raise UserError(f"{name}: either an agent decides its spans or a soft edge, not both")
    if variant.agent.environments:
        raise UserError(f"{name}: its agent has no environments to choose from")
    try:
        agent_config = normalize_agent(variant.agent)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    agent = make_agent(agent_config, seed=0)
    if isinstance(agent, SB3Agent):
        if not agent.resumable and variant.learns == "online":
            raise UserError(
                f"{name}: {agent_config.algo} cannot learn online, as it plays whole episodes by itself: "
                "set learns = 'environment'"
            )
    elif callable(getattr(agent, "on_episode_start", None)):
        raise UserError(
            f"{name}: {agent_config.algo} asks an environment what its actions would lead to, which a "
            "model that trains cannot say"
        )
    return dataclasses.replace(variant, agent=agent_config)
