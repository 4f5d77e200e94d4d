"""Generated pages of the documentation: nothing registered or stored lacks a page."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spangym.envs import ENVIRONMENTS, EnvConfig
from spangym.envs.other_environments import OtherEnvironment
from spangym.utils.text import MINUS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The generator of the environments' pages, without its figures."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    monkeypatch.setattr(importlib.import_module("env_figures"), "figures", lambda _: {})
    return importlib.import_module("generate_environments")


def test_each_id_has_a_page_with_its_numbers(environments: Any):
    pages = environments.pages()
    assert len(pages) == len(ENVIRONMENTS) + 2
    stored = json.loads((ROOT / "experiments" / "results" / "baselines.json").read_text())
    for row in stored["rows"]:
        name = row["id"].removeprefix("spangym/")
        (page,) = (text for text in pages.values() if text.startswith(f"# {name}\n"))
        assert f"| oracle |  | {row['oracle']:.3f} | 1.00 |".replace("-", MINUS) in page
        for part in row["by_content_type"]:
            assert f"| {part['content_type']} | {part['chunks']} |" in page


def test_every_argument_is_in_the_table(environments: Any):
    page = environments.pages()["environments/arguments.md"]
    assert all(f"`{field.name}`" in page for field in dataclasses.fields(EnvConfig))


def test_environments_of_other_packages_are_listed(
    environments: Any, monkeypatch: pytest.MonkeyPatch
):
    stored = ROOT / "experiments" / "results" / "baselines.json"
    row = json.loads(stored.read_text())["rows"][1]
    others = {
        row["id"]: OtherEnvironment("with baselines", {}, str(stored)),
        "acme/Waves-v0": OtherEnvironment("without", {}),
    }
    assert "other packages" not in environments._index()
    monkeypatch.setattr(environments, "other_environments", lambda: others)
    page = environments._index()
    numbers = [row["random"], max(row["fixed"]), row["oracle"]]
    cells = " | ".join(f"{each:.3f}".replace("-", MINUS) for each in numbers)
    assert f"| `{row['id']}` | with baselines | {cells} |" in page
    assert "| `acme/Waves-v0` | without |  |  |  |" in page


def test_an_id_without_text_or_baselines_fails(
    environments: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    texts = tmp_path / "docs" / "texts"
    shutil.copytree(environments.TEXTS, texts)
    (texts / "sparsity.md").unlink()
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "TEXTS", texts)
    with pytest.raises(ValueError, match=r"Sparsity-v0 has no text: write docs/texts/sparsity\.md"):
        environments.pages()
    monkeypatch.setitem(ENVIRONMENTS, "spangym/New-v0", {})
    with pytest.raises(ValueError, match=r"baselines\.json has no row of spangym/New-v0"):
        environments.pages()


def test_each_stored_result_has_a_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    results = importlib.import_module("generate_results")
    pages = results.pages()
    assert {f"results/{name}.md" for name in results.RESULT_PAGES} < pages.keys()
    assert "| fixed:9 | 13.596 | 0.80 |" in pages["results/quickstart.md"]
    removed = dict(results.RESULT_PAGES)
    del removed["defects"]
    monkeypatch.setattr(results, "RESULT_PAGES", removed)
    with pytest.raises(ValueError, match=r"defects\.json"):
        results.pages()


def test_stored_values_do_not_begin_a_line(monkeypatch: pytest.MonkeyPatch):
    """Markdown takes a comment at the beginning of a line as a block of its own."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    tables = importlib.import_module("stored_tables")
    for page in tables.pages():
        lines = page.read_text("utf-8").splitlines()
        assert [line for line in lines if line.lstrip().startswith("<!-- value")] == [], page


def test_each_bench_has_figures_in_both_themes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    benches, drawn = (
        importlib.import_module(name) for name in ("generate_benches", "bench_figures")
    )
    tables = importlib.import_module("stored_tables")
    names = [f"time, ctx {tokens}, window {window}" for tokens in (8, 16, 32) for window in (4, 8)]
    rows = [
        *({"name": name, "value": 2.0, "goal": 1.0, "met": False} for name in names),
        {"name": "copies", "value": 0, "goal": 0, "met": True},
        {"name": "speed", "value": 3.0, "goal": None, "met": None},
        {"name": "not measured", "value": None, "goal": 1.0, "met": None},
    ]
    stored = {"rows": [{**row, "direction": "lower"} for row in rows]}
    (tmp_path / "bench-agents-cpu.json").write_text(json.dumps(stored))
    (tmp_path / "gpu-NVIDIA-X.json").write_text(json.dumps(stored))
    for module in (tables, drawn):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    pages = benches.pages()
    kinds = [f"{kind}-{theme}" for kind in ("goals", "growth") for theme in ("light", "dark")]
    parts = {"agents": "bench-agents-cpu", "gpu": "gpu-NVIDIA-X"}
    for part, stem in parts.items():
        for kind in kinds:
            assert pages[f"benches/{stem}-{kind}.svg"].startswith(b"<?xml")
            assert f"/reference/benches/{stem}-{kind}.svg" in pages[f"benches/{part}.inc"]
    # A bench without a file has no figure, and its part is empty.
    assert pages["benches/attention.inc"] == ""
    goals, growth = drawn.figures(tmp_path / "bench-agents-cpu.json").values()
    texts = [each.get_text() for each in goals.axes[0].texts]
    assert texts == ["time", "2\n(goal ≤ 1)", "copies", "0\n(goal ≤ 0)"]
    lines = {tuple(each.get_ydata()) for each in goals.axes[0].lines if len(each.get_xdata())}
    assert lines >= {(0,) * 6, (1,)}
    assert [each.get_text() for each in growth.legends[0].texts] == ["window 4", "window 8"]


def test_every_stored_bench_is_on_a_page():
    names = ("performance.md", "guides/transformers.md")
    text = "".join((ROOT / "docs" / each).read_text() for each in names)
    for path in (ROOT / "experiments" / "results").glob("bench-*-cpu.json"):
        name = path.stem.removeprefix("bench-").removesuffix("-cpu")
        shown = (f"reference/benches/{name}.inc", f"<!-- table: bench-{name} -->")
        assert any(each in text for each in shown), name
