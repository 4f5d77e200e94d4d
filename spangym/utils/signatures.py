"""Parameters of classes and methods, read through their inheritance, and methods that are wrong."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spangym.utils.errors import describe_error
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
        unknown = re.search(r"unexpected keyword argument '(\w+)'", describe_error(error))
        if unknown is None or unknown[1] not in arguments:
            raise
        hint = did_you_mean(unknown[1], {*keyword_names(parameters_of(cls))} - {unknown[1]})
        name = getattr(cls, "__name__", str(cls))
        raise TypeError(f"{name} has no argument {unknown[1]!r}{hint}") from error


def method_problem(cls: type[Any], name: str, arguments: str) -> str:
    """Return what is wrong with a method of a class; empty if it can be called.

    Args:
        cls: The class.
        name: Name of the method.
        arguments: Names of the positional arguments that it is called with, separated by commas.

    Example:
        >>> class Mine:
        ...     def update(self, state, action): ...
        >>> method_problem(Mine, "update", "state, action, reward")
        'Mine.update must take (state, action, reward): too many positional arguments'
        >>> method_problem(Mine, "save", "path")
        'Mine has no method save(path)'
    """
    attribute, where = _static_attribute(cls, name), f"{cls.__name__}.{name}"
    if attribute is None:
        return f"{cls.__name__} has no method {name}({arguments})"
    if isinstance(attribute, property | functools.cached_property):
        return f"{where} is a property: it must be a method {name}({arguments})"
    if not callable(getattr(cls, name)):
        kind = type(attribute).__name__
        return f"{where} is of type {kind}: it must be a method {name}({arguments})"
    is_static = isinstance(attribute, staticmethod)
    is_wrapped = is_static or isinstance(attribute, classmethod)
    function = attribute.__func__ if is_wrapped else attribute
    if not inspect.isfunction(function):
        return ""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"{where} is async, which nothing awaits: it must be a plain method"
    if inspect.isgeneratorfunction(function):
        return f"{where} is a generator: it must return instead of yield"
    given = [*([] if is_static else ["self"]), *(arguments.split(", ") if arguments else [])]
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        return f"{where} must take ({arguments}): {error}"
    return ""


def source_location(cls: type[Any], name: str = "") -> str:
    """Return ``file.py:12: ``, the line of a class or of its method; empty if it is not known.

    The file is relative to the working folder if it is below it.
    """
    attribute = _static_attribute(cls, name)
    for wrapper in ("fget", "func", "__func__"):
        attribute = getattr(attribute, wrapper, attribute)
    code = getattr(attribute, "__code__", None)
    try:
        if code is None:
            file, line = inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
        else:
            file, line = code.co_filename, code.co_firstlineno
        path = Path(file)
        if not path.is_file():
            return ""
        if path.is_relative_to(here := Path.cwd()):
            path = path.relative_to(here)
    # The source may be missing, changed or not in a file at all, or the working folder deleted.
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""
    return f"{path}:{line}: "


def _static_attribute(cls: type[Any], name: str) -> Any:
    """Return what a class or its bases hold under a name, without calling descriptors."""
    return next((vars(each)[name] for each in cls.__mro__ if name in vars(each)), None)


def _signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:
        # Some types in C tell nothing about their arguments.
        kwargs = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        return {"kwargs": kwargs}
