import json
import subprocess
from pathlib import Path

import pytest
import torch

from spangym.experiments.runner import manifest
from spangym.experiments.runner.manifest import (
    changes_since,
    code_version,
    hardware_info,
    make_manifest,
)
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON

ROOT = Path(manifest.__file__).resolve().parents[2]


@pytest.fixture
def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands for git, to be written by the test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder / "git"


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_commit_of_the_checkout():
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if commit.returncode:
        pytest.skip("the tests run without a git checkout")
    code = code_version()
    assert code["commit"] == commit.stdout.strip()
    assert isinstance(code["clean"], bool)
    assert len(code["source_sha256"]) == 64
    assert code_version() == code


def test_whether_the_checkout_is_clean(fake_git: Path):
    write_program(fake_git, 'case "$3" in rev-parse) echo c0ffee ;; esac')
    assert {**code_version(), "source_sha256": ""} == {
        "commit": "c0ffee",
        "clean": True,
        "source_sha256": "",
    }
    write_program(fake_git, 'case "$3" in rev-parse) echo c0ffee ;; status) echo " M a.py" ;; esac')
    assert code_version()["clean"] is False


@pytest.mark.parametrize(
    "script",
    [
        "echo 'fatal: detected dubious ownership in repository' >&2; exit 128",
        "echo 'fatal: not a git repository' >&2; exit 128",
        r'case "$3" in ls-files) printf "\377\376" ;; *) printf "\377"; exit 1 ;; esac',
        "kill -9 $$",
    ],
)
def test_git_that_fails_is_no_failure(fake_git: Path, script: str):
    sha256 = code_version()["source_sha256"]
    write_program(fake_git, script)
    assert code_version() == {"commit": None, "clean": None, "source_sha256": sha256}


def test_git_that_is_missing_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    sha256 = code_version()["source_sha256"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version() == {"commit": None, "clean": None, "source_sha256": sha256}


def test_git_of_another_project_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    code = code_version()
    subprocess.run(["git", "init", "-q", tmp_path], check=False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.chdir(tmp_path)
    assert code_version() == code


def test_the_processor_has_a_name():
    info = hardware_info(torch.device("cpu"))
    assert info["processor"]
    assert info["instructions"] == torch.backends.cpu.get_cpu_capability()


def test_resumptions_note_what_has_changed(tmp_path: Path, tiny_without_learners: Study):
    run = RunDir(tmp_path / "run", COMPARISON)
    first = make_manifest(["spangym", "compare"], 1, "cpu", {"content_sha256": {}})
    run.create(tiny_without_learners, first)
    assert run.changes() == []
    run.create(tiny_without_learners, {**first, "command": ["again"]})
    assert run.changes() == []
    code = {"commit": "c0ffee" * 6, "clean": False, "source_sha256": "0" * 64}
    versions = {**first["versions"], "torch": "0.1"}
    run.create(tiny_without_learners, {**first, "code": code, "versions": versions})
    was, torch_was = run.changes()
    assert was.endswith("is commit c0ffeec0ffee with changes")
    assert torch_was == f"torch was {first['versions']['torch']}, is 0.1"
    changed = {**code, "source_sha256": "1" * 64}
    run.create(tiny_without_learners, {**first, "code": changed, "versions": versions})
    assert run.changes() == ["the uncommitted changes of commit c0ffeec0ffee differ"]
    stored = json.loads((run.path / "manifest.json").read_text())
    assert [each["code"]["source_sha256"] for each in stored["resumed"]] == [
        first["code"]["source_sha256"],
        "0" * 64,
        "1" * 64,
    ]
    assert [len(each["changed"]) for each in stored["resumed"]] == [0, 2, 1]
    assert {"command", "started", "code", "versions", "machine"} <= {*stored["resumed"][1]}


def test_manifests_of_earlier_versions_can_be_compared():
    current = make_manifest(["spangym"], 1, "cpu", {})
    assert changes_since({}, current) == []
    assert changes_since({"versions": 3, "machine": None, "code": []}, current) == []
    other = {**current, "machine": {**current["machine"], "processor": "Another"}}
    (change,) = changes_since(other, current)
    assert change.startswith("processor was Another, is ")
