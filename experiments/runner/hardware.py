"""The machine that something ran on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch


def hardware_info(device: torch.device) -> dict[str, Any]:
    """Platform, processor, cores and device, ready for JSON."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cpus(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def available_cpus() -> int:
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
