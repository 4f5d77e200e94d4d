"""Agents by name: the shipped ones, and any refiner as ``module:Class``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..attention import ACTIONS
from ..attention.hints import did_you_mean
from .deep import ALGORITHMS, DeepAgent
from .protocol import Agent
from .reference import FixedAgent, RandomAgent
from .refiner import Refiner
from .tabular import ControllerAgent

FIXED = tuple(f"fixed:{action}" for action in range(ACTIONS))
"""Names of the fixed spans."""


@dataclass(frozen=True)
class AgentKind:
    """An agent that can be made, found by its name.

    Attributes:
        name: The name.
        encoding: Encoding of observations it is made for.
        make: Makes one from its seed and its options by keyword.
        signature: Callable whose keyword arguments are the options.
    """

    name: str
    encoding: str
    make: Callable[..., Agent]
    signature: Callable[..., Any]

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the agent does not take.

        Raises:
            ValueError: An option is unknown; the message names the nearest.
        """
        parameters = inspect.signature(self.signature).parameters
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            return
        known = [name for name in parameters if name not in ("self", "seed", "env", "policy")]
        for name in options:
            if name not in known:
                hint = did_you_mean(name, known) if known else "; it takes none"
                raise ValueError(f"agent {self.name!r} has no option {name!r}{hint}")


def find_agent(name: str) -> AgentKind:
    """Find an agent by its name.

    Args:
        name: A shipped name (`NAMES`), or ``module:Class`` of a refiner: a class with
            ``choose_action(state)`` and ``update(state, action, reward, next_state)`` that can be
            imported. It is made without arguments but for its options and, if its constructor
            takes one, ``seed``.

    Returns:
        What makes the agent.

    Raises:
        ValueError: There is no such agent, or the class is no refiner.

    Example:
        >>> find_agent("fixed:3").make(seed=0).predict([None, None]).tolist()
        [3, 3]
    """
    if name in _SHIPPED:
        return _SHIPPED[name]
    if ":" in name and not name.startswith("fixed:"):
        return _controller(name, _import_refiner(name))
    raise ValueError(
        f"agent {name!r} is unknown{did_you_mean(name, NAMES)}"
        " (a refiner of your own is named module:Class)"
    )


def _random() -> AgentKind:
    def make(seed: int) -> Agent:
        return RandomAgent(ACTIONS, seed)

    return AgentKind("random", "digits", make=make, signature=_nothing)


def _fixed(action: int) -> AgentKind:
    def make(seed: int) -> Agent:
        del seed
        return FixedAgent(action)

    return AgentKind(FIXED[action], "digits", make=make, signature=_nothing)


def _controller(name: str, controller: type[Any]) -> AgentKind:
    seeded = "seed" in inspect.signature(controller).parameters

    def make(seed: int, **options: Any) -> Agent:
        return ControllerAgent(controller(**options, **({"seed": seed} if seeded else {})))

    return AgentKind(name, "state", make=make, signature=controller)


def _deep(name: str) -> AgentKind:
    def make(seed: int, **options: Any) -> Agent:
        return DeepAgent(name, seed, **options)

    return AgentKind(name, "box", make=make, signature=ALGORITHMS[name])


def _nothing() -> None:
    """The signature of an agent without options."""


_SHIPPED = {
    kind.name: kind
    for kind in (
        _random(),
        *(_fixed(action) for action in range(ACTIONS)),
        _controller("refiner", Refiner),
        *(_deep(name) for name in ALGORITHMS),
    )
}

NAMES = tuple(_SHIPPED)
"""Names of the shipped agents."""


def _import_refiner(name: str) -> type[Any]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"agent {name!r}: module {module_name!r} fails: {error}") from error
        raise ValueError(
            f"agent {name!r}: there is no module {module_name!r} in the working folder "
            "or among the installed ones"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"agent {name!r}: module {module_name!r} fails: {type(error).__name__}: {error}"
        ) from error
    file = getattr(module, "__file__", None)
    found = getattr(module, class_name, None)
    if found is not None and not inspect.isclass(found):
        raise ValueError(f"agent {name!r}: {class_name!r} in {file} is not a class")
    if found is None:
        classes = [each for each, value in vars(module).items() if inspect.isclass(value)]
        hint = did_you_mean(class_name, classes) if classes else "; it has no classes"
        raise ValueError(
            f"agent {name!r}: module {module_name!r} ({file}) has no class {class_name!r}{hint}"
        )
    for method, arguments in (
        ("choose_action", "state"),
        ("update", "state, action, reward, next_state"),
    ):
        if not callable(getattr(found, method, None)):
            raise ValueError(
                f"agent {name!r} has no method {method}({arguments}): a refiner needs "
                "choose_action(state) and update(state, action, reward, next_state)"
            )
    return found
