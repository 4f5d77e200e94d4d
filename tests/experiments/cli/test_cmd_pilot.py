"""`spangym pilot` as a user meets it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.factories import TINY_PILOT

from ..conftest import run_here


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line within this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code, said = run_here(monkeypatch, *arguments), capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def study_of(tmp_path: Path, *labels: str, **changes: str) -> Path:
    """The tiny study with some of its variants only."""
    head, *variants = TINY_PILOT.split("[[variants]]")
    for old, new in changes.items():
        head = head.replace(f"{old} = ", f"{old} = {new} # ", 1)
    kept = [each for each in variants if each.split('"')[1] in labels]
    path = tmp_path / "tiny.toml"
    path.write_text("[[variants]]".join([head, *kept]))
    return path


def test_a_pilot_from_beginning_to_end(run: Run, tmp_path: Path):
    study = study_of(
        tmp_path,
        "standard",
        "hybrid-sharper-longer",
        "hybrid-sharper-shorter",
        "predictor",
        "refiner",
    )
    out = tmp_path / "out"
    command = ["pilot", "text", study, "--out", out, "--seeds", 2, "--workers", 1]
    done = run(*command)
    assert done.code == 0, done.err
    for name in ("standard", "hybrid-sharper-longer", "refiner"):
        assert f" {name} " in done.out
    assert "bits per" in done.out
    assert {each.name for each in out.iterdir()} == {
        *("study.toml", "manifest.json", "jobs.json", "jobs", "summary.json", "report.html"),
        *("error.png", "error.svg", "loss.png", "loss.svg"),
    }
    training = next((out / "jobs" / "refiner").glob("seed-0-*"))
    assert {each.name.split(".")[0] for each in training.iterdir()} == {
        *("job", "curve", "spans", "evaluation", "by_span", "attention_maps", "model", "agent"),
        *("result", "events"),
    }
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["groups"]) == 5
    assert len(summary["headlines"]) == 4
    pairs = [each for each in summary["differences"] if each["pairing"] != "baseline"]
    assert [each["n"] for each in pairs] == [2, 2]
    assert [each["group"] for each in pairs if each["pairing"] == "controller"] == ["refiner"]

    again = run(*command)
    assert "10 of 10" in again.out

    drawn = run("curves", out, "--figure=all", "--x=wall", "--format=svg")
    assert drawn.code == 0, drawn.err
    assert {
        *("spans_wall.svg", "attention_maps.svg", "temperature_laws.svg", "error_by_action.svg")
    } <= {each.name for each in out.iterdir()}
    shown = run("show", out, "--format=csv")
    assert len([*csv.DictReader(shown.out.splitlines())]) == 5


def test_a_killed_pilot_is_resumed(run: Run, tmp_path: Path):
    study = study_of(tmp_path, "standard", "refiner", updates="40")
    out = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("spangym")), "pilot", "text", str(study)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--checkpoint-seconds", "0", "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not [*out.glob("jobs/*/*/checkpoints/step-*")]:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run("pilot", "--resume", out, "--workers", 1)
    assert done.code == 0, done.err
    for each in out.glob("jobs/*/*/curve.csv"):
        updates = [int(row["update"]) for row in csv.DictReader(each.open())]
        assert updates == [*range(1, 41)]


def test_trained_models_write_text(run: Run, tmp_path: Path):
    """At the end of a run and from a stored one; the same text for the same prompt."""
    study = study_of(tmp_path, "standard", "predictor", "refiner", "original")
    out = tmp_path / "out"
    done = run("pilot", "text", study, "--out", out, "--workers", 1, "--generate=a b", "--bytes=20")
    assert done.code == 0, done.err
    stored = json.loads((out / "generated.json").read_text())
    assert stored["prompt"] == "a b"
    assert [*stored["texts"]] == ["standard", "predictor", "refiner"]
    for name, text in stored["texts"].items():
        assert 0 < len(text) <= 20
        assert f"--- {name} ---\na b" in done.out
    assert "no text of original: not causal" in done.out
    again = run("pilot", "--resume", out, "--generate=a b", "--bytes=20")
    assert again.code == 0, again.err
    assert json.loads((out / "generated.json").read_text()) == stored
    run("pilot", "--resume", out, "--generate=import", "--bytes=18")
    assert json.loads((out / "generated.json").read_text())["texts"] != stored["texts"]

    (weights,) = out.glob("jobs/predictor/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    damaged = run("pilot", "--resume", out, "--generate=a", "--bytes=5")
    assert damaged.code == 2
    assert "predictor/seed-0 cannot be read" in damaged.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--generate="], "at least one byte"),
        (["text", "--generate=ab", "--bytes=255"], "set --bytes to at most 254"),
        (["speech", "--generate=ab"], "for models of text"),
    ],
)
def test_prompts_that_no_model_continues(
    run: Run, tmp_path: Path, arguments: list[str], message: str
):
    done = run("pilot", *arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


DIVERGING = """
from spangym.agents import Refiner
from spangym.envs.model.model_optimizer import TrainingDiverged


class Diverging(Refiner):
    def update(self, *_, **__):
        raise TrainingDiverged("the gradient was not finite")
"""


def test_a_training_that_stops_leaves_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diverging.py").write_text(DIVERGING)
    study = study_of(tmp_path, "standard", "refiner")
    text = study.read_text().replace('algo = "refiner"', 'algo = "diverging:Diverging"')
    study.write_text(text)
    out = tmp_path / "out"
    done = run("pilot", "text", study, "--out", out, "--workers", 1)
    assert done.code == 1
    assert "refiner, seed 0" in done.err
    assert "gradient" in done.err
    assert "standard" not in done.err
    rows = (out / "jobs" / "standard").glob("*/curve.csv")
    assert len([*csv.DictReader(next(rows).open())]) == 12
    assert "gradient" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["pilot"], ["spangym pilot speech"]),
        (["pilot", "speech", "quik"], ["study 'quik'"]),
        (["pilot", "text", "speech-quick"], ["'speech-quick'", "speech"]),
        (["pilot", "text", "--variant", "nothing"], ["no variant 'nothing'"]),
        (["pilot", "text", "--data", "nowhere"], ["nowhere"]),
        (["pilot", "text", "--data", "short"], ["fewer chunks", "smaller ctx"]),
        (["pilot", "text", "--resume", "."], ["--resume", "--workers"]),
        (["pilot", "--resume", "."], ["not a run"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    run: Run, command: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("Too short to be read.")
    done = run(*command)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    assert done.err.count("\n") == 1
