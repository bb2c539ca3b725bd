"""Buckets: what many values of a scalar amount to, in columns.

A bucket has the values whose steps share a cell of a grid: cells are a power of two of steps wide, and one begins at 0.
So buckets of half the width always make up whole ones, and those that are over never change.

Exact: smallest and largest are those of the values; numbers are whole; sums are added one by one, in the order of the
    values, wherever the additions were broken off meanwhile, so that they are the same bit for bit.
Not finite: NaN and infinities are counted, and are in no extreme, no sum and no weight. So is, as an infinity, an
    integer that no double can hold.
Counts: a value that stands for ``count`` samples is their sum. What is drawn of it is the mean, ``value / count``; the
    mean of a bucket is the sum of its values by its weight, the sum of their counts. One of no samples is drawn as it
    is, and has no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from asynchub.columns import Array

__all__ = ("Buckets", "fold", "joined", "of_values", "reduce")


class Buckets(NamedTuple):
    """Buckets, or values, in columns of one length, in the order in which their first values came.

    Attributes:
        width: steps from the beginning of a bucket to that of the next, a power of two; 1 of single values, too.
        first: the step of the first value in each.
        min: the smallest finite value, as it is drawn; NaN if there is none.
        max: the largest finite one.
        sum: the sum of the finite values.
        weight: samples that these stand for.
        points: how many values there are, those that are not finite included.
        nan: how many of them are NaN.
        plus_inf: how many are infinite, above 0.
        minus_inf: how many are infinite, below 0.
        first_seq: ``seq`` of the first value.
        last_seq: ``seq`` of the last one.
        times: when the first value was published, in seconds since the epoch, to a millisecond.
    """

    width: int
    first: Array
    min: Array
    max: Array
    sum: Array
    weight: Array
    points: Array
    nan: Array
    plus_inf: Array
    minus_inf: Array
    first_seq: Array
    last_seq: Array
    times: Array

    @property
    def columns(self) -> tuple[Array, ...]:
        """All but the width."""
        return (
            *(self.first, self.min, self.max, self.sum, self.weight, self.points),
            *(self.nan, self.plus_inf, self.minus_inf, self.first_seq, self.last_seq, self.times),
        )

    @property
    def size(self) -> int:
        """How many buckets there are."""
        return len(self.first)

    @property
    def steps(self) -> Array:
        """The step at which each begins."""
        cells: Array = self.first & -self.width
        return cells

    @property
    def means(self) -> Array:
        """The mean over the samples of each; NaN where there is no finite value, or no sample."""
        with np.errstate(all="ignore"):
            means: Array = np.where(self.weight > 0, self.sum / self.weight, np.nan)
        return means

    @property
    def not_finite(self) -> Array:
        """How many values of each are NaN or infinite."""
        numbers: Array = self.nan + self.plus_inf + self.minus_inf
        return numbers

    @classmethod
    def none(cls, width: int = 1) -> Self:
        """Return no buckets of a width."""
        return cls(width, *(np.empty(0, dtype) for dtype in DTYPES))

    def take(self, which: Array | slice) -> Buckets:
        """Return some of them: those at indexes, where a mask says so, or of a slice."""
        return Buckets(self.width, *(column[which] for column in self.columns))


FEW = 16
"""Buckets that make up one, at most, for which there is a faster way."""
DTYPES = ("<i8", "<f8", "<f8", "<f8", "<f8", "<i8", "<i8", "<i8", "<i8", "<i8", "<i8", "<f8")
"""Those of the columns."""


def of_values(
    steps: Array, values: Array, counts: Array, seqs: Array | None = None, times: Array | None = None
) -> Buckets:
    """Return values as buckets of one value each, in their order.

    Args:
        steps: the step of each.
        values: the values: numbers of any dtype, or Python numbers as objects.
        counts: how many samples each is the sum over; as ``values``.
        seqs: ``seq`` of each; None for 0, 1, 2, …
        times: when each was published, in seconds since the epoch; None for not known.
    """
    size = len(steps)
    numbers, weights = _doubles(values) + 0.0, _doubles(counts)  # no -0.0: which zero is the smaller is not defined
    seqs = np.arange(size) if seqs is None else seqs
    times = np.full(size, np.nan) if times is None else np.rint(times * 1000.0) / 1000.0
    drawn = numbers
    if not bool((weights == 1).all()):
        with np.errstate(all="ignore"):
            drawn = np.where((weights == 0) | (weights == 1), numbers, numbers / weights) + 0.0
    ones, none = np.ones(size, np.int64), np.zeros(size, np.int64)
    finite = np.isfinite(drawn)
    if bool(finite.all()):
        return Buckets(1, steps, drawn, drawn, numbers, weights, ones, none, none, none, seqs, seqs, times)
    drawn_finite = np.where(finite, drawn, np.nan)
    nan, plus, minus = (mask.astype(np.int64) for mask in (np.isnan(drawn), drawn == np.inf, drawn == -np.inf))
    sums, weights = np.where(finite, numbers, 0.0), np.where(finite, weights, 0.0)
    return Buckets(1, steps, drawn_finite, drawn_finite, sums, weights, ones, nan, plus, minus, seqs, seqs, times)


def _doubles(numbers: Array) -> Array:
    """Return numbers as doubles; an integer beyond them as an infinity."""
    if numbers.dtype != object:
        return numbers.astype(np.float64, copy=False)
    doubles = np.empty(len(numbers))
    for index, number in enumerate(numbers.tolist()):
        try:
            doubles[index] = number
        except OverflowError:
            doubles[index] = np.inf if number > 0 else -np.inf
    return doubles


def joined(parts: Sequence[Buckets], width: int) -> Buckets:
    """Return parts, one after the other, as buckets of a width."""
    full = [part for part in parts if part.size]
    if len(full) < 2:
        return full[0]._replace(width=width) if full else Buckets.none(width)
    return Buckets(width, *(np.concatenate(columns) for columns in zip(*(part.columns for part in full), strict=True)))


def fold(buckets: Buckets, starts: Array, width: int) -> Buckets:
    """Return one bucket for each run of them.

    Args:
        buckets: at least one, in the order of ``seq`` within each run.
        starts: index of the first of each run, from 0 on, increasing.
        width: of what is returned.
    """
    size = len(starts)
    if size == buckets.size:
        return buckets._replace(width=width)
    ends = np.append(starts[1:], buckets.size)
    whose = np.repeat(np.arange(size), ends - starts)
    with np.errstate(all="ignore"):
        return Buckets(
            width,
            buckets.first[starts],
            _extremes(np.fmin, buckets.min, starts),
            _extremes(np.fmax, buckets.max, starts),
            np.bincount(whose, buckets.sum),  # adds one by one, in order; other sums do so in pairs
            np.bincount(whose, buckets.weight),
            np.bincount(whose, buckets.points).astype(np.int64),
            _totals(buckets.nan, starts),
            _totals(buckets.plus_inf, starts),
            _totals(buckets.minus_inf, starts),
            buckets.first_seq[starts],
            buckets.last_seq[ends - 1],
            buckets.times[starts],
        )


def _extremes(least: np.ufunc, column: Array, starts: Array) -> Array:
    """Return the extreme of each run of numbers; where nearly all are of one length, many times as fast."""
    length = int(starts[1] - starts[0]) if len(starts) > FEW else 0
    inner = starts[1:-1]
    if not 1 < length <= FEW or not bool((np.diff(starts[1:]) == length).all()):
        return np.asarray(least.reduceat(column, starts))
    body = column[inner[0] : starts[-1]].reshape(-1, length)
    found = np.empty(len(starts))
    found[0], found[-1] = least.reduce(column[: inner[0]]), least.reduce(column[starts[-1] :])
    middle = found[1:-1]
    middle[:] = body[:, 0]
    for number in range(1, length):
        least(middle, body[:, number], out=middle)
    return found


def _totals(numbers: Array, starts: Array) -> Array:
    """Return the sum of each run of numbers, which are nearly always 0."""
    totals: Array = np.add.reduceat(numbers, starts) if numbers.any() else np.zeros(len(starts), np.int64)
    return totals


def reduce(buckets: Buckets, factor: int) -> Buckets:
    """Return buckets ``factor`` times as wide, in the order of steps, each step once.

    Args:
        buckets: buckets of a width, or values, whose steps may go back and come again.
        factor: a power of two.
    """
    width = buckets.width * factor
    cells = buckets.first & -width
    if not buckets.size:
        return buckets._replace(width=width)
    if bool((cells[1:] < cells[:-1]).any()):
        order = np.argsort(cells, kind="stable")
        buckets, cells = buckets.take(order), cells[order]
    return fold(buckets, np.flatnonzero(np.append(True, cells[1:] != cells[:-1])), width)
