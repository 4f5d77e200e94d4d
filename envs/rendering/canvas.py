"""A sheet of pixels to draw on: boxes painted by numpy, letters set by Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform
from numpy.typing import ArrayLike, NDArray

FG = "#222222"
MUTED = "#808080"

_DPI = 100


class Canvas:
    """A white picture; places are pixels from its upper left corner.

    Axes of Matplotlib would take longer than a frame of a video may: what is no letter is painted.

    Args:
        width: Pixels from left to right.
        height: Pixels from top to bottom.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        self._renderer = FigureCanvasAgg(self._figure).get_renderer()
        # The renderer's own memory: what is painted here, letters are set upon.
        self._pixels = np.asarray(self._renderer.buffer_rgba())
        self._pixels[:] = 255

    def rect(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Fill a box; it is at least a pixel wide."""
        x, y = round(left), round(top)
        self._pixels[y : round(bottom), x : max(x + 1, round(right)), :3] = _bytes(to_rgb(color))

    def image(self, left: int, top: int, image: NDArray[np.float64]) -> None:
        """Put down an image of shape (height, width, 3), values in [0, 1]."""
        height, width, _ = image.shape
        self._pixels[top : top + height, left : left + width, :3] = _bytes(image)

    def outline(self, left: int, top: int, width: int, height: int) -> None:
        """Draw a thin line round a box."""
        right, bottom = left + width, top + height
        for box in (
            (left - 1, top - 1, right + 1, top),
            (left - 1, bottom, right + 1, bottom + 1),
            (left - 1, top - 1, left, bottom + 1),
            (right, top - 1, right + 1, bottom + 1),
        ):
            self.rect(*box, MUTED)

    def bar_chart(
        self,
        area: tuple[int, int, int, int],
        heights: Sequence[float],
        slots: int,
        colors: Sequence[str],
        write: Callable[[float], str],
    ) -> None:
        """Draw bars up and down from zero, as far as the highest goes.

        Args:
            area: Left, top, width and height.
            heights: Of the bars; what is not finite is left out.
            slots: Bars that there is room for.
            colors: Of the bars, over and over.
            write: Writes the number at the end of the axis.
        """
        left, top, width, height = area
        heights = [value if math.isfinite(value) else 0.0 for value in heights]
        low, high = min(0.0, *heights, 0.0), max(0.0, *heights, 0.0)
        unit = height / (high - low or 1.0)
        zero = round(top + high * unit) if high > low else top + height
        for index, value in enumerate(heights):
            ends = sorted((zero, zero - value * unit))
            start = left + width * index / slots
            stop = start + 0.86 * width / slots
            self.rect(start, ends[0], stop, ends[1], colors[index % len(colors)])
        self.rect(left - 1, top, left, top + height, MUTED)
        self.rect(left - 1, zero, left + width, zero + 1, MUTED)
        self.text(left - 6, zero, "0", 8, ha="right", va="center")
        if high > low:
            far = high if high >= -low else low
            self.text(left - 6, zero - far * unit, write(far), 8, ha="right", va="center")

    def text(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """Set a line of text, left-aligned on the base line unless the style says otherwise."""
        style = {"color": FG, "va": "baseline", **style}
        letters = self._figure.text(
            x,
            self.height - y,
            text,
            size=size,
            # A dollar sign would begin a formula.
            parse_math=False,
            transform=IdentityTransform(),
            **style,
        )
        letters.draw(self._renderer)

    def rgb_array(self) -> NDArray[np.uint8]:
        """All of it, uint8 of shape (height, width, 3)."""
        return np.ascontiguousarray(self._pixels[..., :3])


def _bytes(colors: ArrayLike) -> NDArray[np.uint8]:
    """Colors of values in [0, 1] as bytes."""
    return np.rint(np.asarray(colors) * 255).astype(np.uint8)
