"""Studies: what is compared, on what and for how long; and the trials that make one up."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.agents import Agent
from spangym.agents.registry import FIXED, AgentKind, find_agent
from spangym.envs import Settings, settings_for
from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.runner.fingerprint import ContentHashes

REFERENCES = ("oracle", "threshold", "random", *FIXED)
"""Policies that stand in every comparison; those that take longest first."""

_STRICT = ConfigDict(extra="forbid", strict=True)
OBSERVATION = ("encoding", "groups", "lags", "layer_index")
"""What of an environment's arguments belongs to the agents."""

PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


Label = Annotated[str, Field(max_length=80)]


@dataclass(frozen=True, config=_STRICT)
class EnvironmentEntry:
    """An environment of a study.

    Attributes:
        id: A registered id.
        label: What it is called in tables and figures; the id without ``spangym/`` if empty.
        arguments: Arguments of `spangym.envs.Settings`, but for those of the observation, which
            belong to the agents, and the split, which belongs to training or evaluation.
    """

    id: str
    label: Label = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return slug(self.label)

    @property
    def episode_steps(self) -> int:
        """Decisions in an episode of a resolved study: one for each chunk and layer."""
        return self.arguments["chunks"] * self.arguments["layers"]


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
        environments: Labels of the environments in which it is compared; all of them if empty.
            Entries with the same label in different environments are one agent, with
            hyperparameters of its own in each.
    """

    agent: str
    label: Label = ""
    encoding: str = ""
    groups: Annotated[int, Field(ge=0)] = 0
    lags: bool = False
    layer_index: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    environments: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return slug(self.label)

    def acts_in(self, environment: EnvironmentEntry) -> bool:
        """Whether it is compared in an environment."""
        return not self.environments or environment.label in self.environments

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
        regret_episodes: In how many of them, the first, the regret of each decision is measured
            by looking ahead, which takes as long as the oracle does.
        split: Part of the source that is read; ``train`` is for searches, lest they see what the
            final evaluation reads.
    """

    first_seed: Seed = 1_000_000
    episodes: PositiveInt = 16
    regret_episodes: Annotated[int, Field(ge=0)] = 1
    split: Literal["evaluation", "train"] = "evaluation"


@dataclass(frozen=True)
class Trial:
    """One agent trained from one seed in one environment, and evaluated: a `Job`.

    Attributes:
        environment: Where the agent acts, resolved.
        agent: The agent, resolved.
        seed: Seed of the agent and of its training streams.
        steps: Environment steps of the training, over all lanes; 0 if there is nothing to learn.
        lanes: Streams that the training runs side by side.
        evaluation: How the agent is judged.
        earlier_steps: Steps with which the training was thought to end before, see `Study`.
    """

    environment: EnvironmentEntry
    agent: AgentEntry
    seed: int
    steps: int
    lanes: int
    evaluation: EvaluationEntry
    earlier_steps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Environment, agent and seed, as in the path of the trial's folder."""
        return f"{self.environment.slug}/{self.agent.slug}/seed-{self.seed}"

    @property
    def label(self) -> str:
        """Environment, agent and seed, as tables and figures call them."""
        return f"{self.environment.label} {self.agent.label} seed {self.seed}"

    @property
    def total(self) -> int:
        """Steps in training and evaluation together."""
        return self.steps + self.evaluation.episodes * self.environment.episode_steps

    @property
    def device(self) -> str:
        """Where the layers run, as torch names it."""
        return self.environment.arguments["device"]

    def content(self, hashes: ContentHashes) -> dict[str, Any]:
        """All that the numbers hang on, but for the machine and its libraries.

        What agent and environment are called is not among it; what is read is, by its hash, and so
        is the module of an agent of the user's own.

        Args:
            hashes: Of what sources read.

        Returns:
            Ready for JSON.
        """
        agent, arguments = self.agent, self.environment.arguments
        weights = arguments["weights"]
        return {
            "environment": {"id": self.environment.id, "arguments": arguments},
            "agent": {
                "agent": agent.agent,
                "options": agent.options,
                **{name: getattr(agent, name) for name in OBSERVATION},
                "module_sha256": agent.kind().module_sha256,
            },
            "seed": self.seed,
            "steps": self.steps,
            "earlier_steps": list(self.earlier_steps),
            "lanes": self.lanes,
            "evaluation": asdict(self.evaluation),
            "content_sha256": hashes.of(arguments["source"]),
            "weights_sha256": weights_sha256(weights) if weights else None,
            "spangym": importlib.metadata.version("spangym"),
        }

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        note: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Train the agent, store it and evaluate it: see `spangym.experiments.trials.train.run_trial`."""
        # Imported here: it is about trials, and takes a while.
        from spangym.experiments.trials.train import run_trial

        run_trial(self, folder, progress, note, checkpoint_seconds)

    def training(self) -> Settings:
        """Settings of the environment in which the agent trains."""
        return self._settings("train")

    def judging(self) -> Settings:
        """Settings of the environment in which it is evaluated."""
        return self._settings(self.evaluation.split)

    def make_agent(self) -> Agent:
        """Make the agent, as yet untrained."""
        return make_agent(self.agent, self.seed)

    def _settings(self, split: str) -> Settings:
        observation = {name: getattr(self.agent, name) for name in OBSERVATION}
        arguments = {**self.environment.arguments, **observation, "split": split}
        return settings_for(self.environment.id, arguments)


@dataclass(frozen=True, config=_STRICT)
class Study:
    """A comparison of agents in one environment or several.

    Attributes:
        name: The study's name, of letters, digits, ``_`` and ``-``: a folder is called by it.
        steps: Environment steps of each training, over all lanes.
        seeds: Training seeds: the unit of replication.
        environments: Where the agents act.
        agents: The agents compared; the reference policies (random, every fixed span, the
            coverage threshold and the oracle) are always added.
        evaluation: How they are judged.
        lanes: Streams that a training runs side by side.
        earlier_steps: Steps with which the trainings ended at first, if they were raised since:
            schedules ran to those ends, and a training that begins anew goes the same way.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    steps: PositiveInt
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    environments: Annotated[tuple[EnvironmentEntry, ...], Field(min_length=1)]
    agents: tuple[AgentEntry, ...] = ()
    evaluation: EvaluationEntry = EvaluationEntry()
    lanes: PositiveInt = 1
    earlier_steps: tuple[PositiveInt, ...] = ()

    def entries(self, environment: EnvironmentEntry) -> tuple[AgentEntry, ...]:
        """The agents compared in an environment, then the reference policies."""
        references = (AgentEntry(name, label=name, encoding="digits") for name in REFERENCES)
        return (*(each for each in self.agents if each.acts_in(environment)), *references)

    def trials(self) -> list[Trial]:
        """All trials, learners first; where seeds make no difference there is only one."""
        trials = [
            self.trial(environment, entry, seed)
            for environment in self.environments
            for entry in self.entries(environment)
            for seed in (self.seeds if entry.kind().seeded else (0,))
        ]
        return sorted(trials, key=lambda trial: -trial.steps)

    def trial(self, environment: EnvironmentEntry, entry: AgentEntry, seed: int) -> Trial:
        """A trial of one of its agents."""
        learns = entry.kind().learns
        return Trial(
            environment,
            entry,
            seed,
            steps=self.steps if learns else 0,
            lanes=self.lanes if learns else 1,
            evaluation=self.evaluation,
            earlier_steps=self.earlier_steps if learns else (),
        )

    def to_toml(self) -> str:
        """The study as TOML, everything spelt out."""
        return tomli_w.dumps(TypeAdapter(Study).dump_python(self, mode="json"))


def make_agent(entry: AgentEntry, seed: int) -> Agent:
    """Make an agent of a study."""
    return entry.kind().make(seed=seed, **entry.options)


def slug(label: str) -> str:
    """A label as a folder's name.

    Example:
        >>> slug("fixed:3")
        'fixed-3'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", label)
