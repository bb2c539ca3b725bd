"""Where things stand on a terminal: above, the run; then its charts; below, its pipeline and what was decided."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Layout", "Rect", "laid_out")

NARROW = 110
"""Columns from which on the three questions stand beside each other."""


class Rect(NamedTuple):
    """A part of the terminal, in letters."""

    x: int
    y: int
    width: int
    height: int


class Layout(NamedTuple):
    """Where things stand.

    Attributes:
        head: is it alive, why will it stop, what limits it.
        alerts: what is wrong; of no height if nothing is.
        charts: each chart with its frame, as many as there is room for.
        foot: the pipeline, and what was decided.
        keys: the keys that can be pressed.
    """

    head: Rect
    alerts: Rect
    charts: tuple[Rect, ...]
    foot: Rect
    keys: Rect


def laid_out(
    width: int, height: int, *, head: int, alerts: int, pipeline: int, decisions: int, charts: int, large: bool = False
) -> Layout:
    """Return where things stand.

    Args:
        width: columns of the terminal.
        height: its lines.
        head: lines that the head would take where it is wide.
        alerts: lines that alerts would take.
        pipeline: lines that the pipeline would take.
        decisions: lines that decisions would take.
        charts: how many charts there are.
        large: whether one chart has all the room for charts.
    """
    wide = width >= NARROW
    top = max(min(head, 7 if height >= 40 else 6 if height >= 30 else 5), 4) if wide else (4 if height >= 20 else 2)
    if height < 12:
        top = 1
    alerts = min(alerts, 3 if height >= 40 else 2 if height >= 30 else 1 if height >= 14 else 0)
    most = 7 if height >= 46 else 6 if height >= 40 else 5 if height >= 32 else 3 if height >= 22 else 0
    decisions = min(decisions, most)
    bottom = decisions + (min(pipeline, 2 if height >= 40 else 1) if decisions else 0)
    middle = max(height - top - alerts - bottom - 1, 1)
    across = 1 if large else min(3 if width >= 150 else 2 if width >= 76 else 1, max(charts, 1))
    down = 1 if large else max(min(2 if across > 1 else 3, middle // 9), 1)
    down = min(down, -(-max(charts, 1) // across))
    rects = []
    for row in range(down):
        y, end = row * middle // down, (row + 1) * middle // down
        for column in range(across):
            x, right = column * width // across, (column + 1) * width // across
            rects.append(Rect(x, top + alerts + y, right - x, end - y))
    return Layout(
        Rect(0, 0, width, top),
        Rect(0, top, width, alerts),
        tuple(rects),
        Rect(0, top + alerts + middle, width, bottom),
        Rect(0, height - 1, width, 1),
    )
