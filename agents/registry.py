"""Agents by name: the built-in ones, those of other packages, and any class as ``module:Class``."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from spangym.agents.base import Agent
from spangym.agents.baselines.constant import FixedSpanPolicy, RandomPolicy
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.env_aware import (
    CoverageThresholdPolicy,
    MyopicPolicy,
    OracleAgent,
    SpanPredictorPolicy,
)
from spangym.agents.baselines.learned_span import LearnedSpanAgent
from spangym.agents.sb3.algorithms import ALGORITHMS, find_algorithm, hyperparameters_of
from spangym.agents.sb3.sb3_agent import SB3Agent
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.agents.tabular.q_learning import Refiner
from spangym.attention import NUM_ACTIONS
from spangym.utils.suggestions import did_you_mean

FIXED_SPAN_NAMES = tuple(f"fixed:{action}" for action in range(NUM_ACTIONS))
"""Names of the fixed spans."""

ENTRY_POINTS = "spangym.agents"
"""Group of entry points under which packages register agents: a name, and ``module:Class``."""

REFINER_METHODS = {"choose_action": "state", "update": "state, action, reward, next_state"}
"""What makes a class a refiner: its methods and their arguments."""

AGENT_METHODS = {"learn": "env, steps", "predict": "observations", "save": "path", "load": "path"}
"""What makes a class an agent."""

_GIVEN = ("self", "seed")
_DISCRETIZER_OPTIONS = ("n_clusters", "n_fit_samples", "by_layer")


@dataclass(frozen=True)
class AgentSpec:
    """An agent that can be made, found by its name.

    Attributes:
        name: The name.
        encoding: Encoding of observations it is made for.
        make: Makes one from its seed and its options by keyword.
        options: Names of the options; None if any is taken.
        is_trainable: Whether it has anything to learn.
        is_stochastic: Whether seeds make a difference.
        needs_layer_index: Whether its observations are to end with the layer's index, unless its option
            ``by_layer`` is false.
        module_sha256: Hash of the file that an agent of the user's own is written in; empty for
            built-in ones, and where there is no such file.
    """

    name: str
    encoding: str
    make: Callable[..., Agent]
    options: tuple[str, ...] | None = ()
    is_trainable: bool = True
    is_stochastic: bool = True
    needs_layer_index: bool = False
    module_sha256: str = ""

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the agent does not take.

        Raises:
            ValueError: An option is unknown; the message names the nearest.
        """
        if self.options is None:
            return
        for name in options:
            if name not in self.options:
                hint = did_you_mean(name, self.options) if self.options else "; it takes none"
                raise ValueError(f"agent {self.name!r} has no option {name!r}{hint}")


def get_agent_spec(name: str) -> AgentSpec:
    """Find an agent by its name.

    Args:
        name: A built-in name (`BUILTIN_AGENTS`); a name that an installed package registers as an entry point
            of the group ``spangym.agents``; or ``module:Class`` of a class that can be imported:

            - a refiner, with ``choose_action(state)`` and ``update(state, action, reward,
              next_state)``, which is given state ids;
            - an agent, with ``learn(env, steps)``, ``predict(observations)``, ``save(path)`` and
              ``load(path)``, which is given the encoding that its attribute ``encoding`` names,
              else ``box``;
            - an algorithm of Stable-Baselines3, or one derived from them.

            It is made without arguments but for its options and, if its constructor takes one,
            ``seed``.

    Returns:
        What makes the agent.

    Raises:
        ValueError: There is no such agent, or the class is none of these.

    Example:
        >>> get_agent_spec("fixed:3").make(seed=0).predict([None, None]).tolist()
        [3, 3]
    """
    if name in _BUILTIN_SPECS:
        return _BUILTIN_SPECS[name]()
    registered = {each.name: each.value for each in _entry_points()}
    if name in registered or (":" in name and not name.startswith("fixed:")):
        found = import_class(registered.get(name, name), f"agent {name!r}")
        return dataclasses.replace(
            spec_from_class(name, found), module_sha256=_module_sha256(found)
        )
    raise ValueError(
        f"agent {name!r} is unknown{did_you_mean(name, [*BUILTIN_AGENTS, *registered])}"
        " (a class of your own is named module:Class)"
    )


def import_class(name: str, context: str) -> type[Any]:
    """Import a class.

    Args:
        name: ``module:Class``; the module may be in the working folder, or installed.
        context: How the class was asked for, to begin an error message.

    Raises:
        ValueError: There is no such class, or its module fails.

    Example:
        >>> import_class("collections:Counter", "class 'collections:Counter'").__name__
        'Counter'
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{context}: module {module_name!r} fails: {error}") from error
        raise ValueError(
            f"{context}: there is no module {module_name!r} in the working folder "
            "or among the installed ones"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{context}: module {module_name!r} fails: {type(error).__name__}: {error}"
        ) from error
    file = getattr(module, "__file__", None)
    found = getattr(module, class_name, None)
    if found is not None and not inspect.isclass(found):
        raise ValueError(f"{context}: {class_name!r} in {file} is not a class")
    if found is None:
        classes = [each for each, value in vars(module).items() if inspect.isclass(value)]
        hint = did_you_mean(class_name, classes) if classes else "; it has no classes"
        raise ValueError(
            f"{context}: module {module_name!r} ({file}) has no class {class_name!r}{hint}"
        )
    return found


def _module_sha256(found: type[Any]) -> str:
    file = getattr(sys.modules.get(found.__module__), "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def spec_from_class(name: str, found: type[Any]) -> AgentSpec:
    """What makes agents of a class.

    Args:
        name: What to call it in error messages.
        found: A refiner, an agent, or an algorithm: see `get_agent_spec`.

    Raises:
        ValueError: It is none of these.
    """
    if issubclass(found, BaseAlgorithm):
        return _sb3_spec(name, found)
    for methods, make_spec in ((REFINER_METHODS, _tabular_spec), (AGENT_METHODS, _agent_spec)):
        there = [each for each in methods if callable(getattr(found, each, None))]
        lacking = [each for each in methods if each not in there]
        if there and lacking:
            word = "a refiner" if methods is REFINER_METHODS else "an agent"
            raise ValueError(
                f"agent {name!r} has no method {lacking[0]}({methods[lacking[0]]}): {word} needs "
                + " and ".join(f"{each}({arguments})" for each, arguments in methods.items())
            )
        if there:
            return make_spec(name, found)
    raise ValueError(
        f"agent {name!r} is neither a refiner ({', '.join(REFINER_METHODS)}) nor an agent "
        f"({', '.join(AGENT_METHODS)}) nor an algorithm of Stable-Baselines3"
    )


def _sb3_spec(name: str, algorithm: type[BaseAlgorithm]) -> AgentSpec:
    def make(seed: int, **options: Any) -> Agent:
        return SB3Agent(algorithm, seed, **options)

    names = _option_names(algorithm)
    known = None if names is None else ("normalize", *hyperparameters_of(algorithm))
    return AgentSpec(name, "box", make, known)


def _tabular_spec(name: str, controller: type[Any]) -> AgentSpec:
    make_controller = _constructor(controller)

    def make(seed: int, bootstrap_from: Any = "next_obs", **options: Any) -> Agent:
        return TabularAgent(make_controller(seed, **options), bootstrap_from)

    names = _option_names(controller)
    return AgentSpec(name, "state", make, None if names is None else ("bootstrap_from", *names))


def _kmeans_spec(name: str) -> AgentSpec:
    def make(seed: int, **options: Any) -> Agent:
        discretizer_options = {
            each: options.pop(each) for each in _DISCRETIZER_OPTIONS if each in options
        }
        discretizer, refiner, own = np.random.SeedSequence(seed).spawn(3)
        return KMeansQAgent(
            Refiner(**options, seed=np.random.default_rng(refiner)),
            KMeansDiscretizer(**discretizer_options, seed=np.random.default_rng(discretizer)),
            np.random.default_rng(own),
        )

    names = (_option_names(Refiner) or ()) + _DISCRETIZER_OPTIONS
    return AgentSpec(name, "features", make, names, needs_layer_index=True)


def _agent_spec(name: str, agent: type[Any]) -> AgentSpec:
    encoding = getattr(agent, "encoding", "box")
    return AgentSpec(name, encoding, _constructor(agent), _option_names(agent))


def _observation_free(name: str, agent: type[Any], *, is_trainable: bool) -> AgentSpec:
    """A built-in agent that looks at no observations, but at the environment, if at anything."""
    takes_seed = "seed" in inspect.signature(agent).parameters
    return AgentSpec(
        name,
        "digits",
        _constructor(agent),
        _option_names(agent),
        is_trainable=is_trainable,
        is_stochastic=takes_seed,
    )


def _constructor(made: type[Any]) -> Callable[..., Any]:
    """Makes an object of a class from its options and, if it takes one, a seed."""
    takes_seed = "seed" in inspect.signature(made).parameters

    def make(seed: int, **options: Any) -> Any:
        return made(**options, **({"seed": seed} if takes_seed else {}))

    return make


def _option_names(made: type[Any]) -> tuple[str, ...] | None:
    """Names of a constructor's arguments; None if it takes any."""
    parameters = inspect.signature(made).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return tuple(name for name in parameters if name not in _GIVEN)


def _fixed_span_spec(name: str, action: int) -> AgentSpec:
    def make(seed: int) -> Agent:
        del seed
        return FixedSpanPolicy(action)

    return AgentSpec(name, "digits", make, is_trainable=False, is_stochastic=False)


def _random_spec() -> AgentSpec:
    def make(seed: int) -> Agent:
        return RandomPolicy(NUM_ACTIONS, seed)

    return AgentSpec("random", "digits", make, is_trainable=False)


def _builtin_fixed_span(name: str, action: int) -> Callable[[], AgentSpec]:
    return lambda: _fixed_span_spec(name, action)


def _builtin_sb3(name: str) -> Callable[[], AgentSpec]:
    # Made when it is asked for: a package may be missing, and importing it takes time.
    return lambda: _sb3_spec(name, find_algorithm(name))


_BUILTIN_SPECS: dict[str, Callable[[], AgentSpec]] = {
    "random": _random_spec,
    **{name: _builtin_fixed_span(name, action) for action, name in enumerate(FIXED_SPAN_NAMES)},
    "full": _builtin_fixed_span("full", NUM_ACTIONS - 1),
    "predictor": lambda: _observation_free("predictor", SpanPredictorPolicy, is_trainable=False),
    "threshold": lambda: _observation_free(
        "threshold", CoverageThresholdPolicy, is_trainable=False
    ),
    "myopic": lambda: _observation_free("myopic", MyopicPolicy, is_trainable=False),
    "oracle": lambda: _observation_free("oracle", OracleAgent, is_trainable=False),
    "content-oracle": lambda: _observation_free(
        "content-oracle", ContentOracleAgent, is_trainable=True
    ),
    "learned-span": lambda: _observation_free("learned-span", LearnedSpanAgent, is_trainable=True),
    "refiner": lambda: _tabular_spec("refiner", Refiner),
    "refiner-kmeans": lambda: _kmeans_spec("refiner-kmeans"),
    **{name: _builtin_sb3(name) for name in ALGORITHMS},
}

BUILTIN_AGENTS = tuple(_BUILTIN_SPECS)
"""Names of the built-in agents."""
