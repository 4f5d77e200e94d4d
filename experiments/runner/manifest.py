"""The manifest of a run: command, versions, machine and content."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("spangym", "torch", "gymnasium", "stable-baselines3", "numpy", "pandas", "scipy")


def make_manifest(
    command: Sequence[str], num_workers: int, device: str, content: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a run, for JSON; ``content`` holds the hashes of datasets and weights."""
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": hardware_info(torch.device(device)),
        "num_workers": num_workers,
        "threads_per_worker": 1,
        **content,
    }


def hardware_info(device: torch.device) -> dict[str, Any]:
    """Return platform, processor, number of cores and device, for JSON."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cpus(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
