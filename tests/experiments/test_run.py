"""`spangym.Run` and `spangym.load_run`."""

import html
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import spangym
from spangym.attention import load_controller

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
SUMMARIES = sorted(path.parent for path in RESULTS.glob("*/summary.json"))


@pytest.fixture(scope="module")
def run(finished_run: tuple[Path, str]) -> spangym.Run:
    return spangym.load_run(finished_run[0])


def test_tables_are_those_of_the_files(run: spangym.Run):
    stored = pd.read_csv(run.path / "evaluation.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(run.evaluation, stored, check_dtype=False)
    table = run.table
    assert not table.duplicated(["environment", "agent"]).any()
    dqn = table.set_index("agent").loc["dqn"]
    episodes = run.evaluation[run.evaluation["agent"] == "dqn"]
    by_seed = episodes.groupby("training_seed")["return"].mean()
    assert dqn["return"] == pytest.approx(by_seed.mean())
    assert dqn["return_low"] <= dqn["return"] <= dqn["return_high"]
    assert dqn["return_n"] == 2
    assert run.summary["study"] == run.name == "tiny"
    assert run.report.exists()
    assert run.failed == {}


def test_curves_have_a_row_for_each_training_episode(run: spangym.Run):
    curves = run.curves
    assert set(curves["agent"]) == {"pooled", "dqn"}
    for (agent, seed), rows in curves.groupby(["agent", "training_seed"]):
        (folder,) = run.path.glob(f"jobs/*/{agent}/seed-{seed}-*")
        stored = pd.read_csv(folder / "curve.csv")
        for column in ("step", "return", "qk_pairs"):
            np.testing.assert_array_equal(rows[column], stored[column])


def test_text_holds_size_and_tables(run: spangym.Run):
    assert "18 jobs, 18 finished" in repr(run)
    assert "\n" in repr(run)
    assert str(run).startswith(repr(run))
    assert all(name in str(run) for name in run.table["agent"])


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_notebook_shows_the_table_escaped(copied_run: Path):
    name = "<img src=x>"
    for file in ("study.toml", "jobs.json"):
        text = (copied_run / file).read_text()
        (copied_run / file).write_text(text.replace('"pooled"', f'"{name}"'))
    page = _Texts()
    page.feed(spangym.load_run(copied_run)._repr_html_())
    assert name in page.texts
    assert {"table", "strong"} <= {*page.tags}
    assert not {"img", "script", "style", "button"} & {*page.tags}


def test_figures(run: spangym.Run):
    assert isinstance(run.plot(), Figure)
    assert isinstance(run.plot("pareto"), Figure)
    with pytest.raises(ValueError, match="did you mean 'pareto'"):
        run.plot("pareta")
    with pytest.raises(ValueError, match="cannot be drawn"):
        run.plot("attention_maps")


def test_agents_are_loaded_and_exported(run: spangym.Run, tmp_path: Path):
    first, second = (run.load_agent("dqn", seed=seed) for seed in (0, 1))
    observations = np.zeros((3, 16), np.float32)
    assert first.predict(observations).shape == second.predict(observations).shape == (3,)
    policy = run.export("dqn", tmp_path / "dqn.safetensors", seed=1)
    assert policy.metadata["seed"] == 1
    assert load_controller(tmp_path / "dqn.safetensors").metadata == policy.metadata
    with pytest.raises(ValueError, match="did you mean 'dqn'"):
        run.load_agent("dqnn")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        run.export("dqn", tmp_path / "dqn.zip")


def test_unfinished_and_failed_jobs_are_counted(copied_run: Path):
    for seed, name in ((0, "error.txt"), (1, "nothing")):
        (folder,) = copied_run.glob(f"jobs/*/dqn/seed-{seed}-*")
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / name).write_text("Traceback\nValueError: <b>no</b>")
    run = spangym.load_run(copied_run)
    assert "16 finished, 1 failed, 1 missing" in repr(run)
    assert [*run.failed.values()] == ["ValueError: <b>no</b>"]
    assert html.escape("<b>no</b>") in run._repr_html_()
    assert "dqn" not in set(run.table["agent"])


@pytest.mark.parametrize("folder", SUMMARIES, ids=lambda folder: folder.name)
def test_stored_summaries(folder: Path):
    run = spangym.load_run(folder)
    is_pilot = folder.name.startswith("pilot")
    assert len(run.table)
    assert run.name in repr(run)
    text, page = str(run), run._repr_html_()
    for name in {*run.table["variant" if is_pilot else "agent"]}:
        assert name in text
        assert html.escape(name) in page
    with pytest.raises(ValueError, match="without the files of its jobs"):
        run.plot()


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent", str(tmp_path)):
        with pytest.raises(ValueError, match="not a run folder"):
            spangym.load_run(path)
