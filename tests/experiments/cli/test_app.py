import re

import pytest

from spangym.experiments.cli.app import COMMANDS

from ..conftest import run_here


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_here(monkeypatch, option) == 0
    assert re.fullmatch(r"spangym \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_help_page_names_every_command(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, *words) == (0 if words else 2)
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)
    assert "Examples:" in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_begins_with_its_line_in_the_table(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, name, "--help") == 0
    assert COMMANDS[name] in " ".join(capsys.readouterr().out.split())
