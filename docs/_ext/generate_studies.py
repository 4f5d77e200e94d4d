"""The reference of study files, from the configuration classes and the built-in studies."""

from __future__ import annotations

from collections.abc import Mapping

from config_tables import config_table
from page_parts import code

from spangym.experiments.pilot.load_pilot_study import builtin_pilot_studies
from spangym.experiments.pilot.pilot_study import (
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.load_study import builtin_studies
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent, StudyEnv
from spangym.utils.toml import parse_toml

STUDY_TABLES: dict[str, tuple[type, str]] = {
    "Top level": (Study, ""),
    "[[environments]]": (
        StudyEnv,
        "`kwargs` are the [arguments of an environment](environments/arguments.md), without those "
        "of the observation, which belong to the agents. An environment of your own takes its own.",
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

OMITTED = {Study: {"resumed_from_steps"}}
"""Fields that are no keys of their table: ``--resume`` writes this one."""


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
        parts.append(config_table(cls, OMITTED.get(cls, ())))
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
