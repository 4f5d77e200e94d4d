"""What an environment shows of itself: the keys that each window sees, in text and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .settings import Settings

RENDER_MODES = ("ansi", "rgb_array")


@dataclass(frozen=True)
class Band:
    """A decision for one layer, as it is drawn.

    Attributes:
        window: Queries that share an interval of keys.
        span: Keys from the first query of a window on; 0 where the local path is off.
        reward: What the decision earned.
        share: Visited keys, all passes together, in those of one full attention.
    """

    window: int
    span: int
    reward: float
    share: float


@dataclass(frozen=True)
class Picture:
    """An episode so far, as it is drawn: the chunk that was last decided on, and totals.

    Attributes:
        settings: Of the environment.
        source: What the chunk is.
        chunk: Index of the chunk.
        bands: Decisions for the chunk's layers, as many as have been taken.
        episode_return: Sum of all rewards of the episode.
        decisions: Decisions taken in the episode.
        shares: Sum of the visited shares of all decisions of the episode.
    """

    settings: Settings
    source: str = ""
    chunk: int = 0
    bands: tuple[Band, ...] = ()
    episode_return: float = 0.0
    decisions: int = 0
    shares: float = 0.0

    def after(self, reward: float, info: Mapping[str, Any]) -> Picture:
        """The picture after one more step."""
        share = info["visited_keys"] / self.settings.ctx**2
        band = Band(info["window"], info["span"], reward, share)
        earlier = self.bands if info["layer"] else ()
        return dataclasses.replace(
            self,
            source=info["source"],
            chunk=info["chunk"],
            bands=(*earlier, band),
            episode_return=self.episode_return + reward,
            decisions=self.decisions + 1,
            shares=self.shares + share,
        )

    def state_dict(self) -> dict[str, Any]:
        """All but the settings, as JSON can hold it."""
        state = dataclasses.asdict(self)
        del state["settings"]
        return state

    @classmethod
    def from_state_dict(cls, settings: Settings, state: Mapping[str, Any]) -> Picture:
        """What `state_dict` gave, with its settings."""
        bands = tuple(Band(**band) for band in state["bands"])
        return cls(settings, **{**state, "bands": bands})

    def __str__(self) -> str:
        """The picture as text."""
        return f"chunk {self.chunk + 1}/{self.settings.chunks} {self.source}\n"

    def rgb_array(self) -> NDArray[np.uint8]:
        """The picture as an image, uint8 of shape (height, width, 3)."""
        return np.zeros((240, 320, 3), np.uint8)
