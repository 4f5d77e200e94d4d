"""What fails is named, the others finish, and nothing is lost: as a user meets it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spangym.envs.model.model_checkpoint import serialize
from spangym.envs.model.stack import TransformerConfig, TransformerStack

from ..conftest import TINY, run_here


def test_a_reward_that_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Layers whose weights hold a NaN: all of that environment fails, the other finishes."""
    sizes = TransformerConfig(
        num_layers=1, dims=8, heads=2, ctx=16, win_size=16, max_span=16, hidden=8
    )
    for name, value in (("whole", 0.5), ("broken", float("nan"))):
        stack = TransformerStack(sizes, torch.Generator().manual_seed(0))
        with torch.no_grad():
            stack.layer(0).projection.weight[0, 0] = value
        (tmp_path / f"{name}.safetensors").write_bytes(serialize(stack, {}))
    text = TINY.partition("[[environments]]")[0].replace("[0, 1]", "[0]")
    for name in ("whole", "broken"):
        arguments = f'checkpoint = "{name}.safetensors", reward = "task", chunks_per_episode = 4'
        text += f'[[environments]]\nid = "spangym/SpanControl-v0"\nname = "{name}"\n'
        text += f"kwargs = {{ {arguments} }}\n"
    text += '[evaluation]\nepisodes = 1\nregret_episodes = 0\n[[agents]]\nalgo = "dqn"\n'
    (tmp_path / "study.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "compare", "study.toml", "--out", "run", "--workers", 1) == 1
    printed = capsys.readouterr()
    failed = json.loads((tmp_path / "run" / "summary.json").read_text())["failed"]
    assert len(failed) == 14
    assert all(name.startswith("broken/") for name in failed)
    said = "ValueError: layer 0 of chunk 0"
    assert failed["broken/dqn/seed-0"].startswith(said)
    assert f"failed: broken/dqn/seed-0: {said}" in printed.err
    assert said in (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"^ +fixed:9 +\S?\d", printed.out, re.MULTILINE)


BIG = """
class Big:
    def choose_action(self, state):
        return 3
    def update(self, state, action, reward, next_state):
        pass
    def save(self, path):
        path.write_bytes(bytes(8_000_000))
    def load(self, path):
        pass
"""

GREEDY_FOR_SPACE = """
[[agents]]
algo = "big:Big"
"""

MOUNTED = """
mount -t tmpfs -o size=6m tmpfs {place} && {command}
code=$?
cp -r {place} {kept}
exit $code
"""


def test_a_full_disk(tmp_path: Path):
    """A file system of 6 MB, on which what an agent has learned has no place."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    place.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, f"mount -t tmpfs tmpfs {place}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of his own")
    (tmp_path / "study.toml").write_text(TINY.replace("[0, 1]", "[0]") + GREEDY_FOR_SPACE)
    (tmp_path / "big.py").write_text(BIG)
    program = Path(sys.executable).with_name("spangym")
    command = f"{program} compare study.toml --workers 1 --out {place}/run"
    script = MOUNTED.format(place=place, command=command, kept=kept)
    done = subprocess.run([*unshare, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    run = kept / "run"
    failed = json.loads((run / "summary.json").read_text())["failed"]
    assert [*failed] == ["SpanControl-v0/big-Big/seed-0"]
    assert "No space left on device" in failed["SpanControl-v0/big-Big/seed-0"]
    assert "No space left on device" in (run / "report.html").read_text()
    assert len([*run.glob("jobs/*/*/*/result.json")]) == 2 + 13
    # Nothing half written lies about.
    assert not [each for each in run.rglob(".*") if not each.name.endswith(".lock")]
