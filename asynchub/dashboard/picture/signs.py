"""The decisions on a chart, as shapes: a dotted line through the plot, a sign at its foot, a few words above it.

Filled: it was done. Hollow: it was suggested, or refused. A person: by one. A cross: something failed.
Colour: of the run; of what was refused or failed, that of what is wrong.
Stacked: signs that would cover each other stand one above the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asynchub.dashboard.picture.look import Look
from asynchub.dashboard.picture.shapes import Dots, Polygon, Polyline, Shape
from asynchub.dashboard.screen import Mark

__all__ = ("KEY", "colour_of", "signs")

KEY = "marks: filled = done, hollow = suggested or refused, a person = by hand, a cross = failed"
"""What they mean, in words."""
MANY = 24
"""Decisions from which on each gets a tick in place of a line."""
CLOSE = 9.0
"""Pixels that two signs must be apart to stand beside each other."""
HIGH = 11.0
"""Pixels from a sign to the one above it."""
SHOULDERS = np.linspace(np.pi, 2 * np.pi, 9)


def signs(marks: Sequence[tuple[float, Mark, str]], top: float, bottom: float, look: Look) -> Iterator[Shape]:
    """Give the lines and signs of decisions.

    Args:
        marks: place of each on the x axis, in pixels; it; the colour of its run.
        top: of the plot, in pixels.
        bottom: of the plot.
        look: the colours of the picture.
    """
    marks = sorted(marks, key=lambda one: one[0])
    for x, mark, colour in marks:
        colour = colour_of(mark, colour, look)
        at = round(x) + 0.5
        if len(marks) <= MANY:
            yield Polyline(np.array([at, at]), np.array([top, bottom]), colour, 1.0, (2.0, 3.0), opacity=0.75)
        else:
            yield Polyline(np.array([at, at]), np.array([bottom - 8, bottom]), colour, 1.0)
    lanes: list[float] = []
    most = max(int((bottom - top) / HIGH / 2), 1)
    for x, mark, colour in marks:
        free = next((lane for lane, last in enumerate(lanes) if x - last >= CLOSE), len(lanes))
        lane = min(free, most - 1)
        lanes[lane : lane + 1] = [x]
        yield from _sign(mark, round(x) + 0.5, bottom - 5 - HIGH * lane, colour_of(mark, colour, look), look)


def colour_of(mark: Mark, colour: str, look: Look) -> str:
    """Return the colour of a decision, given that of its run."""
    return look.bad if mark.kind in ("refused", "failed") else colour


def _sign(mark: Mark, x: float, y: float, colour: str, look: Look) -> Iterator[Shape]:
    if mark.kind == "manual":
        yield Dots(np.array([x]), np.array([y - 2.6]), 2.4, colour)
        arc = zip(np.cos(SHOULDERS).tolist(), np.sin(SHOULDERS).tolist(), strict=True)
        yield Polygon(tuple((x + 4.4 * across, y + 5 + 4.4 * up) for across, up in arc), colour)
    elif mark.kind == "failed":
        for way in (4.0, -4.0):
            yield Polyline(np.array([x - 4.0, x + 4.0]), np.array([y - way, y + way]), colour, 2.0)
    else:
        hollow = mark.kind in ("suggested", "refused")
        corners = ((x, y - 5), (x + 4, y), (x, y + 5), (x - 4, y))
        yield Polygon(corners, look.card if hollow else colour, colour)
