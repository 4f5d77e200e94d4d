"""A run in the kernel of a notebook."""

import json
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

PROGRESS = """
from types import SimpleNamespace
import spangym
from spangym.experiments.cli.terminal import make_console
from spangym.experiments.runner.job import Finished, Progress, Started
from spangym.experiments.runner.progress import show_progress

jobs = [SimpleNamespace(job_id=f"job-{each}", name=f"job {each}", total=10) for each in range(3)]
console = make_console()
console.print("3 jobs")
with show_progress(console, jobs, []) as show:
    for job in jobs:
        show(Started(job))
        for done in range(10):
            show(Progress(job, done))
        show(Finished(job))
"""


def test_a_run_in_a_notebook(finished_run: tuple[Path, str], tmp_path: Path):
    cells = [PROGRESS, f"run = spangym.load_run({str(finished_run[0])!r})\nrun", "run.plot()"]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    (text, progress), (table,), (figure,) = (each["outputs"] for each in notebook.cells)
    assert text["text"] == "3 jobs\n"
    assert progress["data"]["text/plain"].startswith("3 of 3 jobs")
    assert set(progress["data"]) == {"text/plain", "text/html"}
    assert "<table>" in table["data"]["text/html"]
    assert table["data"]["text/plain"].startswith("<spangym.Run tiny: 18 jobs")
    assert "image/png" in figure["data"]
    assert "\x1b" not in json.dumps(notebook)
