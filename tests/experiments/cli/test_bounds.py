"""Numbers out of bounds are refused at the command line, before anything is written."""

from pathlib import Path

import pytest

from ..conftest import TINY, run_here

HUGE = "100000000000000000000"
LARGE = TINY.replace("dims = 8, heads = 2, ctx = 16", "dims = 4096, heads = 2, ctx = 65536")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (TINY.replace("episodes = 2", f"episodes = {HUGE}"), [], ["evaluation.episodes", HUGE]),
        (TINY.replace("ctx = 16", f"ctx = {HUGE}"), [], ["ctx", "1..1048576", HUGE]),
        (TINY.replace("gamma = 0.5", "gamma = inf"), [], ["hyperparameters", "gamma", "finite"]),
        (TINY, ["--total-timesteps", HUGE], ["--total-timesteps", "10000000000"]),
        (TINY, ["--seeds", HUGE], ["--seeds", "10000"]),
        (TINY, ["--workers", HUGE], ["--workers", "1024"]),
        (LARGE.replace("episodes = 2", "episodes = 100000"), [], ["TiB", "this machine has"]),
    ],
)
def test_compare(
    text: str,
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(text)
    assert run_here(monkeypatch, "compare", "tiny.toml", *options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for word in words:
        assert word in printed.err
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize("change", [f"updates = {HUGE}", "[model]\ndims = 60000\nnum_layers = 900"])
def test_pilot(
    change: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    variants = '[[variants]]\nname = "plain"\nattention = "standard"\n'
    (tmp_path / "p.toml").write_text(f'name = "p"\ntask = "text"\n{change}\n{variants}')
    assert run_here(monkeypatch, "pilot", "text", "p.toml") == 2
    error = capsys.readouterr().err
    assert HUGE in error if "updates" in change else "this machine has" in error
