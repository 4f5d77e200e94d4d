"""What is loaded from ``summary.json`` gives the same tables as the whole run."""

import json
from pathlib import Path

import pytest

from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.load_summary import load_summary
from spangym.experiments.reports.result_tables import (
    by_action_tables,
    footnotes,
    format_tables,
    headlines,
)
from spangym.experiments.reports.write_outputs import make_summary
from spangym.utils.errors import UserError

from ..drawing import plot_data_of
from ..pilot.synthetic import make_pilot
from ..synthetic import make_results

RUNS = {
    "one": plot_data_of(make_results(("one",), ("dqn", "b"), seeds=3, episodes=4)),
    "several": plot_data_of(make_results(("one", "two"), ("dqn", "b"), seeds=3, episodes=4)),
    "pilot": plot_data_of(make_pilot(examples=())),
}


@pytest.mark.parametrize("data", RUNS.values(), ids=RUNS)
def test_tables_are_those_of_the_run(data: PlotData, tmp_path: Path):
    (tmp_path / "summary.json").write_text(json.dumps(make_summary(data, "study")))
    (tmp_path / "study.toml").write_text('task = "speech"' if data.is_pilot else "")
    loaded = load_summary(tmp_path)
    for format_name in ("markdown", "latex", "csv"):
        assert format_tables(loaded, format_name) == format_tables(data, format_name)
    assert (headlines(loaded), footnotes(loaded)) == (headlines(data), footnotes(data))
    assert by_action_tables(loaded) == by_action_tables(data)
    assert loaded.results.failed == data.results.failed


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"groups": [{}], "failed": {}}'])
def test_another_file_is_an_error(text: str, tmp_path: Path):
    (tmp_path / "summary.json").write_text(text)
    (tmp_path / "study.toml").write_text("")
    with pytest.raises(UserError, match=r"summary\.json.* is no summary"):
        load_summary(tmp_path)
