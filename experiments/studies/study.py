"""Study: configuration of a comparison of agents."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
import tomli_w
from gymnasium import spaces
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.agents import Agent
from spangym.agents.agent_names import BUILTIN_AGENTS
from spangym.agents.registry import (
    AgentSpec,
    fixed_action_of,
    fixed_span_names,
    get_agent_spec,
)
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.attention import NUM_ACTIONS
from spangym.attention.features import NUM_STATES
from spangym.envs import EnvConfig, make_config
from spangym.envs.env_config import module_hashes
from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.envs.registration import (
    ENVIRONMENTS,
    default_kwargs,
    find_spec,
    full_id,
    is_span_control,
)
from spangym.experiments.runner.fingerprint import DatasetHashes, dataset_key
from spangym.experiments.studies.field_types import (
    Count,
    CountOrZero,
    DisplayName,
    EnvKwargs,
    Episodes,
    Flag,
    Hyperparameters,
    Level,
    NumLevels,
    Seed,
    Seeds,
    SeedsOrNone,
    SizeOrZero,
    Steps,
    StepsOrZero,
    StudyName,
    Text,
)
from spangym.experiments.studies.foreign_env import ForeignEnv, is_subclass, takes_argument
from spangym.utils.readable_repr import readable_repr
from spangym.utils.text import slug

_BASELINES = ("oracle", "threshold", "random")

LOOKS_INSIDE = (
    *("oracle", "threshold", "myopic", "predictor"),
    *("content-oracle", "learned-span"),
)
"""Agents that ask a spangym environment for more than observations."""

OBS_FIELDS = (
    *("encoding", "pool_groups", "autocorrelation"),
    *("include_layer_index", "include_cost_coef", "num_states"),
)
"""Arguments of an environment that belong to the agents of a study."""

EVAL_COST_COEFS = 5
"""Cost coefficients of an evaluation where episodes draw theirs, equally spaced on a log scale."""

LEVEL_FIELDS = ("num_levels", "start_level", "backend")
"""Arguments of an environment of which training and evaluation have their own."""

STRICT = ConfigDict(extra="forbid", strict=True)


def names_class(value: object) -> bool:
    """Return whether a value, or one in it, is the name of a class, ``module:Class``.

    Example:
        >>> names_class({"reward": "my_rewards:Mine"}), names_class(["fixed:3", 0.5, "task"])
        (True, False)
    """
    if isinstance(value, Mapping):
        return any(map(names_class, value.values()))
    if isinstance(value, str):
        return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", value) is not None
    return isinstance(value, Sequence) and any(map(names_class, value))


@dataclass(frozen=True, config=STRICT)
class StudyEnv:
    """An environment of a study.

    Attributes:
        id: Registered environment id.
        name: Name in tables and figures; the id without its namespace if empty.
        kwargs: Arguments of `spangym.envs.EnvConfig`, except those of the observation, which belong
            to the agents, and the split. ``num_levels``, ``start_level`` and ``backend`` are those
            of the training.
        seeds: Training seeds in this environment; those of the study if empty.
        total_timesteps: Environment steps of each training in this environment; those of the study
            if 0.
    """

    __repr__ = readable_repr

    id: Text
    name: DisplayName = ""
    kwargs: EnvKwargs = field(default_factory=dict)
    seeds: SeedsOrNone = ()
    total_timesteps: StepsOrZero = 0

    @property
    def slug(self) -> str:
        """Name as a folder name."""
        return slug(self.name)

    @property
    def has_user_code(self) -> bool:
        """Whether the environment, its data, reward or layers are not of spangym."""
        return full_id(self.id) not in ENVIRONMENTS or names_class(self.kwargs)

    @property
    def is_foreign(self) -> bool:
        """Whether the environment is not made by `spangym.envs.SpanControlEnv`."""
        return not is_span_control(find_spec(self.id))

    @property
    def has_level_arguments(self) -> bool:
        """Whether ``num_levels``, ``start_level`` and ``backend`` are those of `SpanControlEnv`."""
        return not self.is_foreign or is_subclass(self.id)

    @property
    def levels(self) -> range:
        """Levels of the training; empty without levels."""
        if not self.has_level_arguments:
            return range(0)
        start = self.kwargs.get("start_level", 0)
        return range(start, start + self.kwargs.get("num_levels", 0))

    @property
    def episode_steps(self) -> int:
        """Decisions of an episode in a normalized study, one for each chunk and layer."""
        if self.is_foreign:
            return ForeignEnv(self.id, self.kwargs).episode_steps
        return self.kwargs["chunks_per_episode"] * self.kwargs["num_layers"]

    @property
    def draws_cost_coef(self) -> bool:
        """Whether each episode draws its cost coefficient."""
        match self._cost_coef:
            case [int() | float() as low, int() | float() as high]:
                return 0 < low <= high
            case _:
                # Anything else is a number, or refused by `EnvConfig`.
                return False

    @property
    def eval_cost_coefs(self) -> tuple[float, ...]:
        """Cost coefficients at which each evaluation episode is played; empty if none is drawn."""
        if not self.draws_cost_coef:
            return ()
        low, high = self._cost_coef
        return tuple(np.geomspace(low, high, EVAL_COST_COEFS).tolist())

    @property
    def _cost_coef(self) -> Any:
        kwargs = {} if self.is_foreign else default_kwargs(self.id) | self.kwargs
        return kwargs.get("cost_coef")

    @property
    def num_actions(self) -> int:
        """Number of actions in a normalized study."""
        if self.is_foreign:
            return ForeignEnv(self.id, self.kwargs).num_actions
        return self.kwargs["num_actions"]

    def module_hashes(self) -> dict[str, str]:
        """SHA-256 of the modules of the user's classes and functions that it names."""
        if self.is_foreign:
            return ForeignEnv(self.id, self.kwargs).module_hashes()
        return module_hashes(self.kwargs)

    @property
    def device(self) -> str:
        """Torch device of the layers in a normalized study."""
        return str(self.kwargs.get("device", "cpu"))


@dataclass(frozen=True, config=STRICT)
class StudyAgent:
    """An agent of a study.

    Attributes:
        algo: Name or ``module:Class``, see `spangym.agents.get_agent_spec`.
        name: Name in tables and figures, at most 80 characters; that of the algorithm if empty.
        encoding: Encoding of the observations; the default of the agent if empty.
        pool_groups: Groups of dimensions over which features are pooled; 0 for no pooling.
        autocorrelation: Whether lag correlations are part of the observation.
        include_layer_index: Whether the index of the next layer is part of the observation; the
            default of the agent if not given.
        include_cost_coef: Whether a cost coefficient that episodes draw is part of the observation.
            Default: true.
        num_states: Number of states of the encoding ``state``; that of the refiner, or 10,000, if
            0.
        num_actions: Number of actions; that of the refiner, or of the environment, if 0.
        hyperparameters: Keyword arguments of the agent.
        environments: Names of the environments in which the agent is compared; all if empty.
            Entries of the same name in different environments are one agent with hyperparameters
            for each environment.
    """

    __repr__ = readable_repr

    algo: Text
    name: DisplayName = ""
    encoding: Text = ""
    pool_groups: SizeOrZero = 0
    autocorrelation: Flag = False
    include_layer_index: Flag | None = None
    include_cost_coef: Flag = True
    num_states: CountOrZero = 0
    num_actions: CountOrZero = 0
    hyperparameters: Hyperparameters = field(default_factory=dict)
    environments: tuple[DisplayName, ...] = ()

    @property
    def observes_index(self) -> bool:
        """Whether observations include the layer index, as given or by the agent's default."""
        if self.include_layer_index is not None:
            return self.include_layer_index
        return self.spec().observes_index(self.hyperparameters)

    @property
    def slug(self) -> str:
        """Name as a folder name."""
        return slug(self.name)

    @property
    def has_user_code(self) -> bool:
        """Whether the agent, or something that its hyperparameters name, is not of spangym."""
        builtin = self.algo in BUILTIN_AGENTS or fixed_action_of(self.algo) is not None
        return not builtin or names_class(self.hyperparameters)

    def spec(self) -> AgentSpec:
        """Return the specification of the algorithm; ValueError if it is unknown."""
        return get_agent_spec(self.algo)

    def make(self, seed: int) -> Agent:
        """Make the untrained agent."""
        return self.spec().make(seed=seed, **self.hyperparameters)

    def config_in(
        self, environment: StudyEnv, split: str, levels: Mapping[str, Any] | None = None
    ) -> EnvConfig | ForeignEnv:
        """Return the configuration of an environment as this agent observes it.

        An environment with the default number of actions takes that of the agent. Wrong arguments,
        datasets and weights raise a TypeError or ValueError.

        Args:
            environment: Environment of the study.
            split: Split of the dataset.
            levels: Arguments that replace ``num_levels``, ``start_level`` and ``backend``.
        """
        spec, observation = self.spec(), {name: getattr(self, name) for name in OBS_FIELDS}
        content = {"split": split, **(levels if levels and environment.has_level_arguments else {})}
        observation["include_layer_index"] = self.observes_index
        observation["num_states"] = self.num_states or NUM_STATES
        if environment.is_foreign:
            if self.include_cost_coef:
                # As the environment has it by default.
                del observation["include_cost_coef"]
            return self._foreign_env(environment, observation | content)
        observation["include_cost_coef"] &= environment.draws_cost_coef
        kwargs = environment.kwargs | observation
        given = kwargs.get("num_actions", NUM_ACTIONS)
        if self.num_actions and given not in (NUM_ACTIONS, self.num_actions):
            raise ValueError(
                f"it has {self.num_actions} actions, environment {environment.name!r} has "
                f"num_actions = {given}: set actions = {given} among its hyperparameters"
            )
        kwargs["num_actions"] = num_actions = self.num_actions or given
        if (spec.fixed_action or 0) >= num_actions:
            raise ValueError(f"environment {environment.name!r} has actions 0..{num_actions - 1}")
        return make_config(environment.id, kwargs | content)

    def _foreign_env(self, environment: StudyEnv, arguments: Mapping[str, Any]) -> ForeignEnv:
        where, spec = f"environment {environment.name!r}", self.spec()
        needs_outputs = isinstance(made := self.make(0), TabularAgent) and (
            made.bootstrap_from == "layer_output"
        )
        if self.algo in LOOKS_INSIDE or needs_outputs:
            raise ValueError(f"it looks into environments of spangym, which {where} is not")
        passed = {
            name: value for name, value in arguments.items() if takes_argument(environment.id, name)
        }
        omitted = {"pool_groups": 0, "autocorrelation": False, "encoding": spec.encoding}
        for name, default in omitted.items():
            value = arguments[name]
            if name not in passed and value not in ("", default):
                raise ValueError(f"{where} takes no {name}, got {value!r}: omit it")
        kwargs = {**environment.kwargs, **passed}
        foreign = ForeignEnv(environment.id, kwargs)
        number = foreign.num_actions
        if self.num_actions not in (0, number) or (spec.fixed_action or 0) >= number:
            raise ValueError(f"{where} has actions 0..{number - 1}")
        space = foreign.make().observation_space
        if spec.encoding == "state" and not isinstance(space, spaces.Discrete):
            raise ValueError(f"it learns from state ids, {where} observes {space}")
        return foreign


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """Evaluation of trained agents on episodes that are the same for all and in no training.

    Attributes:
        seed: Seed of the first episode; episode ``i`` has ``seed + i``.
        episodes: Number of episodes. Where episodes draw their cost coefficient, each is played
            at five of them (`EVAL_COST_COEFS`).
        regret_episodes: Number of episodes, the first ones, in which the regret of each decision is
            measured by lookahead, which takes as long as the oracle.
        split: Split of the dataset. ``train`` is for hyperparameter searches, which must not see
            the final evaluation.
        num_levels: Number of levels; 0, the default, for unseen content. Levels are for
            hyperparameter searches, and must not be those of the training.
        start_level: First level.
        backend: ``live`` or ``table``, which needs ``num_levels``.
    """

    __repr__ = readable_repr

    seed: Seed = 1_000_000
    episodes: Episodes = 16
    regret_episodes: CountOrZero = 1
    split: Literal["evaluation", "train"] = "evaluation"
    num_levels: NumLevels = 0
    start_level: Level = 0
    backend: Literal["live", "table"] = "live"

    @property
    def level_arguments(self) -> dict[str, Any]:
        """Arguments of the levels, which replace those of the training."""
        return {name: getattr(self, name) for name in LEVEL_FIELDS}

    @property
    def levels(self) -> range:
        """Levels of the evaluation; empty without levels."""
        return range(self.start_level, self.start_level + self.num_levels)


def baseline_names(num_actions: int) -> tuple[str, ...]:
    """Return the non-learning policies that are part of every comparison, the slowest first."""
    return (*_BASELINES, *fixed_span_names(num_actions))


def is_baseline(name: str) -> bool:
    """Return whether an agent of that name is part of every comparison."""
    return name in _BASELINES or fixed_action_of(name) is not None


@functools.cache
def _baseline_agents(num_actions: int) -> tuple[StudyAgent, ...]:
    return tuple(StudyAgent(name, name, encoding="digits") for name in baseline_names(num_actions))


@dataclass(frozen=True, config=STRICT)
class Study:
    """A comparison of agents in one or several environments.

    Attributes:
        name: Name of the study. In the name of its folder, other characters than letters of
            ASCII, digits, ``_`` and ``-`` are replaced by ``-``.
        total_timesteps: Environment steps of each training, over all parallel environments.
        seeds: Training seeds, the unit of replication; in TOML also their number, counted from 0.
        environments: Environments in which the agents act.
        agents: Compared agents; the baselines (`baseline_names`) are always added.
        evaluation: Evaluation of the agents.
        n_envs: Parallel environments of a training.
        resumed_from_steps: Earlier values of ``total_timesteps``, if the trainings were made
            longer. Schedules ended there, and a training that starts over does the same.
    """

    __repr__ = readable_repr

    name: StudyName
    total_timesteps: Steps
    seeds: Seeds
    environments: Annotated[tuple[StudyEnv, ...], Field(min_length=1, max_length=1000)]
    agents: Annotated[tuple[StudyAgent, ...], Field(max_length=1000)] = ()
    evaluation: EvalConfig = EvalConfig()
    n_envs: Count = 1
    resumed_from_steps: tuple[Steps, ...] = ()

    @property
    def slug(self) -> str:
        """Name as a folder name."""
        return slug(self.name)

    @property
    def device(self) -> str:
        """Torch device of the layers of the first environment."""
        return self.environments[0].device

    def seeds_in(self, environment: StudyEnv) -> tuple[int, ...]:
        """Return the training seeds in an environment."""
        return environment.seeds or self.seeds

    def steps_in(self, environment: StudyEnv) -> int:
        """Return the steps of each training in an environment."""
        return environment.total_timesteps or self.total_timesteps

    def agents_in(self, environment: StudyEnv) -> tuple[StudyAgent, ...]:
        """Return the agents compared in an environment, then the baselines."""
        compared = (
            each
            for each in self.agents
            if not each.environments or environment.name in each.environments
        )
        baselines = _baseline_agents(environment.num_actions)
        if environment.is_foreign:
            baselines = tuple(each for each in baselines if each.algo not in LOOKS_INSIDE)
        elif environment.kwargs.get("model") or environment.kwargs.get("blocks"):
            # Attention weights within a span are known of layers of this project only.
            baselines = tuple(each for each in baselines if each.algo != "threshold")
        return (*compared, *baselines)

    def content_hashes(self) -> dict[str, Any]:
        """Return the hashes of datasets and weights for the manifest of a run."""
        hashes = DatasetHashes()
        own = [each for each in self.environments if not each.is_foreign]
        datasets = {
            dataset_key(name, kwargs): hashes.get(name, kwargs)
            for each in own
            for name, kwargs in [(each.kwargs["dataset"], each.kwargs["dataset_kwargs"])]
        }
        checkpoints = {each.kwargs["checkpoint"] for each in own} - {""}
        return {
            "content_sha256": dict(sorted(datasets.items())),
            "weights_sha256": {each: weights_sha256(each) for each in sorted(checkpoints)},
        }

    def to_toml(self) -> str:
        """Return the study as TOML, including defaults."""
        return tomli_w.dumps(TypeAdapter(Study).dump_python(self, mode="json"))
