"""What a run was made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.runner.fingerprint import ContentHashes
from spangym.experiments.runner.hardware import describe_machine
from spangym.experiments.studies.study import Study

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
    arguments = [each.arguments for each in study.environments]
    hashes = ContentHashes()
    devices = dict.fromkeys(each["device"] for each in arguments)
    return {
        **describe_run(command, jobs, next(iter(devices))),
        "content_sha256": {each["source"]: hashes.of(each["source"]) for each in arguments},
        "weights_sha256": {
            each["weights"]: weights_sha256(each["weights"])
            for each in arguments
            if each["weights"]
        },
    }


def describe_run(command: Sequence[str], jobs: int, device: str) -> dict[str, Any]:
    """Describe the code, the machine and the command of a run.

    Args:
        command: The command line.
        jobs: Processes that run it.
        device: Where it computes, as torch names it.

    Returns:
        Ready for JSON.
    """
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": describe_machine(torch.device(device)),
        "jobs": jobs,
        "threads_per_job": 1,
    }
