import re
import subprocess
import sys

import pytest

from spangym.experiments.cli.app import COMMANDS

from ..conftest import run_here


@pytest.mark.parametrize(
    ("option", "pattern"),
    [("--version", r"spangym \d+\.\d+\.\d+\n"), ("--help", r"(?s).*compare.*")],
)
def test_version_and_help_import_no_large_library(option: str, pattern: str):
    code = f"""
import sys
from spangym.experiments.cli.entry import main
sys.argv = ["spangym", "{option}"]
try:
    main()
finally:
    large = {{"torch", "stable_baselines3", "pandas", "scipy", "matplotlib"}}
    print(*large & {{*sys.modules}}, end="", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(pattern, done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_begins_with_its_line_in_the_table(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, name, "--help") == 0
    assert COMMANDS[name] in " ".join(capsys.readouterr().out.split())
