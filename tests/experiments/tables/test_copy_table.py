"""Tables are copied to other machines whole, and only where they are missing."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import tabulate
from spangym.experiments.tables.copy_table import install_table, pack_table

SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 32, "win_size": 16, "num_actions": 2}


def test_a_copy_is_found_and_has_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "here"))
    table = tabulate("SpanControl-v0", 2, **SIZES)
    files = pack_table(table.path)

    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "there"))
    asked: list[bool] = []
    path, again = (
        install_table(table.path.name, lambda: asked.append(True) or files) for _ in range(2)
    )
    assert path == again
    assert asked == [True]
    assert {each.name: each.read_bytes() for each in path.iterdir()} == {
        each.name: each.read_bytes() for each in table.path.iterdir()
    }
    env: Any = gym.make("spangym/SpanControl-v0", backend="table", num_levels=2, **SIZES)
    env.reset(seed=0)
    assert env.unwrapped.core.table.path == path


@pytest.mark.parametrize("names", [("../table", "a"), ("table", "../a"), ("table", "b/a")])
def test_files_outside_of_the_folder_are_refused(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="is no name of a table"):
        install_table(names[0], lambda: {names[1]: np.zeros(1, np.uint8)})
    assert not (tmp_path / "tables" / "table").exists()
    assert not (tmp_path / "table").exists()
