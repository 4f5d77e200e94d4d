"""What a run was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..envs.sources import SOURCES, SPLITS
from .studies import Study

_PACKAGES = ("spangym", "torch", "gymnasium", "stable-baselines3", "numpy", "pandas", "scipy")


def make_manifest(study: Study, command: Sequence[str], jobs: int) -> dict[str, Any]:
    """Describe the code, the machine, the content and the command of a run.

    Args:
        study: What is run.
        command: The command line.
        jobs: Processes that run it.

    Returns:
        Ready for JSON.
    """
    arguments = study.environment.arguments
    device = torch.device(arguments["device"])
    source = SOURCES[arguments["source"]]
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": usable_cores(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        },
        "jobs": jobs,
        "threads_per_job": 1,
        "content_sha256": {split: source(split).content_hashes() for split in SPLITS},
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
