"""Runs a page of the docs as a reader would: its blocks from top to bottom, in one folder.

- ``python``: run, with the names of the blocks before; if the first line is a comment with the name
  of a file (``# my_refiner.py``), written to that file instead.
- ``toml`` with such a first line: written to that file; a study must be valid.
- ``sh``: run. Lines that start with ``spangym`` run in this process, which has PyTorch imported.
- Others, such as ``console``, are not run.

Usage: python page_runner.py PAGE
"""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|toml|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")


def check_study(path: str) -> None:
    """Raise an error if a study cannot be loaded."""
    from spangym.experiments.studies.load_study import load_study

    load_study(path)


def spangym(command: str) -> None:
    """Run one command; RuntimeError if it fails."""
    from spangym.experiments.cli.entry import main

    sys.argv = shlex.split(command, comments=True)
    try:
        main()
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"{command!r} exited with {error.code}") from None


def run_commands(text: str) -> None:
    lines = text.replace("\\\n", " ").splitlines()
    for own, group in itertools.groupby(lines, lambda line: line.startswith("spangym ")):
        if own:
            for line in group:
                spangym(line)
        else:
            subprocess.run(["bash", "-euc", "\n".join(group)], check=True)


def run_page(page: Path) -> None:
    text = page.read_text("utf-8")
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in BLOCK.finditer(text):
        language, body = block.groups()
        if file := FILE.match(body):
            Path(file[1]).write_text(body, "utf-8")
            if "[[environments]]" in body:
                check_study(file[1])
        elif language == "python":
            # Errors name the line of the page.
            lines = "\n" * (text.count("\n", 0, block.start()) + 1)
            exec(compile(lines + body, page.name, "exec"), names)
        elif language == "sh":
            run_commands(body)


if __name__ == "__main__":
    # As in `python -c`, modules in the working folder can be imported.
    sys.path[0] = ""
    run_page(Path(sys.argv[1]))
