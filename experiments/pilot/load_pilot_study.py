"""Reading plans: from TOML or by name, resolved, with errors that say what would be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spangym.agents import DeepAgent
from spangym.envs.data.dataset_registry import SOURCES, check_source
from spangym.envs.env_config import check_device
from spangym.experiments.pilot.models import make_model
from spangym.experiments.pilot.pilot_study import (
    CONTROLLED,
    ModelEntry,
    Plan,
    TextEntry,
    VariantEntry,
)
from spangym.experiments.pilot.synthetic_speech import SpokenSpeech
from spangym.experiments.studies.load_study import resolve_agent
from spangym.experiments.studies.study import AgentEntry, make_agent
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, find_text, parse_toml

_TABLES: dict[str, type[Any]] = {
    "model": ModelEntry,
    "variants": VariantEntry,
    "agent": AgentEntry,
    "speech": SpokenSpeech,
    "text": TextEntry,
}


def shipped_plans() -> dict[str, str]:
    """TOML texts of the plans that come with the package, by name."""
    return builtin_texts("spangym.experiments.pilot", "builtin")


def load_plan(name: str) -> Plan:
    """Read a plan.

    Args:
        name: A TOML file, or the name of a shipped plan.

    Returns:
        The plan, resolved.

    Raises:
        UserError: There is no such file, or it is no plan that can be run.
    """
    plan = parse_resolved(find_text("plan", name, shipped_plans()), name)
    try:
        return resolve(plan)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def load_task_plan(task: str, name: str) -> Plan:
    """Read a plan of a task.

    Args:
        task: ``speech`` or ``text``.
        name: A TOML file, or the name of a shipped plan, with or without that of the task.

    Raises:
        UserError: There is no such file, or it is no plan of that task.
    """
    named = f"{task}-{name}"
    plan = load_plan(named if named in shipped_plans() else name)
    if plan.task != task:
        raise UserError(f"plan {name!r} is of {plan.task}: run `spangym pilot {plan.task} {name}`")
    return plan


def parse_resolved(text: str, name: str) -> Plan:
    """Read a plan from TOML, without a look at its agents.

    Args:
        text: The TOML.
        name: What to call it in error messages.

    Raises:
        UserError: It is not TOML, or no plan.
    """
    return parse_toml(text, name, Plan, Plan, _TABLES)


def change_plan(
    plan: Plan,
    *,
    seeds: int | None = None,
    updates: int | None = None,
    variants: Sequence[str] = (),
    data: Path | None = None,
    device: str | None = None,
) -> Plan:
    """A plan with some of it changed, as from the command line.

    Args:
        plan: The plan.
        seeds: Number of seeds, counted from 0.
        updates: Updates of a model.
        variants: Labels of those that are trained beside the first, which the others are compared
            with.
        data: Recordings, or texts, of the user's own.
        device: Where the models train.

    Returns:
        The changed plan, resolved.

    Raises:
        UserError: What results is no plan.
    """
    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    if updates is not None:
        # Whole streams, as many as it takes.
        changes["updates"] = -(-updates // plan.chunks) * plan.chunks
        most = changes["updates"] // plan.chunks
        changes["evaluations"] = min(plan.evaluations, most)
    if variants:
        by_label = {each.label: each for each in plan.variants}
        for label in variants:
            if label not in by_label:
                raise UserError(f"the plan has no variant {label!r}{did_you_mean(label, by_label)}")
        first, *others = plan.variants
        changes["variants"] = (first, *(each for each in others if each.label in variants))
    if data is not None and plan.task == "speech":
        changes["recordings"] = str(data)
    elif data is not None:
        changes["text"] = dataclasses.replace(plan.text, source=str(data))
    if device is not None:
        changes["device"] = device
    return resolve(dataclasses.replace(plan, **changes))


def resolve(plan: Plan) -> Plan:
    """Fill in what a plan leaves out, and refuse what cannot be run.

    Raises:
        UserError: A variant, an agent or a number is wrong.
    """
    variants = tuple(_resolve_variant(each) for each in plan.variants)
    plan = dataclasses.replace(plan, variants=variants)
    for what, values in (
        ("variants", [each.slug.lower() for each in variants]),
        ("seeds", [*plan.seeds]),
    ):
        if len({*values}) < len(values):
            raise UserError(f"two {what} are one, or would be kept in one folder: {values}")
    if plan.updates % plan.chunks:
        raise UserError(
            f"updates must be a multiple of the {plan.chunks} chunks of a stream, got "
            f"{plan.updates}"
        )
    if plan.evaluations * plan.chunks > plan.updates:
        raise UserError(
            f"evaluations must be at most one for each stream, {plan.updates // plan.chunks}, "
            f"got {plan.evaluations}"
        )
    try:
        check_device(plan.device)
        if plan.task == "text":
            check_source(plan.text.source)
        elif plan.recordings and not Path(plan.recordings).is_dir():
            raise ValueError(f"recordings {plan.recordings!r} must be a folder")
        for each in variants:
            make_model(plan.task, plan.model, each, 2, plan.text.ctx, 0)
    except ValueError as error:
        raise UserError(str(error)) from error
    # A run is gone on with from any folder.
    if plan.recordings:
        plan = dataclasses.replace(plan, recordings=str(Path(plan.recordings).resolve()))
    if plan.text.source not in SOURCES:
        source = str(Path(plan.text.source).resolve())
        plan = dataclasses.replace(plan, text=dataclasses.replace(plan.text, source=source))
    return plan


def _resolve_variant(variant: VariantEntry) -> VariantEntry:
    name = f"variant {variant.label!r}"
    if variant.soft_span and variant.attention not in ("hybrid", *CONTROLLED):
        raise UserError(f"{name}: soft_span is not of {variant.attention} attention")
    if variant.agent is None:
        return variant
    if variant.attention not in CONTROLLED:
        raise UserError(
            f"{name}: an agent decides the spans of {' and '.join(CONTROLLED)} attention, not of "
            f"{variant.attention}"
        )
    if variant.soft_span:
        raise UserError(f"{name}: either an agent decides its spans or a soft edge, not both")
    if variant.agent.environments:
        raise UserError(f"{name}: its agent has no environments to choose from")
    try:
        entry = resolve_agent(variant.agent)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    agent = make_agent(entry, seed=0)
    if isinstance(agent, DeepAgent):
        if not agent.resumable and variant.learns == "online":
            raise UserError(
                f"{name}: {entry.agent} cannot learn online, as it plays whole episodes by itself: "
                "set learns = 'environment'"
            )
    elif callable(getattr(agent, "begin", None)):
        raise UserError(
            f"{name}: {entry.agent} asks an environment what its actions would lead to, which a "
            "model that trains cannot say"
        )
    return dataclasses.replace(variant, agent=entry)
