"""What an episode comes to: the same in training and in evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EpisodeStats:
    """Adds up one environment's episode.

    Args:
        parts: Names of the reward's parts.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts
        self._steps = 0
        self._span = 0
        self._totals = dict.fromkeys(self.columns(parts), 0.0)

    @staticmethod
    def columns(parts: tuple[str, ...]) -> list[str]:
        """Names of the totals: return, the parts of the reward, mean span, visited keys."""
        return ["return", *(f"reward_{part}" for part in parts), "mean_span", "qk_pairs"]

    def add(self, reward: float, info: dict[str, Any]) -> None:
        """Add one step."""
        self._steps += 1
        self._span += info["span"]
        self._totals["return"] += reward
        for part in self._parts:
            self._totals[f"reward_{part}"] += info["reward_components"][part]
        self._totals["qk_pairs"] += info["qk_pairs"]

    def row(self) -> dict[str, Any]:
        """The totals by column; the span is the mean over the steps, in tokens."""
        visited = int(self._totals["qk_pairs"])
        return {**self._totals, "mean_span": self._span / self._steps, "qk_pairs": visited}

    def state_dict(self) -> dict[str, Any]:
        """All that was added up."""
        return {"steps": self._steps, "span": self._span, "totals": dict(self._totals)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._steps, self._span = state_dict["steps"], state_dict["span"]
        self._totals = dict(state_dict["totals"])
