"""Where values stand along an axis, and what its ticks say.

Ticks: at round numbers, their labels as short as they can be while no two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import ceil, floor, isfinite, log10

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.curves import Axis
from asynchub.subscribers.display import format_duration, format_number, format_quantity

__all__ = ("Scale", "Tick", "ticks_of_axis", "ticks_of_values")

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
SMALLEST = 1e-300
"""Width of an axis, at least, that has ticks: parts of a smaller one are no numbers any more."""
UNITS = ("_s", "_seconds", "_bytes")


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis that has a label.

    Attributes:
        value: that stands there.
        text: the label.
    """

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis.

    Attributes:
        low: the value at ``start``.
        high: the value at ``stop``; above ``low``.
        start: a place in pixels.
        stop: another one.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, values: Array | float) -> Array:
        """Return the places of values, in pixels; those far beyond the ends are brought nearer."""
        numbers = np.asarray(values, np.float64)
        with np.errstate(all="ignore"):
            if self.log:
                low, high = log10(self.low), log10(self.high)
                numbers = np.where(numbers > 0, np.log10(numbers), np.where(np.isnan(numbers), np.nan, -np.inf))
            else:
                low, high = self.low, self.high
            shares = np.clip((numbers - low) / (high - low), -2.0, 3.0)
        places: Array = self.start + shares * (self.stop - self.start)
        return places


def ticks_of_values(scale: Scale, key: str, most: int = 5) -> list[Tick]:
    """Return the ticks of a y axis, whose values are those of a key."""
    places = _decades(scale.low, scale.high, most) if scale.log else _round(scale.low, scale.high, most)
    if key.endswith(UNITS):
        return _labelled(places, [format_quantity(key, place) for place in places])
    return _labelled(places, _figures(places))


def ticks_of_axis(scale: Scale, axis: Axis, most: int = 6) -> list[Tick]:
    """Return the ticks of an x axis."""
    if axis == "relative":
        places = _times(scale.low, scale.high, most, 0.0)
        return _labelled(places, [format_duration(place) for place in places])
    if axis == "time":
        return _clock(scale.low, scale.high, most)
    places = _round(scale.low, scale.high, most)
    if axis == "step":
        places = [place for place in places if place == round(place)]
    return _labelled(places, [_count(place) if place == round(place) else format_number(place) for place in places])


def _labelled(places: Sequence[float], texts: Sequence[str]) -> list[Tick]:
    """Return ticks with labels that differ; of equal ones the first."""
    found: dict[str, float] = {}
    for place, text in zip(places, texts, strict=True):
        found.setdefault(text, place)
    return [Tick(place, text) for text, place in found.items()]


def _round(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between two numbers, ``most`` at most."""
    wide = high - low
    if not (isfinite(wide) and wide > SMALLEST):
        return []
    size = 10.0 ** floor(log10(wide / most))
    each = next((size * step for step in STEPS if wide / (size * step) <= most), size * 10)
    first, last = ceil(low / each - 1e-9), floor(high / each + 1e-9)
    if not 0 <= last - first <= 2 * most:  # rounding: numbers that differ by their last digits only
        return []
    return [number * each for number in range(first, last + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    """Return powers of ten between two numbers above 0, or multiples of them where there are few."""
    first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
    if last - first >= 2:
        each = max(ceil((last - first + 1) / (most + 1)), 1)
        return [10.0**power for power in range(first, last + 1, each)]
    some = [
        float(f"{times}e{power}") for power in range(first - 1, last + 1) for times in (1, 2, 5) if -300 < power < 300
    ]
    some = [place for place in some if low <= place <= high]
    return some if len(some) > 1 else [place for place in _round(low, high, most) if place > 0]


def _figures(places: Sequence[float]) -> list[str]:
    """Return numbers as text, all with as many decimals as tell them apart."""
    if not places:
        return []
    largest = max(abs(place) for place in places)
    apart = min((b - a for a, b in pairwise(places)), default=largest) or 1.0
    if not 1e-4 <= largest < 1e6 or apart < 1e-6:
        return [format_number(place) if place else "0" for place in places]
    if len(places) > 2 and min(map(abs, places)) > 0 and places[1] / places[0] > 2:  # powers of ten
        return [f"{place:g}" for place in places]
    decimals = max(-floor(log10(apart) + 1e-9), 0)
    decimals += abs(round(apart, decimals) - apart) > apart * 1e-6
    return [f"{place + 0.0:.{decimals}f}" for place in places]


def _count(number: float) -> str:
    """Return a whole number as ``250k`` or ``1.5M``, where that says all of it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 10 * size or (abs(number) >= size and size > 1e3):
            scaled = number / size
            if round(scaled, 2) == scaled:
                return f"{scaled:g}{letter}"
    return f"{number:,.0f}"


def _times(low: float, high: float, most: int, offset: float) -> list[float]:
    wide = high - low
    if not (isfinite(wide) and wide > 0):
        return []
    each: float = next((step for step in SECONDS if wide / step <= most), 86400 * max(ceil(wide / 86400 / most), 1))
    first, last = ceil((low + offset) / each), floor((high + offset) / each)
    return [number * each - offset for number in range(first, last + 1)]


def _clock(low: float, high: float, most: int) -> list[Tick]:
    """Return ticks of a time of day, as clocks show it here."""
    try:
        here = datetime.fromtimestamp((low + high) / 2).astimezone().utcoffset()
        places = _times(low, high, most, here.total_seconds() if here is not None else 0.0)
        moments = [datetime.fromtimestamp(place).astimezone() for place in places]
    except (OverflowError, OSError, ValueError):  # a clock that was set wrongly
        return []
    apart = places[1] - places[0] if len(places) > 1 else 60.0
    form = "%H:%M:%S" if apart < 60 else "%H:%M" if apart < 43200 else "%Y-%m-%d"
    return _labelled(places, [moment.strftime(form) for moment in moments])
