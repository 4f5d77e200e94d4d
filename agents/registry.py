"""Agents by name: built-in ones, entry points of other packages, and any ``module:Class``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from spangym.agents.agent_class import REFINER, find_role
from spangym.agents.agent_names import ALGORITHMS, BUILTIN_AGENTS, registered_agents
from spangym.agents.base import Agent
from spangym.agents.baselines.constant import FixedSpanPolicy, FullSpanPolicy, RandomPolicy
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.env_aware import (
    CoverageThresholdPolicy,
    MyopicPolicy,
    OracleAgent,
    SpanPredictorPolicy,
)
from spangym.agents.baselines.learned_span import LearnedSpanAgent
from spangym.agents.sb3.algorithms import find_algorithm, hyperparameters_of
from spangym.agents.sb3.sb3_agent import SB3Agent
from spangym.agents.tabular.controller_agent import BootstrapFrom, TabularAgent
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.agents.tabular.q_learning import Refiner
from spangym.attention import NUM_ACTIONS
from spangym.utils.importing import import_class, module_sha256
from spangym.utils.signatures import (
    construct,
    keyword_names,
    parameters_of,
    takes_any_keyword,
)
from spangym.utils.suggestions import did_you_mean


@dataclass(frozen=True)
class AgentSpec:
    """A named agent and its requirements.

    Attributes:
        name: Name of the agent.
        encoding: Default encoding of its observations.
        make: Constructor, called with ``seed`` and options as keyword arguments.
        options: Names of the options; None if any is accepted.
        is_trainable: Whether the agent learns.
        is_stochastic: Whether the agent depends on the seed.
        include_layer_index: Default of whether observations include the layer index.
        needs_layer_index: Whether observations must end with the layer index, unless the option
            ``by_layer`` is false.
        fixed_action: The only action of a fixed span.
        module_sha256: SHA-256 of the file of a user's class; empty for built-in agents.
    """

    name: str
    encoding: str
    make: Callable[..., Agent]
    options: tuple[str, ...] | None = ()
    is_trainable: bool = True
    is_stochastic: bool = True
    include_layer_index: bool = False
    needs_layer_index: bool = False
    fixed_action: int | None = None
    module_sha256: str = ""

    def __repr__(self) -> str:
        return f"AgentSpec({self.name!r}, encoding={self.encoding!r})"

    def needs_index(self, options: Mapping[str, Any]) -> bool:
        """Return whether the agent with these options needs the layer index."""
        return self.needs_layer_index and bool(options.get("by_layer", True))

    def observes_index(self, options: Mapping[str, Any]) -> bool:
        """Return whether observations of the agent include the layer index by default."""
        return self.include_layer_index or self.needs_index(options)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise a `ValueError` for an unknown option, which suggests the closest match."""
        for name in options:
            if self.options is not None and name not in self.options:
                hint = did_you_mean(name, self.options) if self.options else "; it takes none"
                raise ValueError(f"agent {self.name!r} has no option {name!r}{hint}")


def get_agent_spec(name: str) -> AgentSpec:
    """Find an agent by name.

    Args:
        name: Built-in name (`BUILTIN_AGENTS`); name of an entry point in the group
            ``spangym.agents``; or ``module:Class`` of an importable class:

            - a refiner, with ``choose_action(state)`` and ``update(state, action, reward,
              next_state)``, which observes state ids;
            - an agent, with ``learn(env, steps)``, ``predict(observations)``, ``save(path)`` and
              ``load(path)``, which observes the encoding of its attribute ``encoding``, or ``box``;
            - an algorithm of Stable-Baselines3, or a subclass.

            The class is called with the options and, if it has this argument, ``seed``.

    Raises:
        ValueError: There is no such agent, or the class is none of these or has a wrong method.

    Example:
        >>> get_agent_spec("fixed:3").make(seed=0).predict([None, None]).tolist()
        [3, 3]
    """
    if name in ALGORITHMS:
        return _sb3_spec(name, find_algorithm(name))
    if name in _BUILTIN_SPECS:
        return _BUILTIN_SPECS[name]
    if (action := fixed_action_of(name)) is not None:
        return _fixed_span(action)
    registered = registered_agents()
    if name not in registered and (":" not in name or name.startswith("fixed:")):
        raise ValueError(
            f"agent {name!r} is unknown{did_you_mean(name, [*BUILTIN_AGENTS, *registered])}"
            " (a class of your own is named module:Class)"
        )
    found = import_class(registered.get(name, name), f"agent {name!r}")
    return dataclasses.replace(spec_from_class(name, found), module_sha256=module_sha256(found))


def make_agent(name: str, seed: int = 0, **hyperparameters: Any) -> Agent:
    """Make an untrained agent.

    Args:
        name: Built-in name (`list_agents`), name that another package registers, or
            ``module:Class``, see `get_agent_spec`.
        seed: Seed of the agent's own generators.
        hyperparameters: Keyword arguments of the agent.

    Raises:
        ValueError: The name or a hyperparameter is unknown; the message suggests the closest
            match.

    Example:
        >>> make_agent("fixed:3").predict([None, None]).tolist()
        [3, 3]
        >>> make_agent("refiner", alhpa=0.2)
        Traceback (most recent call last):
        ValueError: agent 'refiner' has no option 'alhpa'; did you mean 'alpha'?
    """
    spec = get_agent_spec(name)
    spec.check_options(hyperparameters)
    return spec.make(seed=seed, **hyperparameters)


def fixed_action_of(name: str) -> int | None:
    """Return the action of the fixed span that is named ``fixed:ACTION``, None if none is.

    Example:
        >>> fixed_action_of("fixed:12"), fixed_action_of("fixed:012"), fixed_action_of("random")
        (12, None, None)
    """
    found = re.fullmatch(r"fixed:(0|[1-9]\d{0,2})", name, re.ASCII)
    return int(found[1]) if found else None


def fixed_span_names(num_actions: int) -> tuple[str, ...]:
    """Return the names of the fixed spans in an environment with so many actions."""
    return tuple(f"fixed:{action}" for action in range(num_actions))


def spec_from_class(name: str, found: type[Any]) -> AgentSpec:
    """Build the specification of a refiner, an agent or an algorithm; see `get_agent_spec`.

    Raises:
        ValueError: The class is none of these, or a method is missing or wrong; the message gives
            ``name`` and the line of the class or method.
    """
    if issubclass(found, BaseAlgorithm):
        return _sb3_spec(name, found)
    if find_role(name, found) is REFINER:
        return _tabular_spec(name, found)
    return _spec(name, found, getattr(found, "encoding", "box"))


def _spec(name: str, cls: type[Any], encoding: str, **more: Any) -> AgentSpec:
    return AgentSpec(name, encoding, _with_seed(cls), _option_names(cls), **more)


def _baseline(name: str, cls: type[Any], *, is_trainable: bool = False) -> AgentSpec:
    is_stochastic = "seed" in parameters_of(cls)
    return _spec(name, cls, "digits", is_trainable=is_trainable, is_stochastic=is_stochastic)


def _fixed_span(action: int) -> AgentSpec:
    def make(seed: int) -> Agent:
        del seed
        return FixedSpanPolicy(action)

    return AgentSpec(
        f"fixed:{action}",
        "digits",
        make,
        is_trainable=False,
        is_stochastic=False,
        fixed_action=action,
    )


def _sb3_spec(name: str, algorithm: type[BaseAlgorithm]) -> AgentSpec:
    def make(seed: int, **options: Any) -> Agent:
        return SB3Agent(algorithm, seed, **options)

    names = ("normalize", *hyperparameters_of(algorithm))
    return AgentSpec(name, "box", make, None if _option_names(algorithm) is None else names)


def _tabular_spec(
    name: str, controller: type[Any], default: BootstrapFrom = "next_obs", **more: Any
) -> AgentSpec:
    make_controller, names = _with_seed(controller), _option_names(controller)

    def make(seed: int, bootstrap_from: Any = default, **options: Any) -> Agent:
        return TabularAgent(make_controller(seed, **options), bootstrap_from)

    options = None if names is None else ("bootstrap_from", *names)
    return AgentSpec(name, "state", make, options, **more)


def _make_kmeans_agent(seed: int, **options: Any) -> Agent:
    names = _option_names(KMeansDiscretizer) or ()
    discretizer_options = {each: options.pop(each) for each in names if each in options}
    discretizer, refiner, own = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    clusters = KMeansDiscretizer(**discretizer_options, seed=discretizer)
    return KMeansQAgent(Refiner(**options, seed=refiner), clusters, own)


def _with_seed(cls: type[Any]) -> Callable[..., Any]:
    takes_seed = "seed" in parameters_of(cls)

    def make(seed: int, **options: Any) -> Any:
        return construct(cls, options | ({"seed": seed} if takes_seed else {}))

    return make


def _option_names(cls: type[Any]) -> tuple[str, ...] | None:
    """Return the names of a constructor's arguments without ``seed``; None if it takes any."""
    parameters = parameters_of(cls)
    if takes_any_keyword(parameters):
        return None
    return tuple(name for name in keyword_names(parameters) if name != "seed")


_BUILTIN_SPECS = {
    spec.name: spec
    for spec in (
        _baseline("random", RandomPolicy),
        *map(_fixed_span, range(NUM_ACTIONS)),
        _baseline("full", FullSpanPolicy),
        _baseline("predictor", SpanPredictorPolicy),
        _baseline("threshold", CoverageThresholdPolicy),
        _baseline("myopic", MyopicPolicy),
        _baseline("oracle", OracleAgent),
        _baseline("content-oracle", ContentOracleAgent, is_trainable=True),
        _baseline("learned-span", LearnedSpanAgent, is_trainable=True),
        # The original's rule: it bootstraps on the layer's output, and each layer has its own ids.
        _tabular_spec("refiner", Refiner, "layer_output", include_layer_index=True),
        AgentSpec(
            "refiner-kmeans",
            "features",
            _make_kmeans_agent,
            # Its states are the clusters.
            tuple(
                each
                for cls in (Refiner, KMeansDiscretizer)
                for each in _option_names(cls) or ()
                if each != "states"
            ),
            needs_layer_index=True,
        ),
    )
}
