"""One scalar as it will be drawn: any number of values in bounded memory, and no spike lost.

The values are held in buckets of ``stride`` consecutive ones. A bucket knows its first, smallest, largest and last
value, each with where it was, and the sum and number of all. When there are more than ``LIMIT`` buckets, each two
become one, and ``stride`` doubles: so there are always between ``LIMIT / 2`` and ``LIMIT``, more than a picture has
columns of pixels, and the line through those four points of each bucket covers the same pixels as one through every
value would.

Memory: at most 230 kB a curve, for a thousand values or a billion.
Not finite: NaN and infinities are counted, and where they were is known to a bucket; no extreme and no mean has them.

Source:
    Jugel, Jerzak, Hackenbroich and Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 2014: the
    first, smallest, largest and last value of each column of pixels are all that a line chart shows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("LIMIT", "NOT_FINITE", "Curve")

LIMIT = 2048
"""Buckets of a curve at most."""

X_FIRST, Y_FIRST, X_MIN, Y_MIN, X_MAX, Y_MAX, X_LAST, Y_LAST, SUM, COUNT, X_BAD, NANS, ABOVE, BELOW = range(14)
_Floats = NDArray[np.float64]
NOT_FINITE = {"NaN": NANS, "+inf": ABOVE, "-inf": BELOW}
"""What a value can be that is not finite."""


class Curve:
    """The values of one scalar."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._rows: _Floats = np.empty((0, 14))
        self._stride = 1
        self._fill = 1  # values in the last bucket
        self._x: list[float] = []
        self._y: list[float] = []

    def add(self, x: float, y: float) -> None:
        """Append a value ``y`` at ``x``."""
        self._x.append(x)
        self._y.append(y)
        if len(self._y) >= LIMIT:
            self._fold()

    def cut(self, x: float) -> None:
        """Forget what lies beyond ``x``, to within a bucket."""
        rows = self._folded()
        start = np.where(np.isnan(rows[:, X_FIRST]), rows[:, X_BAD], rows[:, X_FIRST])
        self._rows = rows[start <= x]
        self._fill = self._stride  # what comes now begins a bucket
        self._last = float(self._rows[-1, Y_LAST]) if len(self._rows) else None

    @property
    def last(self) -> float | None:
        """The newest value, as it came; None before the first."""
        return self._y[-1] if self._y else self._last

    def __len__(self) -> int:
        rows = self._folded()
        return int(rows[:, [COUNT, NANS, ABOVE, BELOW]].sum())

    def points(self) -> tuple[_Floats, _Floats]:
        """Return ``x`` and ``y`` of a line that has every extreme; a NaN breaks it where a bucket has no value."""
        rows = self._folded()
        inner = np.where((rows[:, X_MIN] <= rows[:, X_MAX])[:, None], rows[:, 2:6], rows[:, [4, 5, 2, 3]])
        if self._stride == 1:  # four times the same
            path = rows[:, :2].copy()
        else:
            path = np.concatenate([rows[:, :2], inner, rows[:, 6:8]], axis=1).reshape(-1, 2)
        x, y = path[:, 0], path[:, 1]
        empty = np.isnan(x)
        x[empty] = np.repeat(rows[:, X_BAD], len(x) // max(len(rows), 1))[empty]
        if np.any(np.diff(x) < 0):  # values that came late
            order = np.argsort(x, kind="stable")
            x, y = x[order], y[order]
        return x, y

    def smoothed(self, half_life: float) -> tuple[_Floats, _Floats]:
        """Return the moving average in which the weight of a value has halved after ``half_life`` more.

        A NaN breaks it where a bucket has no value, as the line of ``points``.

        Source:
            Kingma and Ba, "Adam", ICLR 2015, section 3: dividing by the sum of the weights undoes the pull towards a
            start at zero.
        """
        rows = self._folded()
        middles = (rows[:, X_FIRST] + rows[:, X_LAST]) / 2
        order = np.argsort(np.where(np.isnan(middles), rows[:, X_BAD], middles), kind="stable")
        average = weight = 0.0
        averages = []
        for total, count in rows[order][:, [SUM, COUNT]].tolist():
            if not count or not math.isfinite(total):
                averages.append(math.nan)
                continue
            keep = 0.5 ** (count / half_life)
            average = keep * average + (1 - keep) * total / count
            weight = keep * weight + (1 - keep)
            averages.append(average / weight)
        return middles[order], np.array(averages)

    def extreme(self, largest: bool) -> tuple[float, float] | None:
        """Return ``x`` and ``y`` of the first largest, or smallest, value; None if there is no finite one."""
        rows = self._folded()
        rows = rows[rows[:, COUNT] > 0]
        if not len(rows):
            return None
        x, y = (X_MAX, Y_MAX) if largest else (X_MIN, Y_MIN)
        row = rows[np.argmax(rows[:, y]) if largest else np.argmin(rows[:, y])]
        return float(row[x]), float(row[y])

    def not_finite(self, what: str) -> tuple[_Floats, int]:
        """Return where values were ``"NaN"``, ``"+inf"`` or ``"-inf"``, one place a bucket, and how many there were."""
        rows, column = self._folded(), NOT_FINITE[what]
        has = rows[rows[:, column] > 0]
        return has[:, X_BAD], int(has[:, column].sum())

    # --- buckets

    def _folded(self) -> _Floats:
        if self._y:
            self._fold()
        return self._rows

    def _fold(self) -> None:
        x, y = np.array(self._x, dtype=np.float64), np.array(self._y, dtype=np.float64)
        self._last = self._y[-1]
        self._x, self._y = [], []
        parts = [self._rows]
        at = min(self._stride - self._fill, len(y)) if len(self._rows) else 0
        if at:
            parts = [self._rows[:-1], _merged(self._rows[-1:], _bucket(x[None, :at], y[None, :at]))]
            self._fill += at
        whole = (len(y) - at) // self._stride
        end = at + whole * self._stride
        if whole:
            parts.append(_bucket(x[at:end].reshape(whole, -1), y[at:end].reshape(whole, -1)))
            self._fill = self._stride
        if end < len(y):
            parts.append(_bucket(x[None, end:], y[None, end:]))
            self._fill = len(y) - end
        rows = np.concatenate(parts)
        while len(rows) > LIMIT:
            pairs = len(rows) // 2
            odd = len(rows) % 2
            merged = _merged(rows[0 : 2 * pairs : 2], rows[1 : 2 * pairs : 2])
            if not odd:
                self._fill += self._stride
            rows = np.concatenate([merged, rows[-1:]]) if odd else merged
            self._stride *= 2
        self._rows = rows


def _bucket(x: _Floats, y: _Floats) -> _Floats:
    """Return the buckets of values of shape ``(buckets, values of each)``."""
    finite = np.isfinite(y)
    filled = finite.any(axis=1)
    rows = np.empty((len(y), 14))
    each = np.arange(len(y))
    places: list[Any] = [
        finite.argmax(axis=1),
        np.where(finite, y, math.inf).argmin(axis=1),
        np.where(finite, y, -math.inf).argmax(axis=1),
        y.shape[1] - 1 - finite[:, ::-1].argmax(axis=1),
    ]
    for column, place in zip((X_FIRST, X_MIN, X_MAX, X_LAST), places, strict=True):
        rows[:, column] = np.where(filled, x[each, place], math.nan)
        rows[:, column + 1] = np.where(filled, y[each, place], math.nan)
    with np.errstate(over="ignore"):
        rows[:, SUM] = np.where(finite, y, 0.0).sum(axis=1)
    rows[:, COUNT] = finite.sum(axis=1)
    rows[:, X_BAD] = np.where(finite.all(axis=1), math.nan, x[each, (~finite).argmax(axis=1)])
    rows[:, NANS] = np.isnan(y).sum(axis=1)
    rows[:, ABOVE] = (y == math.inf).sum(axis=1)
    rows[:, BELOW] = (y == -math.inf).sum(axis=1)
    return rows


def _merged(first: _Floats, second: _Floats) -> _Floats:
    """Return one bucket for each of ``first`` and the one of ``second`` that follows it."""
    rows = first.copy()

    def take(where: NDArray[np.bool_], columns: slice) -> None:
        rows[where, columns] = second[where, columns]

    empty = np.isnan(first[:, Y_FIRST])
    take(empty, slice(X_FIRST, Y_FIRST + 1))
    take(empty | (second[:, Y_MIN] < first[:, Y_MIN]), slice(X_MIN, Y_MIN + 1))
    take(empty | (second[:, Y_MAX] > first[:, Y_MAX]), slice(X_MAX, Y_MAX + 1))
    take(~np.isnan(second[:, Y_LAST]), slice(X_LAST, Y_LAST + 1))
    take(np.isnan(first[:, X_BAD]), slice(X_BAD, X_BAD + 1))
    with np.errstate(over="ignore"):
        rows[:, SUM] += second[:, SUM]
    for column in (COUNT, NANS, ABOVE, BELOW):
        rows[:, column] += second[:, column]
    return rows
