"""What a pilot's errors are called, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spangym.experiments.analysis.verdict import join_words
from spangym.experiments.reports.tables import format_number


@dataclass(frozen=True)
class MetricInfo:
    """The error of a task.

    Attributes:
        name: What it is, in full.
        short: What it is called in tables.
        unit: Of an error that is written.
        difference_unit: Of a difference of two.
        scale: What stored errors are multiplied with to be written in the unit.
        decimals: With how many places they are written.
        loss_unit: What the loss is counted in.
        split_noun: What the splits hold: voices, text.
        has_character_errors: Whether there are errors of characters too.
    """

    name: str
    short: str
    unit: str
    difference_unit: str
    scale: float
    decimals: int
    loss_unit: str
    split_noun: str
    has_character_errors: bool

    @property
    def title(self) -> str:
        """What it is called in titles."""
        return f"{self.short[0].upper()}{self.short[1:]}"

    @property
    def axis_label(self) -> str:
        """Name of an axis of errors."""
        return f"{self.name}{self.unit_suffix}"

    @property
    def unit_suffix(self) -> str:
        """The unit behind a name, where the name is not that of the unit."""
        return "" if self.unit == self.name else f", {self.unit}"

    def of(self, splits: Sequence[str]) -> str:
        """What is read in some splits.

        Example:
            >>> METRICS["speech"].of(["seen", "unseen"])
            'seen and unseen voices'
        """
        return f"{join_words(splits)} {self.split_noun}"

    def column_name(self, short: str, split: str, splits: Sequence[str]) -> str:
        """Name of a column of errors; it names the split where there are several."""
        return f"{short}{f' {split}' if len(splits) > 1 else ''}{self.unit_suffix}"

    def format(self, error: float) -> str:
        """An error with its unit."""
        return f"{format_number(self.scale * error, self.decimals)} {self.unit}"

    def format_difference(self, difference: float, low: float, high: float) -> str:
        """A difference of two errors with half of its interval, if there is one."""
        half = self.scale * (high - low) / 2
        more = "" if math.isnan(half) else f" ± {half:,.{self.decimals}f}"
        number = format_number(self.scale * difference, self.decimals, sign=True)
        return f"{number}{more} {self.difference_unit}"


METRICS = {
    "speech": MetricInfo(
        name="word error rate",
        short="WER",
        unit="%",
        difference_unit="points",
        scale=100.0,
        decimals=1,
        loss_unit="bits a character",
        split_noun="voices",
        has_character_errors=True,
    ),
    "text": MetricInfo(
        name="bits a byte",
        short="bits a byte",
        unit="bits a byte",
        difference_unit="bits a byte",
        scale=1.0,
        decimals=3,
        loss_unit="bits a byte",
        split_noun="text",
        has_character_errors=False,
    ),
}
"""By task."""
