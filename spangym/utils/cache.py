"""The folder in which spangym keeps what it can compute again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the folder: ``SPANGYM_CACHE`` if that is set, else that of the platform."""
    given = os.environ.get("SPANGYM_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("spangym")
