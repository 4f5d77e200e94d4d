"""Studies: what is compared, on what and for how long; and the trials that make one up."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.agents import Agent
from spangym.agents.registry import FIXED_SPAN_NAMES, AgentSpec, get_agent_spec
from spangym.envs import EnvConfig, make_config
from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.utils.text import slug

BASELINES = ("oracle", "threshold", "random", *FIXED_SPAN_NAMES)
"""Policies that stand in every comparison; those that take longest first."""

_STRICT = ConfigDict(extra="forbid", strict=True)
OBS_FIELDS = ("encoding", "pool_groups", "autocorrelation", "include_layer_index")
"""What of an environment's arguments belongs to the agents."""

PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


DisplayName = Annotated[str, Field(max_length=80)]


@dataclass(frozen=True, config=_STRICT)
class StudyEnv:
    """An environment of a study.

    Attributes:
        id: A registered id.
        name: What it is called in tables and figures; the id without ``spangym/`` if empty.
        kwargs: Arguments of `spangym.envs.EnvConfig`, but for those of the observation, which
            belong to the agents, and the split, which belongs to training or evaluation.
    """

    id: str
    name: DisplayName = ""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return slug(self.name)

    @property
    def episode_steps(self) -> int:
        """Decisions in an episode of a resolved study: one for each chunk and layer."""
        return self.kwargs["chunks_per_episode"] * self.kwargs["num_layers"]


@dataclass(frozen=True, config=_STRICT)
class StudyAgent:
    """An agent of a study.

    Attributes:
        algo: A name, or ``module:Class``: see `spangym.agents.get_agent_spec`.
        name: What it is called in tables and figures, 80 characters at most; the agent's name if
            empty.
        encoding: Encoding of its observations; the agent's own if empty.
        pool_groups: Groups of dimensions that the features are pooled to; 0 leaves them.
        autocorrelation: Whether lag correlations are observed, too.
        include_layer_index: Whether the observation says which layer is next.
        hyperparameters: Of the agent.
        environments: Names of the environments in which it is compared; all of them if empty.
            Entries with the same name in different environments are one agent, with
            hyperparameters of its own in each.
    """

    algo: str
    name: DisplayName = ""
    encoding: str = ""
    pool_groups: Annotated[int, Field(ge=0)] = 0
    autocorrelation: bool = False
    include_layer_index: bool = False
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    environments: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return slug(self.name)

    def applies_to(self, environment: StudyEnv) -> bool:
        """Whether it is compared in an environment."""
        return not self.environments or environment.name in self.environments

    def spec(self) -> AgentSpec:
        """What makes the agent.

        Raises:
            ValueError: There is no such agent.
        """
        return get_agent_spec(self.algo)


@dataclass(frozen=True, config=_STRICT)
class EvalConfig:
    """How trained agents are evaluated: all on the same streams, which no training reads.

    Attributes:
        seed: Episode ``i`` is seeded ``seed + i``.
        episodes: How many.
        regret_episodes: In how many of them, the first, the regret of each decision is measured
            by looking ahead, which takes as long as the oracle does.
        split: Part of the source that is read; ``train`` is for searches, lest they see what the
            final evaluation reads.
    """

    seed: Seed = 1_000_000
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
        total_timesteps: Environment steps of the training, over all envs; 0 if there is nothing to learn.
        n_envs: Streams that the training runs side by side.
        evaluation: How the agent is evaluated.
        resumed_from_steps: Steps with which the training was thought to end before, see `Study`.
    """

    environment: StudyEnv
    agent: StudyAgent
    seed: int
    total_timesteps: int
    n_envs: int
    evaluation: EvalConfig
    resumed_from_steps: tuple[int, ...] = ()

    @property
    def job_id(self) -> str:
        """Environment, agent and seed, as in the path of the trial's folder."""
        return f"{self.environment.slug}/{self.agent.slug}/seed-{self.seed}"

    @property
    def name(self) -> str:
        """Environment, agent and seed, as tables and figures call them."""
        return f"{self.environment.name} {self.agent.name} seed {self.seed}"

    @property
    def total(self) -> int:
        """Steps in training and evaluation together."""
        return self.total_timesteps + self.evaluation.episodes * self.environment.episode_steps

    @property
    def device(self) -> str:
        """Where the layers run, as torch names it."""
        return self.environment.kwargs["device"]

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """All that the numbers hang on, but for the machine and its libraries.

        What agent and environment are called is not among it; what is read is, by its hash, and so
        is the module of an agent of the user's own.

        Args:
            hashes: Of what sources read.

        Returns:
            Ready for JSON.
        """
        agent, kwargs = self.agent, self.environment.kwargs
        weights = kwargs["checkpoint"]
        return {
            "environment": {"id": self.environment.id, "kwargs": kwargs},
            "agent": {
                "algo": agent.algo,
                "hyperparameters": agent.hyperparameters,
                **{name: getattr(agent, name) for name in OBS_FIELDS},
                "module_sha256": agent.spec().module_sha256,
            },
            "seed": self.seed,
            "total_timesteps": self.total_timesteps,
            "resumed_from_steps": list(self.resumed_from_steps),
            "n_envs": self.n_envs,
            "evaluation": asdict(self.evaluation),
            "content_sha256": hashes.get(kwargs["dataset"]),
            "weights_sha256": weights_sha256(weights) if weights else None,
            "spangym": importlib.metadata.version("spangym"),
        }

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        log: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Train the agent, store it and evaluate it: see `spangym.experiments.trials.train.run_trial`."""
        # Imported here: it is about trials, and takes a while.
        from spangym.experiments.trials.train import run_trial

        run_trial(self, folder, progress, log, checkpoint_seconds)

    def train_config(self) -> EnvConfig:
        """EnvConfig of the environment in which the agent trains."""
        return self._config("train")

    def eval_config(self) -> EnvConfig:
        """EnvConfig of the environment in which it is evaluated."""
        return self._config(self.evaluation.split)

    def make_agent(self) -> Agent:
        """Make the agent, as yet untrained."""
        return make_agent(self.agent, self.seed)

    def _config(self, split: str) -> EnvConfig:
        observation = {name: getattr(self.agent, name) for name in OBS_FIELDS}
        kwargs = {**self.environment.kwargs, **observation, "split": split}
        return make_config(self.environment.id, kwargs)


@dataclass(frozen=True, config=_STRICT)
class Study:
    """A comparison of agents in one environment or several.

    Attributes:
        name: The study's name, of letters, digits, ``_`` and ``-``: a folder is called by it.
        total_timesteps: Environment steps of each training, over all envs.
        seeds: Training seeds: the unit of replication.
        environments: Where the agents act.
        agents: The agents compared; the baselines (random, every fixed span, the
            coverage threshold and the oracle) are always added.
        evaluation: How they are evaluated.
        n_envs: Streams that a training runs side by side.
        resumed_from_steps: Steps with which the trainings ended at first, if they were raised since:
            schedules ran to those ends, and a training that begins anew goes the same way.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    total_timesteps: PositiveInt
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    environments: Annotated[tuple[StudyEnv, ...], Field(min_length=1)]
    agents: tuple[StudyAgent, ...] = ()
    evaluation: EvalConfig = EvalConfig()
    n_envs: PositiveInt = 1
    resumed_from_steps: tuple[PositiveInt, ...] = ()

    def agents_in(self, environment: StudyEnv) -> tuple[StudyAgent, ...]:
        """The agents compared in an environment, then the baselines."""
        baselines = (StudyAgent(name, name=name, encoding="digits") for name in BASELINES)
        return (*(each for each in self.agents if each.applies_to(environment)), *baselines)

    def trials(self) -> list[Trial]:
        """All trials, learners first; where seeds make no difference there is only one."""
        trials = [
            self.trial(environment, entry, seed)
            for environment in self.environments
            for entry in self.agents_in(environment)
            for seed in (self.seeds if entry.spec().is_stochastic else (0,))
        ]
        return sorted(trials, key=lambda trial: -trial.total_timesteps)

    def trial(self, environment: StudyEnv, entry: StudyAgent, seed: int) -> Trial:
        """A trial of one of its agents."""
        learns = entry.spec().is_trainable
        return Trial(
            environment,
            entry,
            seed,
            total_timesteps=self.total_timesteps if learns else 0,
            n_envs=self.n_envs if learns else 1,
            evaluation=self.evaluation,
            resumed_from_steps=self.resumed_from_steps if learns else (),
        )

    def to_toml(self) -> str:
        """The study as TOML, everything spelled out."""
        return tomli_w.dumps(TypeAdapter(Study).dump_python(self, mode="json"))


def make_agent(entry: StudyAgent, seed: int) -> Agent:
    """Make an agent of a study."""
    return entry.spec().make(seed=seed, **entry.hyperparameters)
