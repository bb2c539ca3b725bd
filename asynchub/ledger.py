"""What a history holds at one moment: its columns, side by side.

A ledger never changes: entries make a new one of it, on the same cells where they can, and what was read from the old
one stays true. Appending is amortised O(1), at ``max_length`` too. Of the ledgers that came of one another only the
newest may be extended, and by one thread at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from asynchub.columns import Array, Column, decode_column, encode_column, packed_numbers
from asynchub.errors import ArgumentError, CorruptStateError
from asynchub.windows import BLOCK, WindowedColumn

__all__ = (
    "FIELDS",
    "UNSTAMPED",
    "Ledger",
    "Records",
    "Sliceable",
    "Snapshot",
    "Stamp",
    "numbers",
    "packed_steps",
    "whole",
)

FIELDS = 5
"""Items for each entry in a list of entries: ``seq, time, step, value, count``, again and again."""


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
FLOAT64, INT64 = np.dtype(np.float64), np.dtype(np.int64)
MAX_STORED = 2**28
"""Values that a stored ledger may have at most."""


class Records(NamedTuple):
    """What a history recorded for a hub, in the order of ``seq``: read-only columns of one length.

    Attributes:
        seqs: ``seq`` of each event.
        times: when each was published, in seconds since the epoch.
        steps: the step each belongs to; ``NO_STEP`` where there is none.
        values: the values.
        counts: how many samples each value is the sum over.
    """

    seqs: Array
    times: Array
    steps: Array
    values: Array
    counts: Array


class Snapshot(NamedTuple):
    """What a history holds by now: read-only columns, oldest first, which nothing changes later.

    Attributes:
        values: the values.
        counts: how many samples each is the sum over.
        times: when each was published, in seconds since the epoch; NaN if it came from no hub.
        steps: the step each belongs to; ``NO_STEP`` where there is none.
        pending: how many values were published before, and are still on their way from a device, or behind one.
    """

    values: Array
    counts: Array
    times: Array
    steps: Array
    pending: int


class Ledger(NamedTuple):
    """Values with their counts, oldest first, and what their events said.

    Attributes:
        values: the values.
        counts: their counts; as many, unless somebody assigned others.
        stamps: seqs, times and steps beside ``values``; None while nothing came from a hub.
        increasing: whether all values are stamped, in the order of ``seq``.
        taken: of the entries that were folded in last, the first one's time, the very object.
        took: how many items they had.
    """

    values: WindowedColumn
    counts: WindowedColumn
    stamps: tuple[Column, ...] | None = None
    increasing: bool = False
    taken: float | None = None
    took: int = 0

    @classmethod
    def unfilled(cls) -> Ledger:
        """Return an empty ledger whose dtypes are those of its first entry."""
        # every dtype that a number can have is a promotion of bool
        return cls(WindowedColumn(np.empty(0, np.bool_)), WindowedColumn(np.empty(0, np.bool_)), increasing=True)

    def extended(self, items: list[Any], limit: float) -> Ledger:
        """Return this ledger with entries, at least one, at its end.

        Args:
            items: what to append: ``seq, time, step, value, count`` of the first, then of the second, ...
            limit: how many values are kept, an integer or infinity; 0 and below as in ``[-limit:]``.
        """
        if len(items) == FIELDS and (ledger := self._with_one(items, limit)) is not None:
            return ledger
        seqs, times, steps, values, counts = (items[field::FIELDS] for field in range(FIELDS))
        stamps = None
        if self.stamps is not None or max(seqs) != UNSTAMPED.seq:
            stamps = (packed_numbers("q", seqs), packed_numbers("d", times), packed_steps(steps))
        return self.joined(stamps, values, counts, limit, times[0], len(items))

    def _with_one(self, items: list[Any], limit: float) -> Ledger | None:
        """Return this ledger with one entry at its end, four times as fast; None if it is none of the usual ones."""
        seq, time, step, value, count = items
        values, counts, stamps = self.values, self.counts, self.stamps
        if (
            type(value) is not float
            or type(count) is not int
            or values.cells.dtype is not FLOAT64
            or counts.cells.dtype is not INT64
            or not -(2**63) <= count < 2**63
            or not values.cells.ndim == counts.cells.ndim == 1
            or not len(values) == len(counts) <= limit
        ):
            return None
        increasing = False
        if stamps is not None:
            newest = stamps[0].cells[stamps[0].stop - 1] if len(stamps[0]) else UNSTAMPED.seq
            increasing = self.increasing and bool(seq > newest)
            stamp = (seq, time, UNSTAMPED.step if step is None else step)
            stamps = tuple(column.with_one(part) for column, part in zip(stamps, stamp, strict=True))
        elif seq != UNSTAMPED.seq:
            return None
        full = 0 < limit == len(values)
        values, counts = values.with_one(value), counts.with_one(count)
        if full:
            values, counts = values.without(1), counts.without(1)
            stamps = stamps and tuple(column.without(1) for column in stamps)
        if not values.last % BLOCK:
            values.keep_up()
            counts.keep_up()
        return Ledger(values, counts, stamps, increasing, time, FIELDS)

    def joined(
        self,
        stamps: tuple[Array, Array, Array] | None,
        values: Array | Sequence[Any],
        counts: Array | Sequence[Any],
        limit: float,
        taken: float | None = None,
        took: int = 0,
    ) -> Ledger:
        """Return this ledger with columns of the same length, above 0, at its end.

        Args:
            stamps: seqs, times and steps; None if neither they nor what is here came from a hub.
            values: the values: Python numbers, or a float64 array.
            counts: their counts: Python numbers, or an int64 array.
            limit: as for ``extended``.
            taken: see the attribute.
            took: see the attribute.
        """
        added = len(values)
        old_values, old_counts, old_stamps = self.values.flat(), self.counts.flat(), self.stamps
        new_stamps: tuple[Column, ...] | None = None
        increasing = False
        if stamps is not None:
            if old_stamps is None:
                old_stamps = _unstamped(len(old_values))
            seqs = stamps[0]
            if self.increasing:
                newest = old_stamps[0].view[-1] if len(old_stamps[0]) else UNSTAMPED.seq
                increasing = bool(seqs[0] > newest and (seqs[1:] > seqs[:-1]).all())
            new_stamps = tuple(column.extended(some) for column, some in zip(old_stamps, stamps, strict=True))
        oldest = _surplus(len(old_values), added, limit)
        oldest_counts = _surplus(len(old_counts), added, limit) if oldest else 0
        new_values, new_counts = _with(old_values, values), _with(old_counts, counts)
        if oldest:
            new_values, new_counts = new_values.without(oldest), new_counts.without(oldest_counts)
            new_stamps = new_stamps and tuple(column.without(oldest) for column in new_stamps)
        new_values.keep_up()
        new_counts.keep_up()
        return Ledger(new_values, new_counts, new_stamps, increasing, taken, took)

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

    def packed(self, put: Callable[[Array], Any] = encode_column) -> dict[str, Any]:
        """Return this ledger as builtins.

        Args:
            put: makes what stands in the tree for a column.

        Raises:
            UnsupportedTypeError: the values have a dtype that has no stored form.
        """
        tree: dict[str, Any] = {}
        for name, column in (("values", self.values), ("counts", self.counts)):
            tree[name] = put(column.view.reshape(-1))
            if column.cells.ndim > 1:
                tree[f"{name}_shape"] = list(column.view.shape)
        if self.stamps is not None:
            tree["stamps"] = [put(column.view) for column in self.stamps]
        return tree

    @classmethod
    def unpacked(cls, tree: Mapping[str, Any], get: Callable[[Any], Array] | None = None) -> Ledger:
        """Return the ledger that ``packed``, or mmengine's class, made a tree of.

        Args:
            tree: the tree, from anywhere.
            get: gives the column for what stands in the tree; None for what ``encode_column`` returned.

        Raises:
            CorruptStateError: it is no such tree.
            LimitExceededError: a column has more than 2**28 values.
        """
        if "_log_history" in tree:
            try:
                return cls(numbers(tree["_log_history"]), numbers(tree.get("_count_history")))
            except ArgumentError as error:
                raise CorruptStateError(f"a stored history is damaged: {error}") from None
        get = get or _decoded
        values, counts = (_stored(tree, name, get) for name in ("values", "counts"))
        if tree.get("stamps") is None:
            return cls(values, counts, increasing=not len(values))
        stamps = tree["stamps"]
        if not isinstance(stamps, list | tuple) or len(stamps) != 3:
            raise CorruptStateError(f"the stamps of a history are three columns, got {stamps!r:.80}")
        arrays = [get(stamp) for stamp in stamps]
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


def _with(column: WindowedColumn, numbers: Array | Sequence[Any]) -> WindowedColumn:
    if not isinstance(numbers, np.ndarray):
        return column.with_numbers(numbers)
    return column.extended(numbers) if numbers.dtype == column.cells.dtype else column.with_numbers(numbers.tolist())


def packed_steps(steps: Sequence[int | None]) -> Array:
    """Return steps as an array of int64, with that of ``UNSTAMPED`` for None."""
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


def _decoded(column: Any) -> Array:
    return decode_column(column, max_length=MAX_STORED, writable=False)


def _stored(tree: Mapping[str, Any], name: str, get: Callable[[Any], Array]) -> WindowedColumn:
    array = get(tree.get(name))
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
