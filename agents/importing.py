"""Classes by ``module:Class``, with errors that say what is there instead."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from spangym.utils.suggestions import did_you_mean


def import_class(name: str, said: str) -> type[Any]:
    """Import a class.

    Args:
        name: ``module:Class``; the module may be in the working folder, or installed.
        said: How the class was asked for, to begin an error message.

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
            raise ValueError(f"{said}: module {module_name!r} fails: {error}") from error
        raise ValueError(
            f"{said}: there is no module {module_name!r} in the working folder "
            "or among the installed ones"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{said}: module {module_name!r} fails: {type(error).__name__}: {error}"
        ) from error
    file = getattr(module, "__file__", None)
    found = getattr(module, class_name, None)
    if found is not None and not inspect.isclass(found):
        raise ValueError(f"{said}: {class_name!r} in {file} is not a class")
    if found is None:
        classes = [each for each, value in vars(module).items() if inspect.isclass(value)]
        hint = did_you_mean(class_name, classes) if classes else "; it has no classes"
        raise ValueError(
            f"{said}: module {module_name!r} ({file}) has no class {class_name!r}{hint}"
        )
    return found
