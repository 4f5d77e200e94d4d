"""Parameters of classes and methods, read through their inheritance."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from spangym.utils.suggestions import did_you_mean

T = TypeVar("T")

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, method or function by name.

    Those of a class are its constructor's. A constructor or method with ``**kwargs`` is taken to
    pass them on to its base class, whose parameters follow its own. ``**kwargs`` itself is kept,
    since the class may read other arguments from it.

    Example:
        >>> class Base:
        ...     def __init__(self, rate=0.1): ...
        >>> class Derived(Base):
        ...     def __init__(self, depth, *args, **kwargs): ...
        >>> [*parameters_of(Derived)]
        ['depth', 'args', 'kwargs', 'rate']
    """
    found = _signature(function)
    if inspect.isclass(function):
        owner, name = function, "__init__"
    elif inspect.ismethod(function):
        bound = function.__self__
        owner, name = bound if inspect.isclass(bound) else type(bound), function.__name__
    else:
        return found
    passes_on = takes_any_keyword(found)
    for base in [each for each in owner.__mro__[:-1] if name in vars(each)][1:]:
        if not passes_on:
            break
        inherited = _signature(getattr(base, name))
        passes_on = takes_any_keyword(inherited)
        if not isinstance(vars(base)[name], classmethod | staticmethod):
            inherited.pop(next(iter(inherited), ""), None)
        added = (each for each in keyword_names(inherited) if each not in found)
        found |= {each: inherited[each] for each in added}
    return found


def takes_any_keyword(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether ``**kwargs`` is among parameters."""
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def keyword_names(parameters: Mapping[str, inspect.Parameter]) -> tuple[str, ...]:
    """Return the names of the parameters that can be given by keyword, without ``**kwargs``."""
    return tuple(name for name, each in parameters.items() if each.kind in _BY_KEYWORD)


def construct(cls: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """Call a class with keyword arguments.

    Raises:
        TypeError: An argument is unknown, and the message suggests the closest match; or whatever
            else the class raises.

    Example:
        >>> class Base:
        ...     def __init__(self, rate=0.1): ...
        >>> class Derived(Base):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(**kwargs)
        >>> construct(Derived, {"rat": 0.2})
        Traceback (most recent call last):
        ...
        TypeError: Derived has no argument 'rat'; did you mean 'rate'?
    """
    try:
        return cls(**arguments)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in arguments:
            raise
        hint = did_you_mean(unknown[1], {*keyword_names(parameters_of(cls))} - {unknown[1]})
        name = getattr(cls, "__name__", str(cls))
        raise TypeError(f"{name} has no argument {unknown[1]!r}{hint}") from error


def _signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:
        # Some types in C tell nothing about their arguments.
        kwargs = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        return {"kwargs": kwargs}
