"""The exception of input errors, and the description of any exception."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from spangym.utils.text import printable

_MAX_MESSAGE = 1000
"""Characters of a described message."""


class UserError(ValueError):
    """An input is wrong; the one-line message says where, and what would be right."""


class RunError(RuntimeError):
    """A run ended early; the one-line message says why, and how to resume."""


@contextlib.contextmanager
def report_user_code(context: str) -> Iterator[None]:
    """Raise whatever a user's code in the context raises as a `UserError` that starts with a text.

    `KeyboardInterrupt` passes, since it may be Ctrl-C.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        raise UserError(f"{context}: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    r"""Return the type and the first line of the message of any exception, in one printable line.

    It never raises, also for exceptions of users' classes whose text cannot be made.

    Example:
        >>> describe_error(ArithmeticError("division by zero\nin the second line"))
        'ArithmeticError: division by zero'
        >>> class Silent(Exception):
        ...     def __str__(self):
        ...         raise ValueError
        >>> describe_error(Silent())
        'Silent: its message cannot be shown'
    """
    name = printable(type(error).__name__)
    try:
        message = str(error).strip().partition("\n")[0]
    except BaseException:  # The text is made by the user's code.
        message = "its message cannot be shown"
    return f"{name}: {printable(message[:_MAX_MESSAGE])}" if message else name
