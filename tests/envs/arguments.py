"""Small arguments for every id, for tests."""

from typing import Any

from spangym.envs import ENVIRONMENTS

UNTRAINED: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 3}


def small(name: str) -> dict[str, Any]:
    """Arguments that make an id quick; trained layers have their sizes."""
    return {"chunks_per_episode": 3} if "checkpoint" in ENVIRONMENTS[name] else UNTRAINED
