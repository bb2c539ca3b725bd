"""Statistics of the newest values of a column.

Sums and extremes of any window take microseconds at any length: whole blocks of values have their partial results
computed once, by the same NumPy operations, and a window is what is left of two blocks and the partial results
between. They equal NumPy's on the same slice: exactly for integers and extremes, to the last few ulp relative to
``sum(abs(x))`` for sums of floats, which are added in another order. NaN and infinities spread as in NumPy. Booleans,
objects, complex and half-precision numbers have no partial results: their windows are computed from the values.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np

from asynchub.columns import Array, Column
from asynchub.errors import ArgumentError, EmptyHistoryError

__all__ = ("BLOCK", "DIRECT", "WindowStatistics", "WindowedColumn", "begin")

BLOCK = 1024
"""Values in a block."""
DIRECT = 32 * BLOCK
"""A window of at most so many values is computed from the values alone, which is faster."""
MISSING = 16
"""Blocks whose partial results are computed in one go while the column grows."""
PARTIAL_KINDS = {np.dtype(kind) for kind in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}
OPERATIONS = (np.add, np.minimum, np.maximum)
ADD, MINIMUM, MAXIMUM = range(3)
EMA_CUT = 60
"""Half-lives after which a value counts as nothing: its weight is below 2**-60 of the newest one's."""


def begin(window_size: int, length: int) -> int:
    """Return where the slice ``[-window_size:]`` of ``length`` values begins; a window of 0 is all of them."""
    if window_size > 0:
        return max(length - window_size, 0)
    return min(-window_size, length)


class WindowedColumn(Column):
    """A column that knows the partial results of its whole blocks.

    Item ``i`` of the partial results is of the values ``i * BLOCK`` up to ``(i + 1) * BLOCK``, counted since the
    beginning of the column, so it stays the same while the column grows and shrinks. Several threads may compute the
    missing ones at once: they write the same.
    """

    __slots__ = ("_blocks",)

    def __init__(self, cells: Array, start: int = 0, stop: int | None = None, offset: int = 0) -> None:
        Column.__init__(self, cells, start, stop, offset)
        self._blocks: tuple[Column, ...] = ()

    def _on(self, cells: Array, start: int, stop: int, offset: int) -> Self:
        column = self.__class__(cells, start, stop, offset)
        if cells.dtype is self.cells.dtype:
            column._blocks = self._blocks
        return column

    def shared(self) -> Self:
        """Return this column with no spare cells; see ``Column.shared``."""
        column = super().shared()
        column._blocks = tuple(part.shared() for part in self._blocks)
        return column

    def keep_up(self) -> None:
        """Compute missing partial results if there are many, so that a window asked for later waits for few."""
        known = self._blocks[ADD].last if self._blocks else self.first // BLOCK
        if self.last // BLOCK - known >= MISSING:
            self.blocks()

    def blocks(self) -> tuple[Column, ...]:
        """Return the partial sums, minima and maxima of all whole blocks; nothing if there are none."""
        blocks, end = self._blocks, self.last // BLOCK
        if blocks and blocks[ADD].last == end:
            return blocks
        first = -(-self.first // BLOCK)
        if end <= first or self.cells.ndim != 1 or self.cells.dtype not in PARTIAL_KINDS:
            return ()
        if blocks and blocks[ADD].last < first:
            blocks = ()
        done = blocks[ADD].last if blocks else first
        rows = self.between(done * BLOCK, end * BLOCK).reshape(-1, BLOCK)
        with np.errstate(all="ignore"):  # what NumPy says about a window, it says when the window is asked for
            parts = [operation.reduce(rows, axis=1) for operation in OPERATIONS]
        if blocks:
            kept = [known.without(first - known.first) for known in blocks]
            blocks = tuple(known.extended(part) for known, part in zip(kept, parts, strict=True))
        else:
            blocks = tuple(Column(part, offset=first) for part in parts)
        self._blocks = blocks
        return blocks

    def sum(self, window_size: int) -> Any:
        """Return the sum of the slice ``[-window_size:]``, a NumPy scalar of the dtype that NumPy sums in."""
        start, stop = self.start + begin(window_size, self.stop - self.start), self.stop
        if stop - start <= DIRECT or not (blocks := self.blocks()):
            return np.add.reduce(self.cells[start:stop], axis=None)
        first, last = self.offset + start, self.offset + stop
        low, high = -(-first // BLOCK), last // BLOCK
        with np.errstate(all="ignore"):
            total = (
                np.add.reduce(self.between(first, low * BLOCK))
                + np.add.reduce(blocks[ADD].between(low, high))
                + np.add.reduce(self.between(high * BLOCK, last))
            )
        if np.isfinite(total) or self._certain(total, window_size):
            return total
        return np.add.reduce(self.between(first, last))  # the order of adding may matter, and NumPy may warn

    def _certain(self, total: Any, window_size: int) -> bool:
        """Tell whether a sum that is not finite is so in every order: for a NaN, or infinities of one sign."""
        lowest, highest = self.min(window_size), self.max(window_size)
        if np.isnan(lowest):
            return True
        rising = total == highest == np.inf and lowest > -np.inf
        falling = total == lowest == -np.inf and highest < np.inf
        return bool(rising or falling)

    def min(self, window_size: int) -> Any:
        """Return the smallest value of the slice ``[-window_size:]``, a NumPy scalar.

        Raises:
            EmptyHistoryError: there are no values.
        """
        return self._extreme(MINIMUM, window_size)

    def max(self, window_size: int) -> Any:
        """Return the largest value of the slice ``[-window_size:]``, a NumPy scalar.

        Raises:
            EmptyHistoryError: there are no values.
        """
        return self._extreme(MAXIMUM, window_size)

    def _extreme(self, which: int, window_size: int) -> Any:
        operation = OPERATIONS[which]
        start, stop = self.start + begin(window_size, self.stop - self.start), self.stop
        if stop - start <= DIRECT or not (blocks := self.blocks()):
            values = self.cells[start:stop]
            if not values.size:  # the text is NumPy's, which mmengine lets through
                name = operation.__name__
                raise EmptyHistoryError(f"zero-size array to reduction operation {name} which has no identity")
            return operation.reduce(values, axis=None)
        first, last = self.offset + start, self.offset + stop
        low, high = -(-first // BLOCK), last // BLOCK
        extreme = operation.reduce(blocks[which].between(low, high))
        for rest in (self.between(first, low * BLOCK), self.between(high * BLOCK, last)):
            if len(rest):
                extreme = operation(extreme, operation.reduce(rest))
        return extreme


class WindowStatistics(ABC):
    """Statistics of a history's newest values, whatever their counts.

    ``window_size`` is how many values: None, 0, or more than there are for all; ``-k`` for all but the oldest ``k``.
    """

    @abstractmethod
    def _latest(self, window_size: int | None) -> Array:
        """Return the values of a window, oldest first."""

    def ema(self, half_life: float, window_size: int | None = None) -> np.float64:
        """Return the bias-corrected exponential moving average of the latest values.

        Args:
            half_life: how many values back a weight has halved; above 0. Values more than 60 half-lives back, whose
                weight is below 2**-60, are left out.
            window_size: how many values, as for ``mean``.

        Raises:
            WindowTypeError: ``window_size`` is not an int.
            EmptyHistoryError: there are no values.
            ArgumentError: ``half_life`` is not above 0, or the values are not real numbers.

        Source:
            Kingma and Ba, "Adam", ICLR 2015, section 3: dividing by the sum of the weights undoes the pull towards a
            start at zero.
        """
        half_life = _number("half_life", half_life)
        if not half_life > 0:  # also refuses NaN
            raise ArgumentError(f"half_life must be above 0, got {half_life}")
        values = self._latest(window_size)
        reach = EMA_CUT * half_life + 1
        values = _reals("an average", values.reshape(-1)[-int(reach) :] if reach < values.size else values)
        with np.errstate(all="ignore"):
            weights = np.exp2(np.arange(1 - len(values), 1) / half_life)
            return np.float64(weights @ values / weights.sum())

    def std(self, window_size: int | None = None, ddof: float = 0) -> np.float64:
        """Return the standard deviation of the latest values, in their unit.

        Args:
            window_size: how many values, as for ``mean``.
            ddof: what to subtract from their number in the divisor: 0 for the values as they are, 1 for an unbiased
                estimate of the variance of what they were drawn from.

        Raises:
            WindowTypeError: ``window_size`` is not an int.
            EmptyHistoryError: there are no values.
            ArgumentError: there are not more than ``ddof`` values, or they are not real numbers.
        """
        values = _reals("a standard deviation", self._latest(window_size))
        ddof = _number("ddof", ddof)
        if not len(values) > ddof:  # also refuses NaN
            raise ArgumentError(f"ddof must be below the number of values, {len(values)}, got {ddof}")
        with np.errstate(all="ignore"):
            return np.float64(np.std(values, ddof=ddof))

    def percentile(self, q: float, window_size: int | None = None) -> np.float64:
        """Return the number that ``q`` percent of the latest values lie below, interpolated linearly between two.

        Args:
            q: from 0 to 100.
            window_size: how many values, as for ``mean``.

        Raises:
            WindowTypeError: ``window_size`` is not an int.
            EmptyHistoryError: there are no values.
            ArgumentError: ``q`` is out of range, or the values are not real numbers.

        Source:
            Hyndman and Fan, "Sample Quantiles in Statistical Packages", The American Statistician 50 (1996),
            definition 7.
        """
        q = _number("q", q)
        if not 0 <= q <= 100:
            raise ArgumentError(f"q must be from 0 to 100, got {q}")
        values = _reals("a percentile", self._latest(window_size))
        with np.errstate(all="ignore"):
            return np.float64(np.percentile(values, q))

    def slope(self, window_size: int | None = None) -> np.float64:
        """Return the slope of the least-squares line through the latest values, in their unit per update.

        Args:
            window_size: how many values, as for ``mean``.

        Raises:
            WindowTypeError: ``window_size`` is not an int.
            EmptyHistoryError: there are fewer than two values.
            ArgumentError: the values are not real numbers.

        Source:
            Draper and Smith, "Applied Regression Analysis", 3rd ed. 1998, section 1.2: the products of the deviations
            of x and y, summed, over the squares of those of x, whose sum here is ``n * (n * n - 1) / 12``.
        """
        values = _reals("a slope", self._latest(window_size))
        size = len(values)
        if size < 2:
            raise EmptyHistoryError("a slope needs two values, there is one; please call update first")
        with np.errstate(all="ignore"):
            deviations = np.arange(size) - (size - 1) / 2
            return np.float64(deviations @ (values - values.mean()) / (size * (size * size - 1) / 12))


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float | np.integer | np.floating):
        with contextlib.suppress(OverflowError):
            return float(value)
    raise ArgumentError(f"{name} must be a real number, got {type(value).__name__}: {value!r:.80}")


def _reals(what: str, values: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ``values`` as float64 of one axis, if there are any."""
    if not values.size:
        raise EmptyHistoryError(f"{what} needs values, there are none; please call update first")
    try:
        if values.dtype.kind in "biufO":
            return values.reshape(-1).astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{what} needs numbers that a float can hold, got {error}") from None
    raise ArgumentError(f"{what} needs real numbers, got {values.dtype}")
