"""What a run was made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from ..envs.open_source import open_source
from ..envs.sources import SPLITS
from ..envs.weights import weights_sha256
from .machine import describe_machine
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
    source, weights = arguments["source"], arguments["weights"]
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": describe_machine(torch.device(arguments["device"])),
        "jobs": jobs,
        "threads_per_job": 1,
        "content_sha256": {split: open_source(source, split).content_hashes() for split in SPLITS},
        "weights_sha256": weights_sha256(weights) if weights else None,
    }
