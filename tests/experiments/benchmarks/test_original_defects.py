"""`spangym defects`: every defect has an effect, and the stored table is measured again."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from spangym.experiments.benchmarks.original_defects import Defect, measure_defects

RESULTS = Path(__file__).parents[3] / "experiments" / "results"


@pytest.fixture(scope="module")
def defects() -> list[Defect]:
    return list(measure_defects())


def test_every_defect_shows(defects: list[Defect]):
    assert [defect.number for defect in defects] == [*map(str, range(1, 12)), "", ""]
    # The best span of the original is neither the shortest nor the longest.
    assert 0 < defects[-1].original < 0.7
    by_number = {defect.number: defect for defect in defects}
    for number in ("1", "2", "3"):  # Something has no effect in the original.
        assert by_number[number].original == 0 < by_number[number].default
    assert by_number["4"].default == pytest.approx(4 * by_number["4"].original, rel=1e-3)
    assert by_number["5"].original < by_number["5"].default == 1
    assert by_number["6"].default == 0 < by_number["6"].original
    assert min(by_number["7"].original, by_number["7"].default) > 0.7
    assert by_number["8"].default < 0.7 < 1 == by_number["8"].option
    assert by_number["9"].original == by_number["9"].default == 0
    assert by_number["9"].option is not None
    assert by_number["9"].option > 0
    assert (by_number["10"].original, by_number["10"].default) == (20, 0)
    assert by_number["11"].original == by_number["11"].default == 0
    assert by_number["11"].option is not None
    assert by_number["11"].option > 0


def test_stored_defects_are_what_is_measured(defects: list[Defect]):
    stored = json.loads((RESULTS / "defects.json").read_text())["rows"]
    for row, defect in zip(stored, defects, strict=True):
        measured = asdict(defect)
        for name in ("number", "name", "measure", "option_name"):
            assert row[name] == measured[name]
        for name in ("original", "default", "option"):
            assert (row[name] is None) == (measured[name] is None)
            # Another machine rounds differently, which may move a threshold.
            assert (row[name] or 0) == pytest.approx(measured[name] or 0, rel=0.2)
