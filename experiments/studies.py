"""Studies: what is compared, on what and for how long; typed and checked."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from ..agents import Agent
from ..agents.loading import FIXED, AgentKind, find_agent
from ..envs import Settings, settings_for

REFERENCES = ("oracle", "threshold", "random", *FIXED)
"""Policies that stand in every comparison; those that take longest first."""

_STRICT = ConfigDict(extra="forbid", strict=True)
OBSERVATION = ("encoding", "groups", "lags", "layer_index")
"""What of an environment's arguments belongs to the agents."""

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
        agent: A name, or ``module:Class``: see `spangym.agents.find_agent`.
        label: What it is called in tables and figures, 80 characters at most; the agent's name if
            empty.
        encoding: Encoding of its observations; the agent's own if empty.
        groups: Groups of dimensions that the features are pooled to; 0 leaves them.
        lags: Whether lag correlations are observed, too.
        layer_index: Whether the observation says which layer is next.
        options: Options or hyperparameters of the agent.
    """

    agent: str
    label: Annotated[str, Field(max_length=80)] = ""
    encoding: str = ""
    groups: Annotated[int, Field(ge=0)] = 0
    lags: bool = False
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
        split: Part of the source that is read; ``train`` is for searches, lest they see what the
            final evaluation reads.
    """

    first_seed: Seed = 1_000_000
    episodes: PositiveInt = 16
    split: Literal["evaluation", "train"] = "evaluation"


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
        agents: The agents compared; the reference policies (random, every fixed span, the
            coverage threshold and the oracle) are always added.
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

    @property
    def episode_steps(self) -> int:
        """Decisions in an episode of a resolved study: one for each chunk and layer."""
        arguments = self.environment.arguments
        return arguments["chunks"] * arguments["layers"]

    def entries(self) -> tuple[AgentEntry, ...]:
        """The agents, then the reference policies."""
        references = (AgentEntry(name, label=name, encoding="digits") for name in REFERENCES)
        return (*self.agents, *references)

    def trials(self) -> list[Trial]:
        """All trials, learners first; where seeds make no difference there is only one."""
        return [
            Trial(entry, seed)
            for entry in self.entries()
            for seed in (self.seeds if entry.kind().seeded else self.seeds[:1])
        ]

    def training(self, entry: AgentEntry) -> Settings:
        """Settings of the environment in which an agent trains."""
        return self._settings(entry, "train")

    def judging(self, entry: AgentEntry) -> Settings:
        """Settings of the environment in which an agent is evaluated."""
        return self._settings(entry, self.evaluation.split)

    def _settings(self, entry: AgentEntry, split: str) -> Settings:
        observation = {name: getattr(entry, name) for name in OBSERVATION}
        arguments = {**self.environment.arguments, **observation, "split": split}
        return settings_for(self.environment.id, arguments)

    def to_toml(self) -> str:
        """The study as TOML, everything spelt out."""
        return tomli_w.dumps(TypeAdapter(Study).dump_python(self, mode="json"))


def training_steps(study: Study, trial: Trial) -> int:
    """Steps that a trial trains: none where there is nothing to learn."""
    return study.steps if trial.entry.kind().learns else 0


def make_agent(entry: AgentEntry, seed: int) -> Agent:
    """Make an agent of a study."""
    return entry.kind().make(seed=seed, **entry.options)
