"""Rows, break-even lengths and the table of ``spangym bench pilot``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spangym.envs.data.log_mel import HOP, RATE
from spangym.experiments.pilot.models import STRIDE
from spangym.experiments.reports.tables import Cell, Table, TableRow, table_row

TaskName = Literal["speech", "text"]

FULL = "full attention"
"""Name of the reference variant."""

CHEAPER_RATIO = 0.95
"""Ratio below which a variant counts as cheaper, since timings vary by a few percent."""

_TOKENS_PER_SECOND = RATE / (HOP * STRIDE)


@dataclass(frozen=True)
class Timing:
    """Cost of a model on one input.

    Attributes:
        tokens: Length of the input.
        qk_pairs: Query-key pairs, mean over layers.
        training: Milliseconds of an update: forward, backward and optimizer.
        inference: Milliseconds of a forward pass without gradient.
    """

    tokens: int
    qk_pairs: float
    training: float
    inference: float


def make_row(
    task: TaskName, label: str, timings: Sequence[Timing], full: Sequence[Timing]
) -> dict[str, Any]:
    """The row of a variant, ready for JSON.

    Args:
        task: The task.
        label: Name of the variant.
        timings: Costs of the variant by length, ascending.
        full: Costs of full attention at the same lengths.
    """
    row: dict[str, Any] = {"task": task, "variant": label, "lengths": []}
    for own, other in zip(timings, full, strict=True):
        length: dict[str, Any] = {"tokens": own.tokens}
        if task == "speech":
            length["seconds"] = own.tokens / _TOKENS_PER_SECOND
        length["qk_pairs"] = own.qk_pairs
        length["qk_pairs_ratio"] = own.qk_pairs / other.qk_pairs
        for what in ("training", "inference"):
            milliseconds = getattr(own, what)
            length[f"{what}_milliseconds"] = milliseconds
            length[f"{what}_ratio"] = milliseconds / getattr(other, what)
        row["lengths"].append(length)
    tokens = [each["tokens"] for each in row["lengths"]]
    ratios = {
        what: [each[f"{what}_ratio"] for each in row["lengths"]]
        for what in ("training", "inference")
    }
    row["break_even_length"] = {
        what: break_even_length(tokens, each) for what, each in ratios.items()
    }
    row["ratio_at_longest"] = {what: each[-1] for what, each in ratios.items()}
    return row


def break_even_length(
    tokens: Sequence[float], ratios: Sequence[float], level: float = CHEAPER_RATIO
) -> float | None:
    """Length from which on a variant is cheaper.

    Args:
        tokens: Measured lengths, ascending.
        ratios: Cost over that of full attention at each length.
        level: Ratio below which the variant counts as cheaper.

    Returns:
        The length at which a power law through the last length that is not cheaper and the next
        one reaches the level; the first length if all are cheaper, None if the last is not.

    Example:
        >>> round(break_even_length([100, 400, 1600], [4.0, 2.0, 0.5], level=1))
        800
        >>> break_even_length([100, 400], [0.9, 0.5]), break_even_length([100, 400], [0.9, 1.0])
        (100.0, None)
    """
    dearer = [index for index, ratio in enumerate(ratios) if ratio >= level]
    if not dearer:
        return float(tokens[0])
    if dearer[-1] == len(ratios) - 1:
        return None
    near = slice(dearer[-1], dearer[-1] + 2)
    start, end = np.log(tokens[near])
    high, low = np.log(ratios[near]) - np.log(level)
    return float(np.exp(start + (end - start) * high / (high - low)))


def long_inputs_table(measured: Sequence[dict[str, Any]]) -> Table:
    """Ratios at the longest input, with the break-even length in brackets."""
    tasks = list(dict.fromkeys(row["task"] for row in measured))
    by_name = {(row["task"], row["variant"]): row for row in measured}
    columns, longest = ["attention"], []
    for task in tasks:
        columns += [f"{task}: qk pairs", f"{task}: training", f"{task}: inference"]
        last = by_name[task, FULL]["lengths"][-1]
        longest.append(f"{task} of {_length(task, last['tokens'])}")
    lines = [
        _table_row(label, [by_name[task, label] for task in tasks])
        for label in dict.fromkeys(row["variant"] for row in measured)
    ]
    return Table(f"cost over full attention's: {', '.join(longest)}", tuple(columns), tuple(lines))


def _table_row(label: str, own: Sequence[dict[str, Any]]) -> TableRow:
    cells = []
    for row in own:
        last = row["lengths"][-1]
        keys = last["qk_pairs_ratio"]
        cells.append(Cell(f"{keys:.3g}", keys))
        for what in ("training", "inference"):
            ratio = last[f"{what}_ratio"]
            text = f"{ratio:.2f}"
            if label == FULL:
                text = f"{last[f'{what}_milliseconds']:,.0f} ms"
            elif (since := row["break_even_length"][what]) is not None:
                shortest = row["lengths"][0]["tokens"]
                always = since <= shortest
                # An interpolated length has two significant digits at most.
                length = _length(row["task"], since if always else float(f"{since:.2g}"))
                text += f" (≤ {length})" if always else f" ({length})"
            cells.append(Cell(text, ratio))
    return table_row(label, *cells, is_baseline=label == FULL)


def _length(task: TaskName, tokens: float) -> str:
    """A length in seconds or bytes."""
    size, unit = (tokens / _TOKENS_PER_SECOND, "s") if task == "speech" else (tokens, "bytes")
    places = max(0, 1 - math.floor(math.log10(size)))
    return f"{size:,.{places}f} {unit}"
