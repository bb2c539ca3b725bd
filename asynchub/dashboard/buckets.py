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

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np

from asynchub.columns import Array

__all__ = ("Buckets", "each", "fold", "joined", "of_values", "reduce", "zeros")


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
        return self[1:]

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
        return cls(width, *NOTHING)

    def take(self, which: Array | slice) -> Buckets:
        """Return some of them: those at indexes, where a mask says so, or of a slice."""
        if isinstance(which, slice):
            return Buckets(self.width, *(column[which] for column in self.columns))
        return Buckets(self.width, *each(self.columns, lambda column: column[which]))


FEW = 16
"""Buckets that make up one, at most, for which there is a faster way."""
DTYPES = ("<i8", "<f8", "<f8", "<f8", "<f8", "<i8", "<i8", "<i8", "<i8", "<i8", "<i8", "<f8")
"""Those of the columns."""
NOTHING = tuple(np.empty(0, dtype) for dtype in DTYPES)
ZEROS = np.zeros(4096, np.int64)
ZEROS.flags.writeable = False


def zeros(size: int) -> Array:
    """Return whole numbers, all 0, which nobody may change: few, as in most buckets, take no memory of their own."""
    return ZEROS[:size] if size <= len(ZEROS) else np.zeros(size, np.int64)


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
        if not full:
            return Buckets.none(width)
        return full[0] if full[0].width == width else full[0]._replace(width=width)
    made: dict[tuple[int, ...], Array] = {}  # as of ``each``
    columns = []
    for same in zip(*(part.columns for part in full), strict=True):
        name = tuple(map(id, same))
        if name not in made:
            made[name] = np.concatenate(same)
        columns.append(made[name])
    return Buckets(width, *columns)


def each(columns: Iterable[Array], make: Callable[[Array], Array]) -> list[Array]:
    """Return what is made of each column; of columns that are one array, one: where all values are finite, three are.

    Args:
        columns: they.
        make: returns what a column becomes.
    """
    made: dict[int, Array] = {}
    found = []
    for column in columns:
        name = id(column)
        if name not in made:
            made[name] = make(column)
        found.append(made[name])
    return found


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
    runs = _even(starts, buckets.size) or _Runs(starts, buckets.size)
    with np.errstate(all="ignore"):
        nan, plus_inf, minus_inf = each((buckets.nan, buckets.plus_inf, buckets.minus_inf), runs.totals)
        return Buckets(
            width,
            runs.firsts(buckets.first),
            runs.extremes(np.fmin, buckets.min),
            runs.extremes(np.fmax, buckets.max),
            runs.sums(buckets.sum),
            runs.sums(buckets.weight),
            runs.sums(buckets.points),
            nan,
            plus_inf,
            minus_inf,
            runs.firsts(buckets.first_seq),
            runs.lasts(buckets.last_seq),
            runs.firsts(buckets.times),
        )


class _Runs:
    """Runs of buckets, each of which is to be one.

    Args:
        starts: index of the first of each.
        size: how many buckets there are in all.
    """

    def __init__(self, starts: Array, size: int) -> None:
        self._starts = starts
        self._ends = np.append(starts[1:], size)
        self._whose = np.repeat(np.arange(len(starts)), self._ends - starts)

    def firsts(self, column: Array) -> Array:
        """Return what the first of each run has."""
        return column.take(self._starts)

    def lasts(self, column: Array) -> Array:
        """Return what the last of each run has."""
        return column.take(self._ends - 1)

    def extremes(self, least: np.ufunc, column: Array) -> Array:
        """Return the extreme of each run."""
        return np.asarray(least.reduceat(column, self._starts))

    def sums(self, column: Array) -> Array:
        """Return the sum of each run, added one by one, in order; other sums add in pairs."""
        return np.bincount(self._whose, column).astype(column.dtype, copy=False)

    def totals(self, column: Array) -> Array:
        """Return the sum of each run of whole numbers, which are nearly always 0."""
        return self.sums(column) if column.any() else zeros(len(self._starts))


class _EvenRuns(_Runs):
    """The same where nearly all are of one length: many times as fast.

    Args:
        starts: index of the first of each.
        size: how many buckets there are in all.
        length: of the runs.
    """

    def __init__(self, starts: Array, size: int, length: int) -> None:
        self._starts, self._size, self._length = starts, size, length
        first, last, number = int(starts[1]), int(starts[-1]), len(starts)
        self._odd: list[tuple[int, slice]] = []  # those of another length, and the index of each
        begin, end = 0, number
        if first != length:
            self._odd.append((0, slice(0, first)))
            begin = 1
        if size - last != length:
            self._odd.append((number - 1, slice(last, size)))
            end = number - 1
        self._even = slice(begin, end)
        self._body = slice(first if begin else 0, last if end < number else size)

    def firsts(self, column: Array) -> Array:
        """Return what the first of each run has."""
        start = self._body.start
        return column.take(self._starts) if start else column[:: self._length].copy()

    def lasts(self, column: Array) -> Array:
        """Return what the last of each run has."""
        found = np.empty(len(self._starts), column.dtype)
        found[:-1] = column.take(self._starts[1:] - 1)
        found[-1] = column[-1]
        return found

    def extremes(self, least: np.ufunc, column: Array) -> Array:
        """Return the extreme of each run."""
        found = np.empty(len(self._starts), column.dtype)
        body, even = column[self._body].reshape(-1, self._length), found[self._even]
        least(body[:, 0], body[:, 1], out=even)
        for number in range(2, self._length):
            least(even, body[:, number], out=even)
        for index, part in self._odd:
            found[index] = least.accumulate(column[part])[-1]  # one by one, as above
        return found

    def sums(self, column: Array) -> Array:
        """Return the sum of each run, added one by one, in order."""
        return self.extremes(np.add, column)


def _even(starts: Array, size: int) -> _EvenRuns | None:
    """Return runs as even ones; None if they are not."""
    length = int(starts[2] - starts[1]) if len(starts) > FEW else 0
    if not 1 < length <= FEW or not bool((starts[2:] - starts[1:-1] == length).all()):
        return None
    return _EvenRuns(starts, size, length)


def reduce(buckets: Buckets, factor: int) -> Buckets:
    """Return buckets ``factor`` times as wide, in the order of steps, each step once.

    Args:
        buckets: buckets of a width, or values, whose steps may go back and come again.
        factor: a power of two.
    """
    width = buckets.width * factor
    if not buckets.size:
        return buckets._replace(width=width)
    cells = buckets.first & -width
    if (cells[1:] < cells[:-1]).any():
        order = np.argsort(cells, kind="stable")
        buckets, cells = buckets.take(order), cells[order]
    begins = np.empty(buckets.size, bool)
    begins[0] = True
    np.not_equal(cells[1:], cells[:-1], out=begins[1:])
    return fold(buckets, begins.nonzero()[0], width)
