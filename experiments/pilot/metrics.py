"""What a pilot's errors are called, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spangym.experiments.analysis.verdict import in_a_list
from spangym.experiments.reports.tables import written


@dataclass(frozen=True)
class Measure:
    """The error of a task.

    Attributes:
        name: What it is, in full.
        short: What it is called in tables.
        unit: Of an error that is written.
        unit_of_differences: Of a difference of two.
        scale: What stored errors are multiplied with to be written in the unit.
        places: With how many places they are written.
        loss: What the loss is counted in.
        read: What the splits hold: voices, text.
        characters: Whether there are errors of characters too.
    """

    name: str
    short: str
    unit: str
    unit_of_differences: str
    scale: float
    places: int
    loss: str
    read: str
    characters: bool

    @property
    def title(self) -> str:
        """What it is called in titles."""
        return f"{self.short[0].upper()}{self.short[1:]}"

    @property
    def axis(self) -> str:
        """Name of an axis of errors."""
        return f"{self.name}{self.in_unit}"

    @property
    def in_unit(self) -> str:
        """The unit behind a name, where the name is not that of the unit."""
        return "" if self.unit == self.name else f", {self.unit}"

    def of(self, splits: Sequence[str]) -> str:
        """What is read in some splits.

        Example:
            >>> MEASURES["speech"].of(["seen", "unseen"])
            'seen and unseen voices'
        """
        return f"{in_a_list(splits)} {self.read}"

    def head(self, short: str, split: str, splits: Sequence[str]) -> str:
        """Name of a column of errors; it names the split where there are several."""
        return f"{short}{f' {split}' if len(splits) > 1 else ''}{self.in_unit}"

    def say(self, error: float) -> str:
        """An error with its unit."""
        return f"{written(self.scale * error, self.places)} {self.unit}"

    def say_difference(self, difference: float, low: float, high: float) -> str:
        """A difference of two errors with half of its interval, if there is one."""
        half = self.scale * (high - low) / 2
        more = "" if math.isnan(half) else f" ± {half:,.{self.places}f}"
        number = written(self.scale * difference, self.places, sign=True)
        return f"{number}{more} {self.unit_of_differences}"


MEASURES = {
    "speech": Measure(
        name="word error rate",
        short="WER",
        unit="%",
        unit_of_differences="points",
        scale=100.0,
        places=1,
        loss="bits a character",
        read="voices",
        characters=True,
    ),
    "text": Measure(
        name="bits a byte",
        short="bits a byte",
        unit="bits a byte",
        unit_of_differences="bits a byte",
        scale=1.0,
        places=3,
        loss="bits a byte",
        read="text",
        characters=False,
    ),
}
"""By task."""
