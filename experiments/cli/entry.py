"""Where the command ``spangym`` starts: errors become a line, Ctrl-C is heard at once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NoReturn


def main() -> None:
    """Run the command line; errors of the user's are a line on stderr and exit code 2."""
    # A scheduler's request to end is answered as Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Refiners of the user's own are looked for in the working folder too, behind what is installed.
    sys.path.append(str(Path.cwd()))
    try:
        _run()
    except KeyboardInterrupt:
        _fail("interrupted: nothing was written", code=130)


def _run() -> None:
    # Imported here, since that takes seconds in which Ctrl-C may come.
    from typer.exceptions import TyperException

    from spangym.experiments.cli.app import app
    from spangym.utils.errors import UserError

    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except TyperException as error:
        _fail(error.format_message())
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    raise SystemExit(code)


def _fail(message: str, code: int = 2) -> NoReturn:
    # Without a command Typer prints the help and has nothing to add.
    if message:
        print("spangym: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
