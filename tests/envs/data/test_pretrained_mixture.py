import re
from itertools import pairwise

import numpy as np
import pytest

from spangym.envs.data.dataset import Dataset
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.pretrained_mixture import ClientTableDataset, RecallDataset

CTX = 2048


def sample_texts(dataset: Dataset, chunks: int) -> list[str]:
    stream = dataset.sample(np.random.default_rng(0), chunks, CTX)
    return [row.tobytes().decode("ascii") for row in stream.content]


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_content_types_are_equally_frequent(split: str):
    stream = make_dataset("pretrained-mixture", split).sample(np.random.default_rng(0), 600, 64)
    names, counts = np.unique(stream.content_types, return_counts=True)
    expected = ["code", "documentation", "noise", "recall", "repeated text", "table"]
    assert names.tolist() == expected
    np.testing.assert_allclose(counts, 100, rtol=0.3)


def test_recall_repeats_all_facts_in_another_order():
    numbers = set()
    for text in sample_texts(RecallDataset(), 100):
        facts = text.split("\n")[:-1]
        assert all(re.fullmatch(r"The \w+ of [A-Z][a-z]+ is \d{4}\.", each) for each in facts)
        number = len(set(facts))
        numbers.add(number)
        rounds = [facts[i : i + number] for i in range(0, len(facts) - number + 1, number)]
        assert len(rounds) > 2
        assert all(sorted(each) == sorted(rounds[0]) for each in rounds)
        assert any(each != rounds[0] for each in rounds)
        # A name has one value.
        assert len({each.split(" is ")[0] for each in facts}) == number
    assert min(numbers) == 2
    assert max(numbers) == 20


def test_table_rows_follow_from_earlier_rows():
    numbers = []
    for text in sample_texts(ClientTableDataset(), 100):
        header, *rows = [line.split(",") for line in text.split("\n")[:-1]]
        assert {len(row) for row in rows} == {len(header)}
        assert all(int(after[0]) == int(before[0]) + 1 for before, after in pairwise(rows))
        clients = {tuple(row[1:]) for row in rows}
        assert len({name for name, *_ in clients}) == len(clients)
        numbers.append(len(clients))
    assert min(numbers) == 1
    assert max(numbers) == 12
    # Half of the chunks have at most three clients: the scale is logarithmic.
    assert np.median(numbers) == pytest.approx(3, abs=1)


@pytest.mark.parametrize("dataset", [RecallDataset(), ClientTableDataset()])
def test_content_does_not_depend_on_the_length(dataset: Dataset):
    long, short = (dataset.sample(np.random.default_rng(1), 1, ctx) for ctx in (CTX, 100))
    np.testing.assert_array_equal(long.content[:, :100], short.content)
