"""Placement of labels without overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes

from spangym.experiments.analysis.intervals import Floats
from spangym.experiments.plots.style import MUTED, SMALL

Box = tuple[Floats, Floats]
"""Lower left and upper right corner."""

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (-1, 1), (1, -1), (-1, -1), (1, 1))
"""Positions of a label relative to its point, the preferred first."""
_CHARACTER_WIDTH, _LINE_HEIGHT, _GAP = 6.6, 11.0, 6.0


def spread(positions: Floats, gap: float, low: float, high: float) -> Floats:
    """Move positions apart to a minimum gap, no further than necessary.

    The lower limit holds if there is space for all.

    Example:
        >>> spread(np.array([5.0, 5.0, 0.0]), 2, 0, 6).tolist()
        [4.0, 6.0, 0.0]
    """
    order = np.argsort(positions, kind="stable")
    placed = np.clip(positions[order], low, high)
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], high)
        high = placed[index] - gap
    result = np.empty_like(placed)
    result[order] = placed
    return result


def label_right_edge(axes: Axes, levels: Mapping[str, float], height: float) -> None:
    """Label levels at the right edge of axes with final limits; their height is in points."""
    low, high = axes.get_ylim()
    wanted = (np.array([*levels.values()]) - low) / (high - low) * height
    for (label, level), old, new in zip(
        levels.items(), wanted, spread(wanted, 12, 0, height), strict=True
    ):
        axes.annotate(
            label,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(8, new - old),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=MUTED,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )


def free_offsets(
    labels: Iterable[tuple[str, Floats]], taken: Iterable[Box], width: float, height: float
) -> list[Floats | None]:
    """Find space for labels, the most important first, next to their points, in axes from 0 on.

    All lengths are in points, and labels may not cover the taken boxes.

    Returns:
        Offset of each label's center from its point; None where there is no space.
    """
    boxes, offsets = [*taken], []
    for text, point in labels:
        half = np.array([_CHARACTER_WIDTH * len(text), _LINE_HEIGHT]) / 2
        offsets.append(None)
        for direction in _DIRECTIONS:
            offset = np.array(direction) * (half + _GAP)
            low, high = point + offset - half, point + offset + half
            inside = (low >= 0).all() and (high <= (width, height)).all()
            if inside and all((high <= box[0]).any() or (low >= box[1]).any() for box in boxes):
                boxes.append((low, high))
                offsets[-1] = offset
                break
    return offsets
