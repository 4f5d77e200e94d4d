"""The manifest of a run: command, versions, machine and content."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("spangym", "torch", "gymnasium", "stable-baselines3", "numpy", "pandas", "scipy")
_COMPARED = {
    "versions": ("python", *_PACKAGES),
    "machine": ("processor", "instructions", "device"),
}
_SOURCES = ("utils", "attention", "envs", "agents", "experiments")
_SUFFIXES = (".py", ".toml", ".html", ".safetensors")
_GIT_SECONDS = 10.0


def make_manifest(
    command: Sequence[str], num_workers: int, device: str, content: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a run, for JSON; ``content`` holds the hashes of datasets and weights."""
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": hardware_info(torch.device(device)),
        "num_workers": num_workers,
        "threads_per_worker": 1,
        **content,
    }


_CHANGED = " with changes"
"""Marks a commit that uncommitted changes or new files came on top of."""


def code_version() -> dict[str, Any]:
    """Identify spangym's code, for JSON.

    Returns:
        ``commit`` of the git checkout that the code is in, and whether it is ``clean``, which means
        without changes and files of its own; both None without a checkout that git can read.
        ``source_sha256`` is of the installed files.
    """
    commit = clean = None
    root = Path(__file__).resolve().parents[2]
    # The packages may be installed in a folder that is ignored by the checkout of another project.
    if _git(root, "ls-files", "--error-unmatch", str(Path(__file__).resolve())) is not None:
        commit = _git(root, "rev-parse", "HEAD")
        status = _git(root, "status", "--porcelain")
        clean = None if status is None else not status
    return {"commit": commit, "clean": clean, "source_sha256": _source_sha256()}


def changes_since(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two manifests and may change results.

    Example:
        >>> changes_since({"versions": {"torch": "2.12"}}, {"versions": {"torch": "2.13"}})
        ['torch was 2.12, is 2.13']
    """
    found: list[str] = []
    before, now = (_table(each, "code") for each in (earlier, current))
    if before and now and before.get("source_sha256") != now.get("source_sha256"):
        one, other = map(_describe, (before, now))
        if one == other:
            found.append(f"the uncommitted changes of {other.removesuffix(_CHANGED)} differ")
        else:
            found.append(f"the code was {one}, is {other}")
    for part, names in _COMPARED.items():
        before, now = (_table(each, part) for each in (earlier, current))
        both = (name for name in names if name in before and name in now)
        pairs = ((name, before[name], now[name]) for name in both)
        found += [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]
    return found


def _table(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = manifest.get(name)
    return table if isinstance(table, Mapping) else {}


def _describe(code: Mapping[str, Any]) -> str:
    if code.get("commit") is None:
        return f"source {str(code.get('source_sha256'))[:12]}"
    changed = "" if code.get("clean") else _CHANGED
    return f"commit {str(code['commit'])[:12]}{changed}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None if it is missing or fails, for example on another's folder."""
    # Variables of a hook that runs this process would name another repository.
    variables = {name: each for name, each in os.environ.items() if not name.startswith("GIT_")}
    variables |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            env=variables,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _source_sha256() -> str:
    digest = hashlib.sha256()
    for name, path in _source_files():
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _source_files() -> Iterator[tuple[str, Path]]:
    """Yield the installed files, with the same names for every way of installation."""
    for package in _SOURCES:
        (folder, *_) = importlib.import_module(f"spangym.{package}").__path__
        root = Path(folder)
        files = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
        for name, path in sorted(files.items()):
            # Stored results are not installed.
            if path.suffix in _SUFFIXES and not name.startswith("results/"):
                yield f"{package}/{name}", path


def hardware_info(device: torch.device) -> dict[str, Any]:
    """Return platform, processor and its instructions, number of cores and device, for JSON."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cpus(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the model of the processor, as far as the system tells it."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        values = {
            name.strip(): value.strip()
            for name, _, value in (each.partition(":") for each in lines)
        }
        if "model name" in values:
            return values["model name"]
        parts = [values[each] for each in ("CPU implementer", "CPU part") if each in values]
        return " ".join([platform.machine(), *parts])
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return platform.machine()
    return platform.processor() or platform.machine()
