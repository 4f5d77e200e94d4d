"""What a run was made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.hardware import hardware_info
from spangym.experiments.studies.study import Study

_PACKAGES = ("spangym", "torch", "gymnasium", "stable-baselines3", "numpy", "pandas", "scipy")


def make_manifest(study: Study, command: Sequence[str], num_workers: int) -> dict[str, Any]:
    """Describe the code, the machine, the content and the command of a run.

    Args:
        study: What is run.
        command: The command line.
        num_workers: Processes that run it.

    Returns:
        Ready for JSON.
    """
    kwargs = [each.kwargs for each in study.environments]
    hashes = DatasetHashes()
    devices = dict.fromkeys(each["device"] for each in kwargs)
    return {
        **describe_run(command, num_workers, next(iter(devices))),
        "content_sha256": {each["dataset"]: hashes.get(each["dataset"]) for each in kwargs},
        "weights_sha256": {
            each["checkpoint"]: weights_sha256(each["checkpoint"])
            for each in kwargs
            if each["checkpoint"]
        },
    }


def describe_run(command: Sequence[str], num_workers: int, device: str) -> dict[str, Any]:
    """Describe the code, the machine and the command of a run.

    Args:
        command: The command line.
        num_workers: Processes that run it.
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
        "machine": hardware_info(torch.device(device)),
        "num_workers": num_workers,
        "threads_per_worker": 1,
    }
