"""What all ranks have of each scalar, made one: by collectives whose shape is the same on all ranks.

``Gathered`` has every rank send a row, ``[header | slots]``, to every other, and each rank computes the same from the
same bytes: one collective, for up to 64 ranks. ``Paired`` has the ranks add up and compare in the network, for more:
four collectives, whose size does not grow with the ranks. Both give the same bits to all ranks.

The slots of a row are those of the ``Layout``: its keys, in an order that all ranks share, and room for more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from asynchub.bridges.accumulating import ABSENT, COUNT, NON_FINITE, STEP, VALUE, ReductionKind, Slots

__all__ = ("Columns", "Floats", "Gathered", "Layout", "Paired", "Ranks")

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
FIELDS = 4
_NOTHING = (0.0, 0.0, ABSENT, 0.0)


class Ranks(Protocol):
    """A group of ranks that talk to each other; every call is made by all of them, in the same order.

    Attributes:
        index: which of them this is, from 0.
        numbers: what each of them is called: its rank in the whole run.
    """

    index: int
    numbers: Sequence[int]

    def gather(self, row: Floats, deadline: float) -> Floats:
        """Return the rows of all ranks, of shape ``(ranks, len(row))``; waits until ``deadline`` (monotonic)."""
        ...

    def total(self, row: Floats, deadline: float) -> Floats:
        """Return the sum of the rows of all ranks."""
        ...

    def largest(self, row: Floats, deadline: float) -> Floats:
        """Return the largest of the rows of all ranks, number by number."""
        ...

    def close(self) -> None:
        """Let go of the others: what they wait for fails."""
        ...


class Layout:
    """The keys that rows have slots for. All ranks extend theirs alike.

    Args:
        capacity: slots to begin with.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[str] = []
        self._known: set[str] = set()
        self.mark = 0.0
        """Tells layouts apart: 48 bits of a hash of the keys."""
        self._kinds: list[ReductionKind] = []

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def extend(self, found: Iterable[tuple[str, ReductionKind]]) -> None:
        """Give each key a slot that has none, in the order given; double the room until they fit."""
        for key, kind in found:
            if key not in self._known:
                self._known.add(key)
                self.keys.append(key)
                self._kinds.append(kind)
        while len(self.keys) > self.capacity:
            self.capacity *= 2
        digest = hashlib.sha256("\0".join(self.keys).encode("utf-8", "surrogatepass")).digest()
        self.mark = float(int.from_bytes(digest[:6], "big"))

    def of(self, *kinds: ReductionKind) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which slots are of one of ``kinds``."""
        return np.array([*(kind in kinds for kind in self._kinds)] + [False] * (self.capacity - len(self.keys)))

    def slots(self, slots: Slots) -> Floats:
        """Return ``slots`` as an array of shape ``(capacity, FIELDS)``."""
        rows = np.empty((self.capacity, FIELDS))
        rows[: len(self.keys)] = [slots.get(key, _NOTHING) for key in self.keys] or np.empty((0, FIELDS))
        rows[len(self.keys) :] = _NOTHING
        return rows


class Columns(NamedTuple):
    """What all ranks have together, one number for each slot.

    Attributes:
        value: by the kind of each.
        samples: over how many, of a mean and of the last; 1 else.
        non_finite: how many updates were NaN or infinite.
        ranks: how many ranks have something.
        lowest, highest: the index of the rank with the smallest and the largest value; NaN is neither.
    """

    value: Floats
    samples: Floats
    non_finite: Floats
    ranks: Floats
    lowest: Floats
    highest: Floats


def _comparable(slots: Floats, layout: Layout) -> Floats:
    """Return the value that each rank has of each slot, of shape as ``slots`` without its last axis."""
    value, count = slots[..., VALUE], slots[..., COUNT]
    with np.errstate(divide="ignore", invalid="ignore"):  # over no samples there is no mean: NaN or infinite
        return np.where(layout.of("mean"), value / count, value)


class Gathered:
    """What all ranks have, by one collective in which each hears from each.

    Attributes:
        low: the header, number by number the smallest of all ranks.
        high: the largest.

    Args:
        ranks: who takes part.
        header: of this rank; of the same length on all.
        slots: as ``Layout.slots`` returns it.
        layout: of the slots.
        deadline: until when to wait, by ``time.monotonic``.
    """

    def __init__(self, ranks: Ranks, header: Floats, slots: Floats, layout: Layout, deadline: float) -> None:
        self._layout = layout
        rows = ranks.gather(np.concatenate((header, slots.ravel())), deadline)
        headers = rows[:, : len(header)]
        self.low: Floats = headers.min(axis=0)
        self.high: Floats = headers.max(axis=0)
        self._slots = rows[:, len(header) :].reshape(len(rows), layout.capacity, FIELDS)

    def columns(self, deadline: float) -> Columns:
        """Return what they have together."""
        slots, layout = self._slots, self._layout
        there = slots[..., STEP] > ABSENT
        value = np.add.reduce(slots[..., VALUE], axis=0)  # along the first axis it adds rank by rank
        count = np.add.reduce(slots[..., COUNT], axis=0)
        smallest = np.minimum.reduce(np.where(there, slots[..., VALUE], np.inf), axis=0)
        largest = np.maximum.reduce(np.where(there, slots[..., VALUE], -np.inf), axis=0)
        newest = there & (slots[..., STEP] == slots[..., STEP].max(axis=0))
        last = len(slots) - 1 - newest[::-1].argmax(axis=0)
        every = np.arange(layout.capacity)
        value = np.where(layout.of("min"), smallest, np.where(layout.of("max"), largest, value))
        value = np.where(layout.of("last"), slots[last, every, VALUE], value)
        count = np.where(layout.of("last"), slots[last, every, COUNT], np.where(layout.of("mean"), count, 1.0))
        measured = _comparable(slots, layout)
        comparable = there & ~np.isnan(measured)
        comparable |= there & ~comparable.any(axis=0)  # of all NaN it is the first
        low = np.where(comparable, measured, np.inf).min(axis=0)
        high = np.where(comparable, measured, -np.inf).max(axis=0)
        return Columns(
            value=value,
            samples=count,
            non_finite=np.add.reduce(slots[..., NON_FINITE], axis=0),
            ranks=there.sum(axis=0).astype(float),
            lowest=(comparable & ((measured == low) | np.isnan(low))).argmax(axis=0).astype(float),
            highest=(comparable & ((measured == high) | np.isnan(high))).argmax(axis=0).astype(float),
        )


class Paired:
    """What all ranks have, added up and compared on the way; attributes and arguments as of ``Gathered``."""

    def __init__(self, ranks: Ranks, header: Floats, slots: Floats, layout: Layout, deadline: float) -> None:
        self._ranks = ranks
        self._layout = layout
        self._slots = slots
        self._there = slots[:, STEP] > ABSENT
        self._measured = _comparable(slots, layout)
        self._comparable = self._there & ~np.isnan(self._measured)
        low = np.where(self._comparable, -self._measured, -np.inf)
        high = np.where(self._comparable, self._measured, -np.inf)
        width = len(header)
        largest = ranks.largest(np.concatenate((header, -header, slots[:, STEP], low, high)), deadline)
        self.low: Floats = -largest[width : 2 * width]
        self.high: Floats = largest[:width]
        self._newest, low, self._high = largest[2 * width :].reshape(3, layout.capacity)
        self._low = -low

    def columns(self, deadline: float) -> Columns:
        """Return what they have together."""
        ranks, layout, slots, there = self._ranks, self._layout, self._slots, self._there
        measured, comparable = self._measured, self._comparable
        summed = np.where(layout.of("mean", "sum"), slots[:, VALUE], 0.0)
        parts = (summed, slots[:, COUNT], slots[:, NON_FINITE], there, there & ~comparable)
        totals = ranks.total(np.concatenate(parts), deadline).reshape(5, layout.capacity)
        value, count, non_finite, present, without = totals
        none = present == without  # of all NaN it is the first
        behind, at = float(len(ranks.numbers) - ranks.index), float(ranks.index + 1)
        marks = (
            np.where(comparable & (measured == self._low) | there & none, behind, 0.0),
            np.where(comparable & (measured == self._high) | there & none, behind, 0.0),
            np.where(there & (slots[:, STEP] == self._newest), at, 0.0),
        )
        lowest, highest, last = ranks.largest(np.concatenate(marks), deadline).reshape(3, layout.capacity)
        mine = there & (last == at)
        lasts = np.concatenate((np.where(mine, slots[:, VALUE], 0.0), np.where(mine, slots[:, COUNT], 0.0)))
        last_value, last_count = ranks.total(lasts, deadline).reshape(2, layout.capacity)
        compared = np.where(layout.of("min"), self._low, self._high)
        compared = np.where(without > 0, np.nan, compared)
        value = np.where(layout.of("min", "max"), compared, np.where(layout.of("last"), last_value, value))
        count = np.where(layout.of("last"), last_count, np.where(layout.of("mean"), count, 1.0))
        size = float(len(ranks.numbers))
        return Columns(value, count, non_finite, present, size - lowest, size - highest)
