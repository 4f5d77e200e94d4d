import hashlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spangym.envs.data import library_texts
from spangym.envs.data.dataset import TextDataset
from spangym.envs.data.library_texts import read_library_texts

SHA256 = {
    "train": {
        "documentation": "a2286bee8b66b5e87687525dd42b4c62e3f7cb6271f245eee7719b5ab96d8aa4",
        "code": "c7447a16704a732f4a467e4a081fba17cbdefa1eebacf43ff05b67dc8debf51e",
    },
    "evaluation": {
        "documentation": "3ef0278663f583b02a77f89999dfa7878e95d64e4b0915fdd3c2ca46b1cbb862",
        "code": "5e9551afebe87f52f42ffa043461e96310dedec38fd7bc3589be408e3136a583",
    },
}
"""The same on every Python; whoever changes the list trains the layers of SpanBudget-v0 again."""

FILES = json.loads(library_texts.LIST.read_text("utf-8"))
SPLIT = pytest.mark.parametrize("split", SHA256)

HASHES = """
import hashlib, json, library_texts
texts = {split: library_texts.read_library_texts(split) for split in ("train", "evaluation")}
sha256 = lambda text: hashlib.sha256(text).hexdigest()
print(json.dumps({s: {k: sha256(t) for k, t in texts[s].items()} for s in texts}))
"""


def _pythons() -> list[Path]:
    """The running Python, and those that pyenv has installed."""
    found = Path.home().glob(".pyenv/versions/3.1[1-3].*/bin/python")
    return [Path(sys.executable), *sorted(found)]


@pytest.mark.parametrize("python", _pythons(), ids=str)
def test_every_python_reads_the_same_texts(python: Path):
    folder = library_texts.LIST.parent
    command = [python, "-B", "-c", HASHES]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert json.loads(run.stdout) == SHA256


@SPLIT
def test_the_dataset_is_these_texts(split: str):
    assert TextDataset(split).fingerprint() == SHA256[split]
    content = TextDataset(split).sample(np.random.default_rng(1), 2, 64).content
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    assert digest[:8] == {"train": "1255454f", "evaluation": "f8063d56"}[split]


def test_splits_share_no_file_and_no_docstring():
    assert not FILES["train"].keys() & FILES["evaluation"].keys()
    train, evaluation = (read_library_texts(split)["documentation"] for split in FILES)
    paragraphs = [{*text.split(b"\n\n")} for text in (train, evaluation)]
    shared = [each for each in paragraphs[0] & paragraphs[1] if len(each) > 80]
    assert not shared


def test_a_fifth_of_each_text_is_for_evaluation():
    for content_type, text in read_library_texts("evaluation").items():
        share = len(text) / (len(text) + len(read_library_texts("train")[content_type]))
        assert share == pytest.approx(0.2, abs=0.01)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the listed files, read in place of the library."""
    for name in FILES["train"]:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(Path(sysconfig.get_path("stdlib"), name).read_bytes())
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    read_library_texts.cache_clear()
    yield tmp_path
    read_library_texts.cache_clear()


def test_line_endings_of_windows_change_nothing(library: Path):
    for name in FILES["train"]:
        text = (library / name).read_bytes()
        (library / name).write_bytes(text.replace(b"\n", b"\r\n"))
    assert TextDataset("train").fingerprint() == SHA256["train"]


def test_a_missing_file_is_named(library: Path):
    (library / "heapq.py").unlink()
    with pytest.raises(ValueError, match=r"heapq\.py': No such file.*another dataset"):
        TextDataset("train")


def test_a_file_that_differs_is_named(library: Path):
    with (library / "json" / "__init__.py").open("ab") as file:
        file.write(b"#")
    with pytest.raises(ValueError, match=r"__init__\.py': its SHA-256.*another dataset"):
        TextDataset("train")
