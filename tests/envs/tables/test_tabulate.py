"""Tables are made by one process at a time, in blocks that any process resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from spangym.envs import EnvComponents, make_config, tabulate
from spangym.envs.tables import tabulate as module
from spangym.envs.tables.table_file import request_table
from spangym.envs.tables.table_folder import list_tables

SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 32, "win_size": 16, "num_actions": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path))


def request_of(num_levels: int) -> Any:
    arguments = {**SIZES, "backend": "table", "num_levels": num_levels}
    config = make_config("SpanControl-v0", arguments)
    return request_table(config, module.make_live_core(config), EnvComponents())


def test_a_table_that_another_process_makes_is_awaited():
    request = request_of(4)
    request.path.parent.mkdir()
    # Two locks in one process exclude each other, as those of two processes do.
    lock = FileLock(request.path.with_name(f".{request.path.name}.lock"))
    lock.acquire()

    def finish_it() -> None:
        request.parts_dir.mkdir()
        core = module.make_live_core(make_config("SpanControl-v0", SIZES))
        for block in module.blocks_of(request):
            module.write_block(module.block_path(request, block), core, block)
        module.merge_blocks(request)
        lock.release()

    with module.prepare_parts(request, finish_it) as found:
        assert found == request.path
    assert not request.parts_dir.exists()


@pytest.mark.parametrize(
    ("num_levels", "size", "number"), [(5, 4, 2), (64, 4, 16), (4096, 32, 128), (10**5, 256, 391)]
)
def test_small_tables_have_several_blocks_and_large_ones_some_hundreds(
    num_levels: int, size: int, number: int
):
    blocks = module.blocks_of(request_of(num_levels))
    assert len(blocks) == number
    assert len(blocks[0]) == size
    assert [level for block in blocks for level in block] == [*range(num_levels)]


def test_an_interrupted_call_is_resumed(monkeypatch: pytest.MonkeyPatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tabulate("SpanControl-v0", 6, progress=interrupt, **SIZES)
    assert not list_tables()
    evaluated: list[range] = []
    write = module.write_block
    monkeypatch.setattr(
        module, "write_block", lambda *args: (evaluated.append(args[2]), write(*args))
    )
    table = tabulate("SpanControl-v0", 6, **SIZES)
    assert evaluated == [range(4, 6)]
    assert [*list_tables()] == [table.path]


def test_a_part_of_a_stored_table_has_the_levels_that_were_asked_for():
    whole = tabulate("SpanControl-v0", 6, **SIZES)
    part = tabulate("SpanControl-v0", 2, start_level=3, **SIZES)
    assert part.path == whole.path
    assert (part.start_level, part.num_levels) == (3, 2)
    np.testing.assert_array_equal(part.arrays["terms_1"], whole.arrays["terms_1"][3:5])
