"""What holds for every command: the working folder and the standard streams."""

import io
import sys
from pathlib import Path

import pytest

from spangym.experiments.cli.app import COMMANDS

from ..conftest import TINY, run_here


@pytest.mark.parametrize("name", [*COMMANDS, "--help"])
def test_a_deleted_working_folder_is_one_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert run_here(monkeypatch, name) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("spangym: the working folder")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["compare --resume", "curves", "show", "validate"])
def test_a_stream_of_any_encoding(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, command: str
):
    """A finished run whose folder has a name that the streams cannot print."""
    folder = copied_run.rename(copied_run.with_name("注意 \N{MINUS SIGN} \udce9"))
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, content in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding))
    assert run_here(monkeypatch, *command.split(), folder) == 0
    sys.stdout.flush()
    out = written["stdout"].getvalue().decode(encoding)
    assert len(out.splitlines()) > 1
    if command.startswith("curves"):
        name = "注意 \N{MINUS SIGN}" if encoding == "utf-8" else r"\u6ce8\u610f -"
        assert f"{name} \\xe9/reward_curves.png" in out


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream(name: str, copied_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, name, None)
    assert run_here(monkeypatch, "compare", "--resume", copied_run) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["no\x1b[2Jsuch"],
        ["compare", "no\x1b[2J\u202esuch.toml"],
        ["compare", "--agent", "no\x1b[2J"],
        ["compare", "--resume", "no\x1b[2J\nsuch\udce9"],
        ["curves", "no\x1b[2J"],
        ["export", "no\x1b[2J", "--agent", "a\x1b[2J"],
        ["pretrain", "no\x1b[2J"],
        ["watch", "SpanControl-v0", "--agent", "random", "--video", "no\x1b[2J\u202e"],
        ["tune", "quickstart", "--agent", "no\x1b[2J"],
    ],
)
def test_no_control_character_reaches_the_terminal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out + printed.err).replace("\n", "").isprintable()
    assert r"\x1b" in printed.err


def test_a_path_that_is_not_utf_8_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A study is stored with absolute paths, and TOML is UTF-8."""
    data = tmp_path / "caf\udce9" / "data"
    data.mkdir(parents=True)
    for name in "ab":
        (data / f"{name}.txt").write_text("some words " * 500)
    monkeypatch.chdir(data.parent)
    Path("tiny.toml").write_text(TINY.replace("win_size = 16", 'win_size = 16, dataset = "data"'))
    assert run_here(monkeypatch, "compare", "tiny.toml", "--out", "run") == 2
    said = capsys.readouterr().err
    assert r"caf\xe9/data" in said
    assert "UTF-8" in said
    assert not Path("run").exists()
    Path("tiny.toml").write_text(TINY)
    assert run_here(monkeypatch, "compare", "tiny.toml", "--out", "run") == 2
    assert r"caf\xe9/run" in capsys.readouterr().err
    assert not Path("run").exists()
