"""`spangym bench kvpress`: caches of equal size. kvpress itself is not installed in the tests."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from spangym.experiments.benchmarks import bench_kvpress
from tests.attention.transformers.tiny_llama import save_tiny_llama


class KeepAll:
    """A press that drops nothing."""

    def __init__(self, compression_ratio: float) -> None:
        assert 0 < compression_ratio < 1

    def __call__(self, model: object) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(model)


def test_excess_is_over_the_full_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(bench_kvpress, "_presses", lambda: {"keep all": KeepAll})
    monkeypatch.setattr(bench_kvpress, "KEPT", (8, 32))
    model = str(save_tiny_llama(tmp_path / "tiny"))
    rows = bench_kvpress.run(model, documents=2, context=48, scored=16)
    found = {row.name: row.value for row in rows}
    assert len(found) == 4
    for kept in (8, 32):
        assert found[f"excess bits a byte, keep all, {kept} keys"] == 0
        assert found[f"excess bits a byte, span control, {kept} keys"] != 0


def test_a_missing_extra_is_one_error():
    with pytest.raises(ValueError, match=r"pip install 'spangym\[kvpress\]'"):
        next(bench_kvpress.run("unused"))
