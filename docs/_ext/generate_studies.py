"""The reference of study files, from the configuration classes and the built-in studies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from page_parts import code, options_table, parse_docstring

from spangym.envs import EnvConfig
from spangym.experiments.pilot.load_pilot_study import builtin_pilot_studies
from spangym.experiments.pilot.pilot_study import (
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.load_study import builtin_studies
from spangym.experiments.studies.study import OBS_FIELDS, EvalConfig, Study, StudyAgent, StudyEnv
from spangym.utils.toml import parse_toml

STUDY_TABLES: dict[str, tuple[type, str]] = {
    "Top level": (Study, ""),
    "[[environments]]": (StudyEnv, ""),
    "[environments.kwargs]": (
        EnvConfig,
        "Arguments of environments of spangym; an environment of your own takes its own. The split "
        "belongs to the evaluation, and the observation to the agents.",
    ),
    "[[agents]]": (StudyAgent, ""),
    "[evaluation]": (EvalConfig, ""),
}
PILOT_TABLES: dict[str, tuple[type, str]] = {
    "Top level": (PilotStudy, ""),
    "[[variants]]": (VariantConfig, "`agent` is a table like an entry of `[[agents]]` above."),
    "[model]": (ModelConfig, ""),
    "[speech]": (SyntheticSpeechConfig, ""),
    "[text]": (TextConfig, ""),
}
"""Tables of a file: heading, class of the configuration, and text above its keys."""

OMITTED = {EnvConfig: {*OBS_FIELDS, "split"}, Study: {"resumed_from_steps"}}
"""Fields that are no keys of their table; `resumed_from_steps` is written by ``--resume``."""

WORDS = {"boolean": "true or false", "object": "table", "null": "nothing"}


def pages() -> dict[str, str]:
    """One page for comparisons and one for pilots."""
    return {
        "studies.md": _page(
            "Study files",
            "Keys of the TOML file of `spangym compare STUDY` and `spangym tune STUDY`. See "
            "[Studies](../studies.md) for an example. Unknown keys are errors.",
            STUDY_TABLES,
            builtin_studies(),
            "spangym compare",
        ),
        "pilot-studies.md": _page(
            "Pilot study files",
            "Keys of the TOML file of `spangym pilot STUDY`. See [the pilot](../pilot.md). Unknown "
            "keys are errors.",
            PILOT_TABLES,
            builtin_pilot_studies(),
            "spangym pilot",
        ),
    }


def _page(
    title: str,
    text: str,
    tables: Mapping[str, tuple[type, str]],
    builtin: Mapping[str, str],
    command: str,
) -> str:
    parts = [f"# {title}\n\n{text}\n"]
    for heading, (cls, more) in tables.items():
        parts.append(f"## {heading if heading[0] != '[' else code(heading)}\n")
        parts += [f"{more}\n"] * bool(more)
        parts.append(options_table(["key", "type", "default", "meaning"], _rows(cls)))
    parts.append("## Built-in studies\n")
    parts.append(f"`{command} NAME` runs them. Save the text as a file to change it.\n")
    for name, toml in sorted(builtin.items()):
        comment, rest = _leading_comment(toml)
        parts.append(f"### {name}\n\n{comment}\n\n{_facts(toml, name, command)}\n")
        parts.append(
            f"<details><summary>{name}.toml</summary>\n\n```toml\n{rest}\n```\n\n</details>\n"
        )
    return "\n".join(parts)


def _leading_comment(toml: str) -> tuple[str, str]:
    lines = toml.splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    comment = " ".join(line.lstrip("# ") for line in lines[:end])
    return comment, "\n".join(lines[end:]).strip()


def _facts(toml: str, name: str, command: str) -> str:
    if command != "spangym compare":
        study = parse_toml(toml, name, PilotStudy)
        return f"Variants: {', '.join(code(each.name) for each in study.variants)}."
    study = parse_toml(toml, name, Study)
    agents = ", ".join(dict.fromkeys(code(each.name or each.algo) for each in study.agents))
    environments = ", ".join(
        dict.fromkeys(code(each.name or each.id) for each in study.environments)
    )
    return (
        f"Agents: {agents}. Environments: {environments}. {study.total_timesteps:,} steps, "
        f"{len(study.seeds)} seeds."
    )


def _rows(cls: Any) -> Iterator[list[str]]:
    schema = pydantic.TypeAdapter(cls).json_schema()
    _, sections = parse_docstring(cls)
    texts = sections["Attributes"]
    required = schema.get("required", ())
    for field in dataclasses.fields(cls):
        if field.name in OMITTED.get(cls, ()):
            continue
        if field.name not in texts:
            raise ValueError(f"the docstring of {cls.__name__} lacks {field.name}")
        default = "required" if field.name in required else _default(field)
        kind = _describe(schema["properties"][field.name] | _bounds(cls, field.name))
        yield [code(field.name), kind, default, texts[field.name]]


def _bounds(cls: Any, name: str) -> dict[str, float]:
    """The tightest bounds of a number: pydantic's schema has only one of several."""
    metadata = getattr(cls, "__pydantic_fields__", {}).get(name)
    found: dict[str, float] = {}
    for each in metadata.metadata if metadata else ():
        if getattr(each, "ge", None) is not None:
            found["minimum"] = max(each.ge, found.get("minimum", each.ge))
        if getattr(each, "le", None) is not None:
            found["maximum"] = min(each.le, found.get("maximum", each.le))
    return found


def _default(field: Any) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, pydantic.fields.FieldInfo):
        value = value.get_default(call_default_factory=True)
    if dataclasses.is_dataclass(value):
        return "its defaults"
    return "" if value is None else code(json.dumps(value))


def _describe(schema: Mapping[str, Any]) -> str:
    """Type and bounds of a field in words."""
    if "$ref" in schema or "allOf" in schema:
        return "table"
    if "anyOf" in schema:
        kinds = [_describe(each) for each in schema["anyOf"]]
        return " or ".join(each for each in kinds if each != "nothing")
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(code(json.dumps(each)) for each in values)
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list ({_describe(schema.get('items', {}))})"
    names = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    bounds = [f"{sign} {_number(schema[name])}" for name, sign in names if name in schema]
    return ", ".join([WORDS.get(kind, kind), *bounds])


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)
