"""Labels beside what they name, none over another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Box = tuple[Floats, Floats]
"""Two opposite corners, the lower left first."""

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (-1, 1), (1, -1), (-1, -1), (1, 1))
"""In which a label may stand from its point, the best first."""

_CHARACTER, _LINE, _APART = 6.6, 11.0, 6.0


def spread(wanted: Floats, gap: float, low: float, high: float) -> Floats:
    """Move positions apart, no further than needed.

    Args:
        wanted: Where they would be.
        gap: What is to be between two of them.
        low: The least position, where there is room for all.
        high: The greatest.

    Returns:
        The positions, in the order of ``wanted``.

    Example:
        >>> spread(np.array([5.0, 5.0, 0.0]), 2, 0, 6).tolist()
        [4.0, 6.0, 0.0]
    """
    order = np.argsort(wanted, kind="stable")
    placed = np.clip(wanted[order], low, high)
    for index in range(1, len(placed)):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    limit = high
    for index in reversed(range(len(placed))):
        limit = placed[index] = min(placed[index], limit)
        limit -= gap
    result = np.empty_like(placed)
    result[order] = placed
    return result


def beside(
    labels: Iterable[tuple[str, Floats]], taken: Iterable[Box], width: float, height: float
) -> list[Floats | None]:
    """Find room for labels beside their points.

    Args:
        labels: Texts and their points, the most important first.
        taken: Where nothing may stand.
        width: Of the room there is; it begins at 0.
        height: Of the room.

    Returns:
        For each label where its middle is to be from its point; None where there is no room.
    """
    boxes = [*taken]
    offsets: list[Floats | None] = []
    for text, point in labels:
        half = np.array([_CHARACTER * len(text), _LINE]) / 2
        offsets.append(None)
        for direction in _DIRECTIONS:
            offset = np.array(direction) * (half + _APART)
            box = (point + offset - half, point + offset + half)
            if _is_free(box, boxes, width, height):
                boxes.append(box)
                offsets[-1] = offset
                break
    return offsets


def _is_free(box: Box, taken: Iterable[Box], width: float, height: float) -> bool:
    low, high = box
    if (low < 0).any() or high[0] > width or high[1] > height:
        return False
    return all((high <= other[0]).any() or (low >= other[1]).any() for other in taken)
