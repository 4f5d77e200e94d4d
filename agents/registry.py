"""Agents by name: the shipped ones, those of other packages, and any class as ``module:Class``."""

from __future__ import annotations

import dataclasses
import hashlib
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
from spangym.agents.baselines.constant import FixedAgent, RandomAgent
from spangym.agents.baselines.content_oracle import ToldAgent
from spangym.agents.baselines.env_aware import (
    GreedyAgent,
    OracleAgent,
    PredictorAgent,
    ThresholdAgent,
)
from spangym.agents.baselines.learned_span import SoftSpanAgent
from spangym.agents.importing import import_class
from spangym.agents.sb3.algorithms import ALGORITHMS, find_algorithm, options_of
from spangym.agents.sb3.sb3_agent import DeepAgent
from spangym.agents.tabular.controller_agent import ControllerAgent
from spangym.agents.tabular.kmeans import Clusters
from spangym.agents.tabular.kmeans_agent import ClusterAgent
from spangym.agents.tabular.q_learning import Refiner
from spangym.attention import ACTIONS
from spangym.utils.suggestions import did_you_mean

FIXED = tuple(f"fixed:{action}" for action in range(ACTIONS))
"""Names of the fixed spans."""

ENTRY_POINTS = "spangym.agents"
"""Group of entry points under which packages register agents: a name, and ``module:Class``."""

REFINER_METHODS = {"choose_action": "state", "update": "state, action, reward, next_state"}
"""What makes a class a refiner: its methods and their arguments."""

AGENT_METHODS = {"learn": "env, steps", "predict": "observations", "save": "path", "load": "path"}
"""What makes a class an agent."""

_GIVEN = ("self", "seed")
_CLUSTERING = ("clusters", "fit_on", "by_layer")


@dataclass(frozen=True)
class AgentKind:
    """An agent that can be made, found by its name.

    Attributes:
        name: The name.
        encoding: Encoding of observations it is made for.
        make: Makes one from its seed and its options by keyword.
        options: Names of the options; None if any is taken.
        learns: Whether it has anything to learn.
        seeded: Whether seeds make a difference.
        by_layer: Whether its observations are to end with the layer's index, unless its option
            ``by_layer`` is false.
        module_sha256: Hash of the file that an agent of the user's own is written in; empty for
            shipped ones, and where there is no such file.
    """

    name: str
    encoding: str
    make: Callable[..., Agent]
    options: tuple[str, ...] | None = ()
    learns: bool = True
    seeded: bool = True
    by_layer: bool = False
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


def find_agent(name: str) -> AgentKind:
    """Find an agent by its name.

    Args:
        name: A shipped name (`NAMES`); a name that an installed package registers as an entry point
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
        >>> find_agent("fixed:3").make(seed=0).predict([None, None]).tolist()
        [3, 3]
    """
    if name in _SHIPPED:
        return _SHIPPED[name]()
    registered = {each.name: each.value for each in _entry_points()}
    if name in registered or (":" in name and not name.startswith("fixed:")):
        found = import_class(registered.get(name, name), f"agent {name!r}")
        return dataclasses.replace(kind_of_class(name, found), module_sha256=_module_sha256(found))
    raise ValueError(
        f"agent {name!r} is unknown{did_you_mean(name, [*NAMES, *registered])}"
        " (a class of your own is named module:Class)"
    )


def _module_sha256(found: type[Any]) -> str:
    file = getattr(sys.modules.get(found.__module__), "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def kind_of_class(name: str, found: type[Any]) -> AgentKind:
    """What makes agents of a class.

    Args:
        name: What to call it in error messages.
        found: A refiner, an agent, or an algorithm: see `find_agent`.

    Raises:
        ValueError: It is none of these.
    """
    if issubclass(found, BaseAlgorithm):
        return _deep(name, found)
    for methods, kind in ((REFINER_METHODS, _controller), (AGENT_METHODS, _agent)):
        there = [each for each in methods if callable(getattr(found, each, None))]
        lacking = [each for each in methods if each not in there]
        if there and lacking:
            word = "a refiner" if methods is REFINER_METHODS else "an agent"
            raise ValueError(
                f"agent {name!r} has no method {lacking[0]}({methods[lacking[0]]}): {word} needs "
                + " and ".join(f"{each}({arguments})" for each, arguments in methods.items())
            )
        if there:
            return kind(name, found)
    raise ValueError(
        f"agent {name!r} is neither a refiner ({', '.join(REFINER_METHODS)}) nor an agent "
        f"({', '.join(AGENT_METHODS)}) nor an algorithm of Stable-Baselines3"
    )


def _deep(name: str, algorithm: type[BaseAlgorithm]) -> AgentKind:
    def make(seed: int, **options: Any) -> Agent:
        return DeepAgent(algorithm, seed, **options)

    names = _option_names(algorithm)
    known = None if names is None else ("normalize", *options_of(algorithm))
    return AgentKind(name, "box", make, known)


def _controller(name: str, controller: type[Any]) -> AgentKind:
    make_controller = _maker(controller)

    def make(seed: int, bootstrap: Any = "observation", **options: Any) -> Agent:
        return ControllerAgent(make_controller(seed, **options), bootstrap)

    names = _option_names(controller)
    return AgentKind(name, "state", make, None if names is None else ("bootstrap", *names))


def _clusters(name: str) -> AgentKind:
    def make(seed: int, **options: Any) -> Agent:
        of_clusters = {each: options.pop(each) for each in _CLUSTERING if each in options}
        clusters, refiner, own = np.random.SeedSequence(seed).spawn(3)
        return ClusterAgent(
            Refiner(**options, seed=np.random.default_rng(refiner)),
            Clusters(**of_clusters, seed=np.random.default_rng(clusters)),
            np.random.default_rng(own),
        )

    names = (_option_names(Refiner) or ()) + _CLUSTERING
    return AgentKind(name, "features", make, names, by_layer=True)


def _agent(name: str, agent: type[Any]) -> AgentKind:
    encoding = getattr(agent, "encoding", "box")
    return AgentKind(name, encoding, _maker(agent), _option_names(agent))


def _unseeing(name: str, agent: type[Any], *, learns: bool) -> AgentKind:
    """A shipped agent that looks at no observations, but at the environment, if at anything."""
    seeded = "seed" in inspect.signature(agent).parameters
    return AgentKind(
        name, "digits", _maker(agent), _option_names(agent), learns=learns, seeded=seeded
    )


def _maker(made: type[Any]) -> Callable[..., Any]:
    """Makes an object of a class from its options and, if it takes one, a seed."""
    seeded = "seed" in inspect.signature(made).parameters

    def make(seed: int, **options: Any) -> Any:
        return made(**options, **({"seed": seed} if seeded else {}))

    return make


def _option_names(made: type[Any]) -> tuple[str, ...] | None:
    """Names of a constructor's arguments; None if it takes any."""
    parameters = inspect.signature(made).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return tuple(name for name in parameters if name not in _GIVEN)


def _fixed(name: str, action: int) -> AgentKind:
    def make(seed: int) -> Agent:
        del seed
        return FixedAgent(action)

    return AgentKind(name, "digits", make, learns=False, seeded=False)


def _random() -> AgentKind:
    def make(seed: int) -> Agent:
        return RandomAgent(ACTIONS, seed)

    return AgentKind("random", "digits", make, learns=False)


def _shipped_fixed(name: str, action: int) -> Callable[[], AgentKind]:
    return lambda: _fixed(name, action)


def _shipped_deep(name: str) -> Callable[[], AgentKind]:
    # Made when it is asked for: a package may be missing, and importing it takes time.
    return lambda: _deep(name, find_algorithm(name))


_SHIPPED: dict[str, Callable[[], AgentKind]] = {
    "random": _random,
    **{name: _shipped_fixed(name, action) for action, name in enumerate(FIXED)},
    "full": _shipped_fixed("full", ACTIONS - 1),
    "predictor": lambda: _unseeing("predictor", PredictorAgent, learns=False),
    "threshold": lambda: _unseeing("threshold", ThresholdAgent, learns=False),
    "greedy": lambda: _unseeing("greedy", GreedyAgent, learns=False),
    "oracle": lambda: _unseeing("oracle", OracleAgent, learns=False),
    "told": lambda: _unseeing("told", ToldAgent, learns=True),
    "softspan": lambda: _unseeing("softspan", SoftSpanAgent, learns=True),
    "refiner": lambda: _controller("refiner", Refiner),
    "refiner-clusters": lambda: _clusters("refiner-clusters"),
    **{name: _shipped_deep(name) for name in ALGORITHMS},
}

NAMES = tuple(_SHIPPED)
"""Names of the shipped agents."""
