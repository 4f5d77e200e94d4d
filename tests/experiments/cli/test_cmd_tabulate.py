"""``spangym tabulate``."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import tabulate
from spangym.envs.tables.table_folder import list_parts, list_tables
from spangym.experiments.cli import running

from ..conftest import run_here
from ..inline_executor import InlineExecutor

SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 32, "win_size": 16, "num_actions": 2}
WORDS = ["tabulate", "SpanControl-v0"]
WORDS += [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))
    return tmp_path


def use_executor(monkeypatch: pytest.MonkeyPatch, interrupt_after: int | None) -> InlineExecutor:
    executor = InlineExecutor(interrupt_after)
    monkeypatch.setattr(running, "make_executor", lambda *_: executor)
    return executor


def test_a_table_is_resumed_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    words = [*WORDS, "--num-levels", "10", "--start-level", "3"]
    use_executor(monkeypatch, 1)
    assert run_here(monkeypatch, *words) == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted: 1 of 3 blocks of tables are finished; resume with: ")
    assert error.endswith("--num-levels 10 --start-level 3\n")
    assert [*list_tables()] == []
    assert len(list_parts()) == 1

    assert run_here(monkeypatch, *words, "--dry-run") == 0
    assert ": 6 of 10 levels are to be made, which takes about " in capsys.readouterr().out

    again = use_executor(monkeypatch, None)
    assert run_here(monkeypatch, *words) == 0
    assert [each.rpartition("/")[2] for each in again.ran] == ["7-10", "11-12"]
    ((path, metadata),) = list_tables().items()
    assert (metadata["start_level"], metadata["num_levels"]) == (3, 10)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("made in ")
    assert f"{path} (10 levels, " in last
    assert [*list_parts()] == []

    assert run_here(monkeypatch, *words) == 0
    assert capsys.readouterr().out.startswith(f"exists already: {path} (")

    found = tabulate("SpanControl-v0", 4, start_level=5, **SIZES)
    assert found.path == path
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "other"))
    made = tabulate("SpanControl-v0", 4, start_level=5, **SIZES)
    for name, array in made.arrays.items():
        if name != "content_types":
            np.testing.assert_array_equal(array, found.arrays[name])


def test_python_resumes_what_the_command_has_begun(monkeypatch: pytest.MonkeyPatch):
    use_executor(monkeypatch, 1)
    assert run_here(monkeypatch, *WORDS, "--num-levels", 5) == 130
    done: list[int] = []
    tabulate("SpanControl-v0", 5, progress=done.append, **SIZES)
    assert done == [4, 5]
    env: Any = gym.make("spangym/SpanControl-v0", backend="table", num_levels=5, **SIZES)
    env.reset(seed=0)
    assert env.step(1)[4]["level"] < 5


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["tabulate", "Foo-v0"], "'spangym/Foo-v0' is unknown"),
        (["tabulate", "CartPole-v1"], "is not made by spangym.envs"),
        ([*WORDS, "--set", "num_layers=5"], "backend 'table' needs at most 3 layers"),
        ([*WORDS, "--set", "cntx=5"], "setting 'cntx' is unknown"),
        ([*WORDS, "--set", "weights_seed=x"], "weights_seed must be an integer, got 'x'"),
        ([*WORDS, "--set", "start_level=5"], "use --start-level"),
        ([*WORDS, "--set", "backend=table"], "omit it"),
        ([*WORDS, "--device", "cuda:9"], "device 'cuda:9' is not available"),
        ([*WORDS, "--address", "localhost:1"], "add --executor ray"),
    ],
)
def test_errors_are_one_line(
    words: list[str],
    match: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
):
    assert run_here(monkeypatch, *words, "--num-levels", 4) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
    assert not (cache / "tables").exists()
