"""`import spangym`: light, from any folder, and it registers the ids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
import gymnasium
before = set(sys.modules)
import spangym
new = set(sys.modules) - before
heavy = {"torch", "stable_baselines3", "matplotlib", "pandas", "scipy"} & new
assert not heavy, heavy
assert spangym.__version__
assert "spangym/SpanControl-v0" in gymnasium.registry
env = gymnasium.make("spangym/SpanControl-v0", dims=8, heads=2, ctx=16, chunks_per_episode=1)
env.reset(seed=0)
"""


@pytest.mark.parametrize("folder", ["checkout", "elsewhere"])
def test_import_is_light_and_registers_the_ids(folder: str, tmp_path: Path):
    cwd = ROOT if folder == "checkout" else tmp_path
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=cwd, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr


USE = """
import sys
import gymnasium
from spangym.envs import SpanControlEnv, SpanControlVectorEnv
for env in (SpanControlEnv(), SpanControlVectorEnv(2)):
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.peek()
heavy = {"torch._dynamo", "sympy", "matplotlib", "pandas", "scipy", "sklearn", "pydantic", "optuna"}
heavy |= {"stable_baselines3", "spangym.agents", "spangym.experiments"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_environments_import_little_but_torch():
    """PyTorch's compiler and drawing would each take longer than everything else."""
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_spangym(tmp_path: Path):
    command = [sys.executable, "-m", "spangym", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "spangym"
