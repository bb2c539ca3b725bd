"""Buckets as bytes: each column in the shortest of some forms that are read at once.

Exact: all but the times, which are kept to a millisecond.
The forms are written down in ``docs/formats/pyramid.md``.
"""

from __future__ import annotations

import struct

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import DTYPES, Buckets, each, zeros
from asynchub.errors import CorruptStateError

__all__ = ("pack", "unpack")

ALIGN = 8
MOST_ROWS = 2**24
"""Buckets that are unpacked at most, whatever the bytes say; a block has 2,048, and open ones are one of each key."""
HEAD = struct.Struct("<I12B")
"""How many buckets there are, and the form of each column."""
RAW, CONSTANT, SINGLE, SAME, PROGRESSION, BYTES, SHORTS, INTS, TIMES_2, TIMES_4 = range(10)
DISTANCES = {BYTES: "|u1", SHORTS: "<u2", INTS: "<u4"}
TICKS = {TIMES_2: "<i2", TIMES_4: "<i4"}
TICKS_PER_SECOND = 1000.0
"""To which times are kept."""
MIN, MAX, SUM, WEIGHT, POINTS, FIRST_SEQ, LAST_SEQ, TIMES = 1, 2, 3, 4, 5, 9, 10, 11
COUNTS = (6, 7, 8)
"""Columns that are nearly always 0."""
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


def unpack(data: bytes, width: int, after: Buckets | None = None) -> Buckets:
    """Return the buckets, of a width, that ``pack`` made bytes of; they may share memory with ``data``.

    Args:
        data: the bytes.
        width: of the buckets.
        after: buckets to be put behind them: to do so now is many times as fast as later.

    Raises:
        CorruptStateError: the bytes are no such thing.
    """
    columns: list[Array] = [np.empty(0)] * len(ORDER)
    room = 0 if after is None else after.size
    nothing = after is None or not any(each((after.nan, after.plus_inf, after.minus_inf), np.any))
    try:
        size, *forms = HEAD.unpack_from(data)
        if size > MOST_ROWS:
            raise ValueError(f"{size} are too many")
        place = HEAD.size
        for form, number in zip(forms, ORDER, strict=True):
            dtype = DTYPES[number]
            if form == SAME:
                columns[number] = columns[LIKE[number]].astype(dtype, copy=room > 0)
            elif form == CONSTANT and number in COUNTS and nothing and data[place : place + ALIGN] == bytes(ALIGN):
                columns[number] = zeros(size + room)
                place += ALIGN
            else:
                columns[number], taken = _unpacked(data, place, size, form, dtype, room)
                place += taken + -taken % ALIGN
    except (KeyError, ValueError, OverflowError, struct.error) as error:
        raise CorruptStateError(f"packed buckets are damaged: {error}") from error
    columns[LAST_SEQ] = columns[LAST_SEQ] + columns[FIRST_SEQ]
    if after is not None and room:
        for number, (column, end) in enumerate(zip(columns, after.columns, strict=True)):
            if not (nothing and number in COUNTS and not column.flags.writeable):
                column[size:] = end
    return Buckets(width, *columns)


def _unpacked(data: bytes, place: int, size: int, form: int, dtype: str, room: int) -> tuple[Array, int]:
    """Return a column, with room for some more behind, and how many bytes it takes."""
    if form == RAW and not room:
        return np.frombuffer(data, dtype, size, place), 8 * size
    column = np.empty(size + room, dtype)
    if form == RAW:
        column[:size] = np.frombuffer(data, dtype, size, place)
        return column, 8 * size
    if form == CONSTANT:
        column.fill(np.frombuffer(data, dtype, 1, place)[0])
        return column, 8
    if form == SINGLE:
        column[:size] = np.frombuffer(data, "<f4", size, place)
        return column, 4 * size
    if form == PROGRESSION:
        first, distance = np.frombuffer(data, "<i8", 2, place)
        progression = np.arange(size + room)
        progression *= distance
        progression += first
        return progression, 16
    if form in TICKS:
        kept = np.frombuffer(data, TICKS[form], size - 1, place + 8)
        ticks = np.empty(size, np.int64)
        ticks[0] = np.frombuffer(data, "<i8", 1, place)[0]
        ticks[1:] = kept
        ticks.cumsum(out=ticks)
        np.divide(ticks, TICKS_PER_SECOND, out=column[:size])
        return column, 8 + kept.nbytes
    first, least = np.frombuffer(data, "<i8", 2, place).tolist()
    kept = np.frombuffer(data, DISTANCES[form], size - 1, place + 16)
    distances = column[:size]
    distances[0] = first
    distances[1:] = kept
    distances[1:] += least
    distances.cumsum(out=distances)
    return column, 16 + kept.nbytes
