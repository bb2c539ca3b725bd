"""What a history holds at one moment: its columns, side by side.

A ledger never changes: entries make a new one of it, on the same cells where they can, and what was read from the old
one stays true. Appending is amortised O(1), at ``max_length`` too. Of the ledgers that came of one another only the
newest may be extended, and by one thread at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np

from asynchub.columns import Array, Column, decode_column, encode_column, packed_numbers
from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.windows import WindowedColumn

__all__ = ("UNSTAMPED", "Entry", "Ledger", "Sliceable", "Stamp", "numbers", "whole")

Entry = tuple[int, float, int | None, str, int | float, int | float]
"""``(seq, time, step, key, value, count)``."""
SEQ, TIME, STEP, VALUE, COUNT = map(itemgetter, (0, 1, 2, 4, 5))


class Sliceable(Protocol):
    """What a column can be made of: a sequence, an array, a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...


class Stamp(NamedTuple):
    """What the event of a value said.

    Attributes:
        seq: its ``seq``.
        time: when it was published, in seconds since the epoch.
        step: the step it belongs to.
    """

    seq: int
    time: float
    step: int


UNSTAMPED = Stamp(-1, math.nan, int(np.iinfo(np.int64).min))
"""Stands beside a value that came from no hub; its ``step`` also where an event had none."""
MAX_STORED = 2**28
"""Values that a stored ledger may have at most."""


class Ledger(NamedTuple):
    """Values with their counts, oldest first, and what their events said.

    Attributes:
        values: the values.
        counts: their counts; as many, unless somebody assigned others.
        stamps: seqs, times and steps beside ``values``; None while nothing came from a hub.
        increasing: whether all values are stamped, in the order of ``seq``.
        taken: the last entry that was folded in.
        took: how many were folded in with it.
    """

    values: WindowedColumn
    counts: WindowedColumn
    stamps: tuple[Column, ...] | None = None
    increasing: bool = False
    taken: Entry | None = None
    took: int = 0

    @classmethod
    def unfilled(cls) -> Ledger:
        """Return an empty ledger whose dtypes are those of its first entry."""
        # every dtype that a number can have is a promotion of bool
        return cls(WindowedColumn(np.empty(0, np.bool_)), WindowedColumn(np.empty(0, np.bool_)), increasing=True)

    def extended(self, entries: list[Entry], limit: float) -> Ledger:
        """Return this ledger with ``entries``, at least one, at its end.

        Args:
            entries: what to append.
            limit: how many values are kept, an integer or infinity; 0 and below as in ``[-limit:]``.
        """
        added = len(entries)
        values, counts, stamps = self.values.flat(), self.counts.flat(), self.stamps
        increasing = False
        seq_list = list(map(SEQ, entries))
        if stamps is not None or max(seq_list) != UNSTAMPED.seq:
            if stamps is None:
                stamps = _unstamped(len(values))
            seqs = packed_numbers("q", seq_list)
            if self.increasing:
                newest = stamps[0].view[-1] if len(stamps[0]) else UNSTAMPED.seq
                increasing = bool(seqs[0] > newest and (seqs[1:] > seqs[:-1]).all())
            new = (seqs, packed_numbers("d", list(map(TIME, entries))), _steps(list(map(STEP, entries))))
            stamps = tuple(column.extended(some) for column, some in zip(stamps, new, strict=True))
        oldest = _surplus(len(values), added, limit)
        oldest_counts = _surplus(len(counts), added, limit) if oldest else 0
        values, counts = values.with_numbers(list(map(VALUE, entries))), counts.with_numbers(list(map(COUNT, entries)))
        if oldest:
            values, counts = values.without(oldest), counts.without(oldest_counts)
            stamps = stamps and tuple(column.without(oldest) for column in stamps)
        values.keep_up()
        counts.keep_up()
        return Ledger(values, counts, stamps, increasing, entries[-1], added)

    def shared(self) -> Ledger:
        """Return a ledger of the same values that may be extended beside this one."""
        stamps = self.stamps and tuple(column.shared() for column in self.stamps)
        return Ledger(self.values.shared(), self.counts.shared(), stamps, self.increasing)

    @property
    def times(self) -> Array:
        """When each value was published; NaN where it came from no hub."""
        return (self.stamps or _unstamped(len(self.values)))[1].view

    @property
    def steps(self) -> Array:
        """The step each value belongs to; that of ``UNSTAMPED`` where there is none."""
        return (self.stamps or _unstamped(len(self.values)))[2].view

    def records(self, since: int) -> tuple[Array, ...]:
        """Return seqs, times, steps, values and counts of what has a ``seq`` above ``since``, in that order."""
        stamps = self.stamps or _unstamped(0)
        size = min(len(stamps[0]), len(self.counts))
        columns = (*stamps, self.values.flat(), self.counts.flat())
        views = [column.view[len(column) - size :] for column in columns]
        seqs = views[0]
        if self.increasing:
            found: Any = slice(int(np.searchsorted(seqs, since, side="right")), None)
        else:
            found = np.flatnonzero(seqs > max(since, UNSTAMPED.seq))
            found = found[np.argsort(seqs[found], kind="stable")]
        views = [view[found] for view in views]
        for view in views:
            view.flags.writeable = False
        return tuple(views)

    def packed(self) -> dict[str, Any]:
        """Return this ledger as builtins.

        Raises:
            UnsupportedTypeError: the values have a dtype that has no stored form.
        """
        tree: dict[str, Any] = {}
        for name, column in (("values", self.values), ("counts", self.counts)):
            tree[name] = encode_column(column.view.reshape(-1))
            if column.cells.ndim > 1:
                tree[f"{name}_shape"] = list(column.view.shape)
        if self.stamps is not None:
            tree["stamps"] = [encode_column(column.view) for column in self.stamps]
        return tree

    @classmethod
    def unpacked(cls, tree: Mapping[str, Any]) -> Ledger:
        """Return the ledger that ``packed``, or mmengine's class, made a tree of.

        Raises:
            CorruptStateError: it is no such tree.
            LimitExceededError: a column has more than 2**28 values.
        """
        if "_log_history" in tree:
            try:
                return cls(numbers(tree["_log_history"]), numbers(tree.get("_count_history")))
            except ArgumentError as error:
                raise CorruptStateError(f"a stored history is damaged: {error}") from None
        values, counts = (_stored(tree, name) for name in ("values", "counts"))
        if tree.get("stamps") is None:
            return cls(values, counts, increasing=not len(values))
        stamps = tree["stamps"]
        if not isinstance(stamps, list | tuple) or len(stamps) != 3:
            raise CorruptStateError(f"the stamps of a history are three columns, got {stamps!r:.80}")
        arrays = [decode_column(stamp, max_length=MAX_STORED, writable=False) for stamp in stamps]
        if [array.dtype for array in arrays] != [np.int64, np.float64, np.int64]:
            raise CorruptStateError(f"the stamps of a history are i8, f8, i8, got {[str(one.dtype) for one in arrays]}")
        if {array.shape for array in arrays} != {values.view.shape}:
            raise CorruptStateError("a history has not as many stamps as values")
        seqs = arrays[0]
        increasing = not len(seqs) or bool(seqs[0] > UNSTAMPED.seq and (seqs[1:] > seqs[:-1]).all())
        return cls(values, counts, tuple(Column(array) for array in arrays), increasing)


def numbers(values: Any) -> WindowedColumn:
    """Return a column of a copy of ``values``.

    Raises:
        ArgumentError: they are not a sequence of numbers.
    """
    array = np.array(np.asarray(values))  # asked for a copy at once, a tensor warns
    if array.ndim and array.dtype.kind in "biufcOSU":
        return WindowedColumn(array)
    raise ArgumentError(f"a history is made of a sequence of numbers, got {type(values).__name__} of {array.dtype}")


def _steps(steps: list[int | None]) -> Array:
    try:
        return packed_numbers("q", steps)
    except struct.error:  # there is a None
        return packed_numbers("q", [UNSTAMPED.step if step is None else step for step in steps])


def whole(number: Any) -> float:
    """Return ``number`` as an int, or infinity.

    Raises:
        ArgumentError: it is neither.
    """
    if isinstance(number, int | float | np.integer | np.floating):
        if number == math.inf:
            return math.inf
        if number == number // 1:
            return int(number)
    raise ArgumentError(f"max_length must be a whole number, got {type(number).__name__}: {number!r:.80}")


def _unstamped(length: int) -> tuple[Column, ...]:
    """Return stamps of values that came from no hub, in one cell each."""
    return tuple(Column(np.broadcast_to(np.array(blank), length)) for blank in UNSTAMPED)


def _surplus(before: int, added: int, limit: float) -> int:
    """Return how many of the oldest go when values are added one by one, and each time cut to ``[-limit:]``."""
    if limit >= 0:
        return max(before + added - int(limit), 0) if 0 < limit < math.inf else 0
    return before + added - max(before + added * (1 + int(limit)), 0)


def _stored(tree: Mapping[str, Any], name: str) -> WindowedColumn:
    array = decode_column(tree.get(name), max_length=MAX_STORED, writable=False)
    shape = tree.get(f"{name}_shape")
    if shape is not None:
        well_formed = isinstance(shape, list | tuple) and 2 <= len(shape) <= 32
        if (
            not well_formed
            or any(type(size) is not int or size < 0 for size in shape)
            or math.prod(shape) != array.size
        ):
            raise CorruptStateError(f"{array.size} stored values have the shape {shape!r:.80}")
        array = array.reshape(shape)
    return WindowedColumn(array)
