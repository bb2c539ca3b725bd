"""Buckets as bytes: each column in the shortest of some forms that are read at once.

Exact: all but the times, which are kept to a millisecond.
The forms are written down in ``docs/formats/pyramid.md``.
"""

from __future__ import annotations

import struct

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import DTYPES, Buckets
from asynchub.errors import CorruptStateError

__all__ = ("pack", "unpack")

ALIGN = 8
HEAD = struct.Struct("<I12B")
"""How many buckets there are, and the form of each column."""
RAW, CONSTANT, SINGLE, SAME, PROGRESSION, BYTES, SHORTS, INTS, TIMES_2, TIMES_4 = range(10)
DISTANCES = {BYTES: "|u1", SHORTS: "<u2", INTS: "<u4"}
TICKS = {TIMES_2: "<i2", TIMES_4: "<i4"}
TICKS_PER_SECOND = 1000.0
"""To which times are kept."""
MIN, MAX, SUM, WEIGHT, POINTS, FIRST_SEQ, LAST_SEQ, TIMES = 1, 2, 3, 4, 5, 9, 10, 11
LIKE = {MAX: MIN, SUM: MIN, WEIGHT: POINTS}
"""Columns that often have what one before, or the one after, has."""
ORDER = (0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11)
"""In which the columns are stored: what another one may be like comes before it."""


def pack(buckets: Buckets) -> bytes:
    """Return buckets, at least one, as bytes, a multiple of 8."""
    columns = list(buckets.columns)
    columns[LAST_SEQ] = buckets.last_seq - buckets.first_seq
    forms, parts = [], []
    for number in ORDER:
        column = np.ascontiguousarray(columns[number])
        if number in LIKE and _is_same(column, columns[LIKE[number]]):
            form, data = SAME, b""
        elif number == TIMES:
            form, data = _pack_times(column)
        else:
            form, data = _pack_doubles(column) if column.dtype == np.float64 else _pack_integers(column)
        forms.append(form)
        parts.append(data + bytes(-len(data) % ALIGN))
    return HEAD.pack(buckets.size, *forms) + b"".join(parts)


def _is_same(column: Array, other: Array) -> bool:
    return bool((column.view("<u8") == np.ascontiguousarray(other.astype(column.dtype)).view("<u8")).all())


def _pack_doubles(column: Array) -> tuple[int, bytes]:
    bits = column.view("<u8")
    if bool((bits == bits[0]).all()):
        return CONSTANT, column[:1].tobytes()
    with np.errstate(all="ignore"):
        narrow = column.astype("<f4")
        exact = bool((narrow.astype("<f8").view("<u8") == bits).all())
    return (SINGLE, narrow.tobytes()) if exact else (RAW, column.tobytes())


def _pack_integers(column: Array) -> tuple[int, bytes]:
    if bool((column == column[0]).all()):
        return CONSTANT, column[:1].tobytes()
    distances = np.diff(column)
    if bool((column[1:] >= column[:-1]).all()) and int(distances.min()) >= 0:  # it may have overflowed
        least = int(distances.min())
        most = int(distances.max()) - least
        head = np.array([column[0], least], "<i8").tobytes()
        if not most:
            return PROGRESSION, head
        for form, dtype in DISTANCES.items():
            if most <= np.iinfo(dtype).max:
                return form, head + (distances - least).astype(dtype).tobytes()
    return RAW, column.tobytes()


def _pack_times(times: Array) -> tuple[int, bytes]:
    with np.errstate(all="ignore"):
        ticks = np.rint(times * TICKS_PER_SECOND)
        distances = np.diff(ticks)
        most = float(np.abs(distances).max(initial=0.0))  # NaN of what is not known
    for form, dtype in TICKS.items():
        if most <= np.iinfo(dtype).max and abs(ticks[0]) < 2**53:
            return form, ticks[:1].astype("<i8").tobytes() + distances.astype(dtype).tobytes()
    return _pack_doubles(times)


def unpack(data: bytes, width: int) -> Buckets:
    """Return the buckets, of a width, that ``pack`` made bytes of; they may share memory with ``data``.

    Raises:
        CorruptStateError: the bytes are no such thing.
    """
    columns: list[Array] = [np.empty(0)] * len(ORDER)
    try:
        size, *forms = HEAD.unpack_from(data)
        place = HEAD.size
        for form, number in zip(forms, ORDER, strict=True):
            dtype = DTYPES[number]
            if form == SAME:
                columns[number] = columns[LIKE[number]].astype(dtype, copy=False)
            else:
                columns[number], taken = _unpacked(data, place, size, form, dtype)
                place += taken + -taken % ALIGN
    except (KeyError, ValueError, OverflowError, struct.error) as error:
        raise CorruptStateError(f"packed buckets are damaged: {error}") from error
    columns[LAST_SEQ] = columns[FIRST_SEQ] + columns[LAST_SEQ]
    return Buckets(width, *columns)


def _unpacked(data: bytes, place: int, size: int, form: int, dtype: str) -> tuple[Array, int]:
    """Return a column, and how many bytes it takes."""
    if form == RAW:
        return np.frombuffer(data, dtype, size, place), 8 * size
    if form == CONSTANT:
        return np.full(size, np.frombuffer(data, dtype, 1, place)[0]), 8
    if form == SINGLE:
        return np.frombuffer(data, "<f4", size, place).astype(dtype), 4 * size
    if form == PROGRESSION:
        first, distance = np.frombuffer(data, "<i8", 2, place)
        return first + distance * np.arange(size), 16
    if form in TICKS:
        kept = np.frombuffer(data, TICKS[form], size - 1, place + 8)
        ticks = np.zeros(size, np.int64)
        np.cumsum(kept, out=ticks[1:])
        return (ticks + np.frombuffer(data, "<i8", 1, place)[0]) / TICKS_PER_SECOND, 8 + kept.nbytes
    first, least = np.frombuffer(data, "<i8", 2, place).tolist()
    kept = np.frombuffer(data, DISTANCES[form], size - 1, place + 16)
    column = np.empty(size, np.int64)
    column[0] = first
    np.cumsum(kept, out=column[1:])
    column[1:] += first + least * np.arange(1, size)
    return column, 16 + kept.nbytes
