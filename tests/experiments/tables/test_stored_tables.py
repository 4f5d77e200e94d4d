"""``spangym list tables`` and ``spangym clean --tables``."""

import json
from pathlib import Path
from typing import Any

import pytest

from spangym.envs import tabulate
from spangym.envs.tables.table_folder import METADATA_FILE, table_lock, tables_dir

from ..conftest import run_here

SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 32, "win_size": 16, "num_actions": 2}


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))
    return tmp_path / "tables"


def make_table(num_levels: int, interrupt: bool = False) -> Path:
    def progress(_: int) -> None:
        if interrupt:
            raise KeyboardInterrupt

    try:
        return tabulate("SpanControl-v0", num_levels, progress=progress, **SIZES).path
    except KeyboardInterrupt:
        (parts,) = tables_dir().glob("*.parts")
        return parts


def make_stale(path: Path, **versions: str) -> None:
    metadata = json.loads((path / METADATA_FILE).read_text())
    metadata["identity"] |= versions
    (path / METADATA_FILE).write_text(json.dumps(metadata))


def test_tables_are_listed_with_what_they_are_good_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "list", "tables") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "there are no tables\n")
    assert run_here(monkeypatch, "list") == 0
    assert "Tables" not in capsys.readouterr().out

    usable, stale, parts = make_table(3), make_table(4), make_table(8, interrupt=True)
    make_stale(stale, code_sha256="0", torch="1.0")
    assert run_here(monkeypatch, "list", "tables") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines[usable.name].startswith("SpanControl-v0, levels 0 to 2, ")
    assert lines[usable.name].endswith(" KiB")
    assert lines[parts.name].endswith(" KiB, incomplete: 4 of 8 levels are done")
    reason = "stale: made by other code of spangym and another version of torch"
    assert lines[stale.name].endswith(reason)
    assert run_here(monkeypatch, "list") == 0
    assert usable.name in capsys.readouterr().out


def test_tables_of_no_use_are_removed(
    tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    usable, stale, parts = make_table(3), make_table(4), make_table(8, interrupt=True)
    make_stale(stale, torch="1.0")
    killed = tables / f".{usable.name}"
    killed.mkdir()
    (tables / "damaged").mkdir()
    assert run_here(monkeypatch, "clean", "--tables", "--dry-run") == 0
    dry = capsys.readouterr().out
    assert stale.exists()
    with table_lock(parts.with_name(parts.name.removesuffix(".parts"))):
        assert run_here(monkeypatch, "clean", "--tables") == 0
    said = capsys.readouterr().out
    assert f"kept: {parts.name}: another process makes it\n" in said
    assert parts.exists()
    assert run_here(monkeypatch, "clean", "--tables") == 0
    assert f"removed: {parts.name} (incomplete table, " in capsys.readouterr().out
    assert "would remove: 4 tables, " in dry
    for path, state in ((stale, "stale"), (killed, "damaged"), (parts, "incomplete")):
        assert f"would remove: {path.name} ({state} table, " in dry
    assert f"kept: 1 usable table, 0.0 MB, in {tables}\n" in dry
    assert [each for each in tables.iterdir() if each.is_dir()] == [usable]


@pytest.mark.parametrize("words", [[], [".", "--tables"]])
def test_clean_needs_one_place(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "clean", *words) == 2
    assert "either the folder of a run or --tables" in capsys.readouterr().err
