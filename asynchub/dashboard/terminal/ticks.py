"""Round numbers on the axes of a chart."""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from asynchub.dashboard.curves import Axis
from asynchub.subscribers.display import format_duration, format_number, format_quantity

__all__ = ("Tick", "ticks_of", "x_ticks")

WIDEST = 10
"""Letters of a number on the y axis."""
UNITS = ("_s", "_seconds", "_bytes")
"""Ends of keys whose values have a unit."""
NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
    *(86400 * days for days in (2, 7, 14, 30, 90, 365, 1000, 10_000)),
)
DAY = 86_400
LONGEST = 1e11
"""Seconds that are told as a duration: some 3,000 years."""


class Tick(NamedTuple):
    """A number on the y axis.

    Attributes:
        share: how far below the upper edge it is, 0 to 1.
        text: it.
    """

    share: float
    text: str

    def row(self, rows: int) -> int:
        """Return in which of ``rows`` lines it stands."""
        return min(int(self.share * rows), rows - 1)


def ticks_of(low: float, high: float, log: bool, most: int, key: str = "") -> tuple[Tick, ...]:
    """Return about ``most`` round numbers from ``low`` to ``high``, from the top; the edges if there are none.

    Args:
        low: at the lower edge.
        high: at the upper edge.
        log: whether the axis is logarithmic.
        most: how many.
        key: of the scalar, whose end names a unit.
    """
    if log:
        bottom, top = math.log10(low), math.log10(high)
        values = _powers(bottom, top, most) if top - bottom >= 1 else _round(low, high, most)
        found = [((top - math.log10(value)) / (top - bottom), value) for value in values if value > 0 and top > bottom]
    else:
        half = high / 2 - low / 2  # halves, as the whole may be more than a double holds
        found = [((high / 2 - value / 2) / half, value) for value in _round(low, high, most)]
    if len(found) < 2:
        found = [(1.0, low), (0.0, high)]
    texts = _texts(key, [value for _, value in found], log)
    return tuple(sorted(Tick(min(max(share, 0.0), 1.0), text) for (share, _), text in zip(found, texts, strict=True)))


def _texts(key: str, values: list[float], log: bool) -> list[str]:
    usual = all(value == 0 or 1e-3 <= abs(value) < 1e6 for value in values)
    if key.endswith(UNITS) or not usual:
        texts = [format_quantity(key, value + 0.0) for value in values]
        return texts if max(map(len, texts)) <= WIDEST else [format_number(value) for value in values]
    if log:
        return [f"{value:,g}" for value in values]
    digits = next((n for n in range(6) if all(math.isclose(round(v, n), v, abs_tol=1e-9) for v in values)), 6)
    return [f"{value + 0.0:,.{digits}f}" for value in values]


def _powers(bottom: float, top: float, most: int) -> list[float]:
    first, last = math.ceil(bottom - 1e-9), math.floor(top + 1e-9)
    every = max(math.ceil((last - first + 1) / most), 1)
    return [value for power in range(first, last + 1, every) if (value := float(f"1e{power}")) > 0]


def _round(low: float, high: float, most: int) -> list[float]:
    """Return about ``most`` round numbers between two; none where doubles are too coarse for them."""
    rough = (high / 2 - low / 2) / max(most, 1) * 2
    if not 1e-290 < rough < 1e290 or max(abs(low), abs(high)) / rough > 1e12:
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(nice * power for nice in NICE if nice * power >= rough * 0.999)
    first = math.ceil(low / size - 1e-9)
    values = (number * size for number in range(first, first + most + 2))
    return [value for value in values if value <= high + 1e-9 * size]


def x_ticks(axis: Axis, low: float, high: float, columns: int) -> list[tuple[int, str]]:
    """Return what stands below a chart: from which column on, and the text."""
    most = max(columns // 14, 1)
    timely = axis in ("time", "relative")
    size = next((one for one in SECONDS if (high - low) / one <= most), 0)
    if not timely:
        values = _round(low, high, most)
    elif size:
        shift = _local(low) if axis == "time" else 0.0
        first = math.ceil((low + shift) / size)
        values = [number * size - shift for number in range(first, first + most + 1)]
    else:
        values = []
    if axis == "step":
        values = [value for value in values if value == round(value)]
    values = [value for value in values if low <= value <= high] or [low, high]
    found: list[tuple[int, str]] = []
    free = 0
    for value in values:
        text = _label(axis, value, size)
        at = int((value / 2 - low / 2) / (high / 2 - low / 2) * (columns - 1)) - len(text) // 2
        start = max(min(at, columns - len(text)), 0)
        if start >= free and start + len(text) <= columns:
            found.append((start, text))
            free = start + len(text) + 1
    return found


def _label(axis: Axis, value: float, size: int) -> str:
    if axis == "time":
        return _moment(value, size or 1)
    if axis == "relative" and abs(value) < LONGEST:
        return format_duration(value)
    return _short(value)


def _short(value: float) -> str:
    """Return a step, or an epoch, with few letters."""
    if abs(value) >= 1e12:
        return format_number(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if unit == "k" else size):
            return f"{value / size:,.3f}".rstrip("0").rstrip(".") + unit
    return f"{value:,.0f}" if value == round(value) else format_number(value)


def _local(seconds: float) -> float:
    """Return how far the local clock is ahead of UTC at a moment."""
    try:
        offset = datetime.fromtimestamp(seconds).astimezone().utcoffset()
    except (OverflowError, OSError, ValueError):
        return 0.0
    return offset.total_seconds() if offset is not None else 0.0


def _moment(seconds: float, size: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds)
    except (OverflowError, OSError, ValueError):
        return "-"
    return f"{moment:%m-%d}" if size >= DAY else f"{moment:%H:%M}" if size >= 60 else f"{moment:%H:%M:%S}"
