"""The single values of buckets that were read from a journal, kept while a run goes on: at each update a viewer asks
for the same ones again, and for a few new ones.

Same: what a bucket has stays in it for as long as nothing was rewound; what comes next is added. After a rewind nothing
    is known.
Bounded: by ``most`` bytes. What was not asked for longest goes first; what is asked for at once does not drive itself
    out: as much of it as there is room for stays.
Threads: one at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Mapping
from typing import NamedTuple

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets, joined

__all__ = ("Missing", "Singles")

MOST_BYTES = 2**23
"""Of one run: some 250,000 values."""
OF_BUCKET = 16
"""Bytes of what is known of a bucket beside its values."""


class Missing(NamedTuple):
    """What is not known of some buckets of a key.

    Attributes:
        rows: buckets of which something is not; each begins with the first value that is not known.
        before: how many values of each are known.
    """

    rows: Buckets
    before: Array


class _Known(NamedTuple):
    """Values of a key.

    Attributes:
        firsts: ``seq`` of the first value of each bucket, increasing.
        lasts: that of the last one that is known.
        values: they.
    """

    firsts: Array
    lasts: Array
    values: Buckets

    @property
    def size(self) -> int:
        """How many bytes it has."""
        columns = {id(column): column for column in self.values.columns}
        own = sum(column.nbytes for column in columns.values() if column.strides != (0,))
        return own + OF_BUCKET * len(self.firsts)


NOTHING = _Known(np.empty(0, np.int64), np.empty(0, np.int64), Buckets.none())


class Singles:
    """Values of buckets, by key.

    Args:
        most: bytes that they may have.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._size = 0
        self._version: object = None
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def go_on(self, version: object) -> None:
        """Forget everything, unless it was of this version of the run."""
        if version != self._version:
            self._version, self._size = version, 0
            self._known.clear()

    def missing(self, wanted: Mapping[str, Buckets]) -> dict[str, Missing]:
        """Return what is not known of some buckets.

        Args:
            wanted: the buckets of each key, in the order of ``seq``.
        """
        for key in wanted:
            if key in self._known:
                self._known.move_to_end(key)
        return {key: _missing(self._known.get(key, NOTHING), rows) for key, rows in wanted.items()}

    def take(self, asked: Container[str], key: str, rows: Buckets, missing: Missing, values: Buckets) -> Buckets:
        """Return all values of buckets, and keep those that were not known, as far as there is room.

        Args:
            asked: the keys that are asked for at once.
            key: whose.
            rows: the buckets, in the order of ``seq``.
            missing: what was not known of them.
            values: the values of that.
        """
        known = self._known.get(key, NOTHING)
        if missing.rows.size:
            now = _with(known, missing, values)
            self._put(asked, key, known, now)
            known = now
        return _between(known.values, rows.first_seq, rows.last_seq)

    def _put(self, asked: Container[str], key: str, before: _Known, now: _Known) -> None:
        size = self._size - before.size + now.size
        for other in [one for one in self._known if one not in asked]:
            if size <= self._most:
                break
            size -= self._known.pop(other).size
        if size <= self._most:
            self._known[key] = now
        else:
            size += before.size - now.size
        self._size = size


def _missing(known: _Known, rows: Buckets) -> Missing:
    if not rows.size or not len(known.firsts):
        return Missing(rows, np.zeros(rows.size, np.int64))
    places = np.minimum(np.searchsorted(known.firsts, rows.first_seq), len(known.firsts) - 1)
    begun = known.firsts[places] == rows.first_seq
    lacking = ~begun | (known.lasts[places] < rows.last_seq)
    rows, places, begun = rows.take(lacking), places[lacking], begun[lacking]
    seqs, upto = known.values.first_seq, known.lasts[places]
    count = np.searchsorted(seqs, upto, side="right") - np.searchsorted(seqs, rows.first_seq)
    before = np.where(begun, count, 0)
    firsts = np.where(begun, upto + 1, rows.first_seq)
    return Missing(rows._replace(first_seq=firsts, points=rows.points - before), before)


def _with(known: _Known, missing: Missing, values: Buckets) -> _Known:
    """Return what is known with what was missing."""
    rows, begun = missing.rows, missing.before > 0
    lasts = known.lasts.copy()
    lasts[np.searchsorted(known.firsts, rows.first_seq[begun], side="right") - 1] = rows.last_seq[begun]
    firsts = np.concatenate([known.firsts, rows.first_seq[~begun]])
    lasts = np.concatenate([lasts, rows.last_seq[~begun]])
    if bool((firsts[1:] < firsts[:-1]).any()):
        order = np.argsort(firsts)
        firsts, lasts = firsts[order], lasts[order]
    whole = _lean([known.values, values])
    if bool((whole.first_seq[1:] < whole.first_seq[:-1]).any()):
        whole = _lean([whole.take(np.argsort(whole.first_seq))])
    return _Known(firsts, lasts, whole)


def _between(values: Buckets, firsts: Array, lasts: Array) -> Buckets:
    """Return the values from each of some ``seq`` to another."""
    begins = np.searchsorted(values.first_seq, firsts)
    ends = np.searchsorted(values.first_seq, lasts, side="right")
    if not len(begins):
        return values.take(slice(0, 0))
    first, last = int(begins[0]), int(ends[-1])
    if 2 * (last - first) > values.size and bool((begins[1:] == ends[:-1]).all()):
        return values.take(slice(first, last))  # a small part would hold all the others
    steps = np.zeros(values.size + 1, np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, ends, -1)
    return values.take(np.cumsum(steps[:-1]) > 0)


def _lean(parts: list[Buckets]) -> Buckets:
    """Return parts of values as one, of which columns that say the same, or the same of all, take no room."""
    parts = [part for part in parts if part.size] or [Buckets.none()]
    size = sum(part.size for part in parts)
    one, none, weight = (
        np.broadcast_to(np.int64(1), size),
        np.broadcast_to(np.int64(0), size),
        np.broadcast_to(1.0, size),
    )
    if all(map(_is_plain, parts)):
        first, drawn, seqs, times = (
            np.concatenate(columns)
            for columns in zip(*((part.first, part.min, part.first_seq, part.times) for part in parts), strict=True)
        )
        return Buckets(1, first, drawn, drawn, drawn, weight, one, none, none, none, seqs, seqs, times)
    values = joined(parts, 1)
    return values._replace(max=values.min, points=one, last_seq=values.first_seq)


def _is_plain(values: Buckets) -> bool:
    """Return whether all are finite and stand for one sample."""
    if values.weight.strides == (0,) and values.sum is values.min:  # it was found to be so
        return True
    return bool((values.weight == 1).all()) and bool((values.sum == values.min).all())
