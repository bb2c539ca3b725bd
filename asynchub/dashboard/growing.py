"""Levels of buckets that grow: what comes goes into the open bucket of its key, or closes it and begins the next.

Level 0 is made of values, and each level above of the buckets of the one below, ``FACTOR`` times as wide. Which buckets
there are, and each bit of them, follows from the order of the values only, not from how many came at a time. Where the
steps of a key go back, a bucket is closed, too: then there are several of one step, which ``reduce`` makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, fold, joined

__all__ = ("FACTOR", "LEVELS", "Owned", "Pile", "ends_of", "grown", "merged", "tail", "together", "width_of")

BLOCK = 6
"""Level 0 has buckets of 2 to the power of this many values of the key that comes most often."""
FACTOR = 3
"""A level has buckets 2 to the power of this as wide as the one below."""
LEVELS = 10
FEW = 64
"""Buckets that are worth a part of their own: a part has fourteen arrays, and each of them some hundred bytes."""


class Owned(NamedTuple):
    """Buckets of many keys.

    Attributes:
        owners: number of the key of each.
        rows: the buckets.
    """

    owners: Array
    rows: Buckets

    def take(self, which: Array | slice) -> Owned:
        """Return some of them: those at indexes, where a mask says so, or of a slice."""
        return Owned(self.owners[which], self.rows.take(which))

    def of(self, owner: int) -> Buckets:
        """Return those of one key, if they are in the order of ``owners``."""
        if not len(self.owners):
            return self.rows
        start, stop = self.owners.searchsorted((owner, owner + 1)).tolist()
        return self.rows.take(slice(start, stop))

    def by_owner(self) -> Owned:
        """Return them in the order of ``owners``; those of one key stay in theirs."""
        if bool((self.owners[1:] >= self.owners[:-1]).all()):
            return self
        return self.take(np.argsort(self.owners, kind="stable"))

    @classmethod
    def none(cls, width: int = 1) -> Owned:
        """Return no buckets of a width."""
        return cls(np.empty(0, np.int64), Buckets.none(width))


def width_of(shift: int, level: int) -> int:
    """Return how many steps wide the buckets of a level are, if those of level 0 are ``2**shift`` wide."""
    return int(2 ** min(shift + FACTOR * level, 62))


def together(parts: Sequence[Owned], width: int) -> Owned:
    """Return parts, one after the other, as buckets of a width."""
    full = [part for part in parts if part.rows.size]
    if not full:
        return Owned.none(width)
    return Owned(np.concatenate([part.owners for part in full]), joined([part.rows for part in full], width))


class Pile:
    """Buckets of many keys that are added in parts, and asked for by key.

    Args:
        width: of the buckets.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.size = 0
        self._parts: list[Owned] = []
        self._sorted = True

    def add(self, part: Owned) -> None:
        """Add buckets, newer than all before."""
        if part.rows.size:
            self.size += part.rows.size
            while self._parts and self._parts[-1].rows.size <= part.rows.size + FEW:
                part = together([self._parts.pop(), part], self.width)
            self._parts.append(part)
            self._sorted = False

    def all(self) -> Owned:
        """Return all of them, in the order of ``owners``."""
        if not self._sorted:
            self._parts = [together(self._parts, self.width).by_owner()]
            self._sorted = True
        return self._parts[0] if self._parts else Owned.none(self.width)

    def of(self, owner: int) -> Buckets:
        """Return those of a key."""
        return self.all().of(owner)


def grown(opens: Sequence[Owned], values: Owned, shift: int) -> tuple[list[Owned], list[Owned]]:
    """Return the open buckets of each level, and those that were closed, after some values have come.

    Args:
        opens: the open buckets of each level before, in the order of ``owners``, at most one of a key.
        values: the values, those of each key in their order.
        shift: of the width of level 0.
    """
    after, closed = list(opens), [Owned.none(width_of(shift, level)) for level in range(len(opens))]
    for level in range(len(opens)):
        if not values.rows.size:
            break
        width = width_of(shift, level)
        rows = _folded(together([opens[level], values], width).by_owner(), width)
        is_last = np.append(rows.owners[1:] != rows.owners[:-1], True)
        after[level] = rows.take(is_last)
        closed[level] = values = rows.take(~is_last)
    return after, closed


def tail(opens: Sequence[Buckets], values: Buckets, shift: int, level: int) -> Buckets:
    """Return what a level of one key has beyond its closed buckets, when some more values have come.

    Args:
        opens: the open bucket of each level, if there is one.
        values: the values.
        shift: of the width of level 0.
        level: the level.
    """
    rows = values
    for number in range(level + 1):
        width = width_of(shift, number)
        rows = joined([opens[number], rows], width)
        if rows.size > 1:
            cells = rows.first & -width
            rows = fold(rows, np.flatnonzero(np.append(True, cells[1:] != cells[:-1])), width)
    return rows


def ends_of(rows: Owned, below: Owned, width: int) -> Owned:
    """Return what a level has beyond its closed buckets, of all keys, if nothing comes after the open ones.

    Args:
        rows: the open buckets of the level, in the order of ``owners``.
        below: what the level below has beyond its closed ones.
        width: of the buckets of the level.
    """
    parts = together([rows, below], width).by_owner()
    return _folded(parts, width) if parts.rows.size else parts


def _folded(rows: Owned, width: int) -> Owned:
    cells = rows.rows.first & -width
    differs = (cells[1:] != cells[:-1]) | (rows.owners[1:] != rows.owners[:-1])
    starts = np.flatnonzero(np.append(True, differs))
    return Owned(rows.owners[starts], fold(rows.rows, starts, width))


def merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return intervals in order, those that meet as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found
