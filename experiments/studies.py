"""Studies: what is compared, on what and for how long; read from TOML, typed and checked."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..agents import Agent
from ..agents.loading import FIXED, AgentKind, find_agent
from ..attention.hints import did_you_mean
from ..envs import Settings, settings_for
from .errors import UserError

REFERENCES = ("random", *FIXED)
"""Policies that stand in every comparison."""

_STRICT = ConfigDict(extra="forbid", strict=True)
_OBSERVATION = ("encoding", "groups", "layer_index")

PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, config=_STRICT)
class EnvironmentEntry:
    """The environment of a study.

    Attributes:
        id: A registered id.
        arguments: Arguments of `spangym.envs.Settings`, but for those of the observation, which
            belong to the agents, and the split, which belongs to training or evaluation.
    """

    id: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class AgentEntry:
    """An agent of a study.

    Attributes:
        agent: A shipped name, or ``module:Class`` of a refiner.
        label: What it is called in tables and figures, 80 characters at most; the agent's name if
            empty.
        encoding: Encoding of its observations; the agent's own if empty.
        groups: Groups of dimensions that the features are pooled to; 0 leaves them.
        layer_index: Whether the observation says which layer is next.
        options: Options or hyperparameters of the agent.
    """

    agent: str
    label: Annotated[str, Field(max_length=80)] = ""
    encoding: str = ""
    groups: Annotated[int, Field(ge=0)] = 0
    layer_index: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.label)

    def kind(self) -> AgentKind:
        """What makes the agent.

        Raises:
            ValueError: There is no such agent.
        """
        return find_agent(self.agent)


@dataclass(frozen=True, config=_STRICT)
class EvaluationEntry:
    """How trained agents are judged: all on the same streams, which no training reads.

    Attributes:
        first_seed: Episode ``i`` is seeded ``first_seed + i``.
        episodes: How many.
    """

    first_seed: Seed = 1_000_000
    episodes: PositiveInt = 16


@dataclass(frozen=True)
class Trial:
    """One agent trained from one seed and evaluated: an independent job.

    Attributes:
        entry: The agent.
        seed: Seed of the agent and of its training streams.
    """

    entry: AgentEntry
    seed: int

    @property
    def name(self) -> str:
        """Path of the trial's folder below ``trials``."""
        return f"{self.entry.slug}/seed-{self.seed}"


@dataclass(frozen=True, config=_STRICT)
class Study:
    """A comparison of agents in one environment.

    Attributes:
        name: The study's name, of letters, digits, ``_`` and ``-``: a folder is called by it.
        steps: Environment steps of each training, over all lanes.
        seeds: Training seeds: the unit of replication.
        environment: Where the agents act.
        agents: The agents compared; the reference policies (random and every fixed span) are
            always added.
        evaluation: How they are judged.
        lanes: Streams that a training runs side by side.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    steps: PositiveInt
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    environment: EnvironmentEntry
    agents: tuple[AgentEntry, ...] = ()
    evaluation: EvaluationEntry = EvaluationEntry()
    lanes: PositiveInt = 1

    def entries(self) -> tuple[AgentEntry, ...]:
        """The agents, then the reference policies."""
        references = (AgentEntry(name, label=name, encoding="digits") for name in REFERENCES)
        return (*self.agents, *references)

    def trials(self) -> list[Trial]:
        """All trials, learners first; a fixed span, which learns nothing, has only one."""
        return [
            Trial(entry, seed)
            for entry in self.entries()
            for seed in (self.seeds[:1] if entry.agent in FIXED else self.seeds)
        ]

    def training(self, entry: AgentEntry) -> Settings:
        """Settings of the environment in which an agent trains."""
        return self._settings(entry, "train")

    def judging(self, entry: AgentEntry) -> Settings:
        """Settings of the environment in which an agent is evaluated."""
        return self._settings(entry, "evaluation")

    def _settings(self, entry: AgentEntry, split: str) -> Settings:
        observation = {name: getattr(entry, name) for name in _OBSERVATION}
        arguments = {**self.environment.arguments, **observation, "split": split}
        return settings_for(self.environment.id, arguments)

    def changed(
        self,
        *,
        seeds: int | None = None,
        steps: int | None = None,
        agents: Sequence[str] = (),
        device: str | None = None,
    ) -> Study:
        """The study with some of it changed, as from the command line.

        Args:
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
            mine = {entry.label: entry for entry in self.agents}
            wanted = [name for name in dict.fromkeys(agents) if name not in REFERENCES]
            changes["agents"] = tuple(mine.get(name, AgentEntry(name)) for name in wanted)
        if device is not None:
            arguments = {**self.environment.arguments, "device": device}
            changes["environment"] = EnvironmentEntry(self.environment.id, arguments)
        return resolve(dataclasses.replace(self, **changes))

    def to_toml(self) -> str:
        """The study as TOML, everything spelt out."""
        return tomli_w.dumps(TypeAdapter(Study).dump_python(self, mode="json"))


def training_steps(study: Study, trial: Trial) -> int:
    """Steps that a trial trains: none for a fixed span."""
    return 0 if trial.entry.agent in FIXED else study.steps


def shipped_studies() -> dict[str, str]:
    """TOML texts of the studies that come with the package, by name."""
    folder = resources.files("spangym.experiments") / "studies"
    files = [each for each in folder.iterdir() if each.name.endswith(".toml")]
    return {each.name.removesuffix(".toml"): each.read_text("utf-8") for each in files}


def load_study(name: str) -> Study:
    """Read a study.

    Args:
        name: A TOML file, or the name of a shipped study.

    Returns:
        The study, resolved.

    Raises:
        UserError: There is no such file, or it is no study.
    """
    shipped = shipped_studies()
    if name in shipped:
        return parse_study(shipped[name], name)
    try:
        # With or without the mark that some editors put before UTF-8.
        text = Path(name).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"study {name!r} is not a text file in UTF-8") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(
            f"study {name!r} cannot be read: {cause}{did_you_mean(name, shipped)}"
        ) from error
    return parse_study(text, name)


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
    try:
        # Strict validation takes tables for dataclasses and arrays for tuples only from JSON.
        return TypeAdapter(Study).validate_json(json.dumps(tomllib.loads(text), default=str))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{name}: {_in_a_line(error)}") from error


def resolve(study: Study) -> Study:
    """Fill in what a study leaves out, and refuse what cannot be run.

    Raises:
        UserError: An agent, an option or an argument of the environment is wrong.
    """
    study = dataclasses.replace(
        study,
        agents=tuple(_resolve_agent(entry) for entry in study.agents),
        environment=_resolve_environment(study.environment),
    )
    _check_budget(study)
    slugs = [entry.slug.lower() for entry in study.entries()]
    for entry in study.agents:
        if slugs.count(entry.slug.lower()) > 1:
            raise UserError(
                f"two agents would be kept in one folder, {entry.slug!r}: give one another label"
            )
        try:
            study.training(entry)
        except (TypeError, ValueError) as error:
            raise UserError(f"agent {entry.label!r}: {error}") from error
    return study


def _resolve_agent(entry: AgentEntry) -> AgentEntry:
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
    return dataclasses.replace(
        entry, label=entry.label or entry.agent, encoding=entry.encoding or kind.encoding
    )


def make_agent(entry: AgentEntry, seed: int) -> Agent:
    """Make an agent of a study."""
    return entry.kind().make(seed=seed, **entry.options)


def _resolve_environment(entry: EnvironmentEntry) -> EnvironmentEntry:
    for name in (*_OBSERVATION, "split"):
        if name in entry.arguments:
            belongs = "evaluation decides it" if name == "split" else "set it for an agent"
            raise UserError(f"environment argument {name!r} is not the environment's: {belongs}")
    try:
        settings = dataclasses.asdict(settings_for(entry.id, entry.arguments))
    except (TypeError, ValueError) as error:
        raise UserError(f"environment: {error}") from error
    for name in (*_OBSERVATION, "split"):
        del settings[name]
    return EnvironmentEntry(entry.id, settings)


def _check_budget(study: Study) -> None:
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds must differ, got {list(study.seeds)}")
    if study.steps % study.lanes:
        raise UserError(
            f"steps must be a multiple of lanes, got steps={study.steps}, lanes={study.lanes}"
        )
    arguments = study.environment.arguments
    episode = arguments["chunks"] * arguments["layers"]
    if study.steps < episode * study.lanes:
        raise UserError(
            f"steps must be at least {episode * study.lanes}, one episode in each lane, "
            f"got {study.steps}"
        )


def _in_a_line(error: ValidationError) -> str:
    # A misspelt key is also a missing one: the misspelling says more.
    unknown = "unexpected_keyword_argument"
    first = min(error.errors(), key=lambda each: each["type"] != unknown)
    *path, last = [str(part) for part in first["loc"]]
    where = ".".join([*path, last])
    if first["type"] == unknown:
        return f"key {where!r} is unknown{did_you_mean(last, _keys_beside(path))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key {where!r} is missing"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"key {where!r}: {message}, got {first['input']!r}"


def _keys_beside(path: list[str]) -> list[str]:
    tables: dict[str, type[Any]] = {
        "environment": EnvironmentEntry,
        "agents": AgentEntry,
        "evaluation": EvaluationEntry,
    }
    table = tables.get(path[0], Study) if path else Study
    return [each.name for each in dataclasses.fields(table)]
