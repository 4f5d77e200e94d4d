import dataclasses
from pathlib import Path

import pytest

from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.save import parse_figure_names, save_figures
from spangym.utils.errors import UserError


def test_files_are_named_by_figure_and_axis(tmp_path: Path, speech: PlotData):
    by_wall = dataclasses.replace(speech, x="wall")
    names = ["error", "temperature_laws", "attention_maps"]
    *drawn, missing = save_figures(by_wall, names, tmp_path, ["svg"])
    files = ["error_wall.svg", "temperature_laws.svg"]
    assert drawn == [f"drawn: {tmp_path / name}" for name in files]
    assert missing.startswith("attention_maps: not drawn")
    assert {each.name for each in tmp_path.iterdir()} == {*files}


def test_a_run_without_any_of_the_figures_is_an_error(tmp_path: Path, speech: PlotData):
    with pytest.raises(UserError, match=r"radar.*profiles"):
        save_figures(speech, ["radar", "profiles"], tmp_path, ["svg"])
    assert parse_figure_names(["loss", "loss"]) == ["loss"]
