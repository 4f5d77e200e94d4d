"""Statistics of an episode, the same in training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spangym.utils.text import printable


class EpisodeStats:
    """Sums up the steps of one episode in one environment, with its reward components."""

    def __init__(self, components: Sequence[str]) -> None:
        self._components = dict(zip(components, self.columns(components)[1:], strict=False))
        self._steps = 0
        self._span = 0
        self._totals = dict.fromkeys(self.columns(components), 0.0)

    @staticmethod
    def columns(components: Sequence[str]) -> list[str]:
        """Return the names of the statistics, in order."""
        return [
            "return",
            *(printable(f"reward_{name}") for name in components),
            "mean_span",
            "qk_pairs",
        ]

    def add(self, reward: float, info: Mapping[str, Any]) -> None:
        """Add one step."""
        self._steps += 1
        self._span += info["span"]
        totals, components = self._totals, info["reward_components"]
        totals["return"] += reward
        for name, column in self._components.items():
            totals[column] += components[name]
        totals["qk_pairs"] += info["qk_pairs"]

    def row(self) -> dict[str, Any]:
        """Return sums by column, with the mean span in tokens."""
        qk_pairs = int(self._totals["qk_pairs"])
        return {**self._totals, "mean_span": self._span / self._steps, "qk_pairs": qk_pairs}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {"steps": self._steps, "span": self._span, "totals": dict(self._totals)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the sums from `state_dict`."""
        self._steps, self._span = state_dict["steps"], state_dict["span"]
        self._totals = dict(state_dict["totals"])
