"""Entry point of the command `spangym`."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import NoReturn

from typer.exceptions import TyperException

from spangym.experiments.cli.app import app
from spangym.utils.errors import UserError
from spangym.utils.streams import replace_unprintable
from spangym.utils.text import collapse_whitespace, printable


def main() -> None:
    """Run the command line; a user's error is printed as one line and exits with code 2."""
    # Schedulers end a job with SIGTERM: it is handled like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    replace_unprintable()
    try:
        # A user's own agents may be in the working folder; installed modules take precedence.
        sys.path.append(str(Path.cwd()))
    except OSError:
        _fail("the working folder was deleted or cannot be read: change to another one")
    try:
        code = app(prog_name="spangym", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except TyperException as error:
        _fail(_describe_usage_error(error))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has seen enough: nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    raise SystemExit(code)


def _describe_usage_error(error: TyperException) -> str:
    message = error.format_message().rstrip(".").replace(" Value error, ", " ")
    message = re.sub(
        r"^Got unexpected extra argument\(s\) \((.*)\)$", r"too many arguments: \1", message
    )
    if (ctx := getattr(error, "ctx", None)) is not None and message:
        message = f"{message[0].lower()}{message[1:]}; see: {ctx.command_path} --help"
    return message


def _fail(message: str) -> NoReturn:
    # Without a command Typer prints the help, and the message is empty.
    if message:
        print(f"spangym: {printable(collapse_whitespace(message))}", file=sys.stderr)
    raise SystemExit(2)
