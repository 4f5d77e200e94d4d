import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spangym.experiments.tuning import tune
from spangym.experiments.tuning.tune import Search, TrialResult

from ..conftest import TINY, run_here


@pytest.mark.parametrize("at", ["training", "between trainings"])
@pytest.mark.parametrize("out", [["--out", "a search"], ["--out=a search"]])
def test_a_moved_search_is_resumed_where_it_is(
    out: list[str],
    at: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def optimize(
        search: Search, folder: Path, workers: int, progress: Callable[[int], None]
    ) -> Iterator[TrialResult]:
        del search, workers
        assert folder.is_absolute()
        folder.rename(tmp_path / "my new place")
        if at == "training":
            progress(1)
        yield TrialResult(0, {}, 1.0)
        raise AssertionError("the search goes on in another folder")

    monkeypatch.setattr(tune, "optimize", optimize)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    before = ["tune", "tiny.toml", "--agent", "pooled"]
    assert run_here(monkeypatch, *before, *out, "--trials", 2) == 1
    said = capsys.readouterr().err
    command = shlex.split(said.partition("resume with: ")[2])
    place = str(tmp_path / "my new place")
    assert command == ["spangym", *before, "--trials", "2", "--out", place]
    assert not Path("a search").exists()
