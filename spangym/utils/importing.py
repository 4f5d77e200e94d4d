"""Classes and functions of users by ``module:name``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from spangym.utils.errors import describe_error
from spangym.utils.suggestions import did_you_mean


def is_import_path(name: str) -> bool:
    """Return whether a name has the form ``module:name``.

    Example:
        >>> is_import_path("my_rewards:ShortSpan"), is_import_path("texts/a:b")
        (True, False)
    """
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


_imported: dict[str, str] = {}
"""Modules that were imported by name, with the SHA-256 of their files at that time."""


def forget_changed_modules() -> None:
    """Make `import_module` read modules again whose files have changed, as they do in a notebook.

    Of a module that was imported in another way, changes count from its first `import_module`.
    """
    importlib.invalidate_caches()
    for name, sha256 in [*_imported.items()]:
        if module_sha256(name) != sha256:
            del _imported[name]
            sys.modules.pop(name, None)


def import_module(name: str, context: str) -> ModuleType:
    """Import a module; a ValueError that starts with ``context`` says why it cannot be imported."""
    try:
        module = importlib.import_module(name)
        _imported.setdefault(name, module_sha256(name))
        return module
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            places = "in the working folder or among the installed ones"
            raise ValueError(f"{context}: there is no module {name!r} {places}") from error
        message = f"module {name!r} fails: {describe_error(error)}"
        raise ValueError(f"{context}: {message}") from error


def import_object(name: str, context: str) -> Any:
    """Import ``module:name`` from the working folder or the installed packages.

    Args:
        name: The path of the object.
        context: Start of the error messages, such as ``reward 'my_rewards:ShortSpan'``.

    Raises:
        ValueError: There is no such module or object, or the module fails.
    """
    module_name, _, object_name = name.partition(":")
    module = import_module(module_name, context)
    if (found := getattr(module, object_name, None)) is not None:
        return found
    place = f"module {module_name!r} ({getattr(module, '__file__', None)})"
    known = [each for each, value in vars(module).items() if inspect.isroutine(value)]
    known += [each for each, value in vars(module).items() if inspect.isclass(value)]
    hint = did_you_mean(object_name, known) if known else "; it has no classes"
    raise ValueError(f"{context}: {place} has no class {object_name!r}{hint}")


def import_class(name: str, context: str) -> type[Any]:
    """Import ``module:Class``, see `import_object`; a ValueError if it is not a class."""
    found = import_object(name, context)
    if not inspect.isclass(found):
        module, _, class_name = name.partition(":")
        place = f"module {module!r} ({getattr(sys.modules[module], '__file__', None)})"
        kind = f"a {type(found).__name__}"
        raise ValueError(f"{context}: {class_name!r} in {place} is not a class but {kind}")
    return found


def module_sha256(found: Any) -> str:
    """Return the SHA-256 of the file of a module by name, or of that of a class or function.

    It is empty if there is no file.
    """
    module = found if isinstance(found, str) else getattr(found, "__module__", "")
    file = getattr(sys.modules.get(module), "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
