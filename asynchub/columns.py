"""Columns: one kind of value in a row, that grows at the end; and the bytes that they are stored as.

Views stay true: a cell that a column has shown is never written again. Growing past the allocated cells copies them to
    new ones; leaving the oldest behind moves the beginning.
Cost: appending is amortised O(1), whatever the length; at most half as many spare cells as values are held.
Stored form: bit-exact or refused. ``[code, dtype, length, payload]``, builtins only; ``dtype`` as in NumPy's ``str``,
    numbers in the byte order that it names, those of the codes 2 to 5 little-endian:

    ==== =============== ==============================================================
    code dtype           payload
    ==== =============== ==============================================================
    0    any number      the values
    1    any number      one value, which all have
    2    ``<f8``         the values as ``<f4``
    3    ``<i2`` to i8   the values as ``|i1``
    4    ``<i4``, i8     the values as ``<i2``
    5    ``<i8``         the values as ``<i4``
    6    ``<i8``         the first value and the distance of each to the next, always the same (*)
    7    ``<f8``         times, in ticks of 2^-22 s; see ``docs/formats/snapshot.md`` (*: not in state files)
    32   ``|O``          ASCII, joined by commas: ``i`` and a hexadecimal integer, ``f`` and the 16 hexadecimal digits
                         of a big-endian double, or ``b0``, ``b1``
    ==== =============== ==============================================================
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from asynchub.errors import CorruptStateError, LimitExceededError, UnsupportedTypeError

__all__ = ("CONSTANT", "NUMBERS", "PROGRESSION", "Array", "Column", "decode_column", "encode_column", "packed_numbers")

Array = np.ndarray[Any, np.dtype[Any]]

SPARE = 64
"""Cells allocated beyond the values at least, when a column grows."""
FLOAT64 = np.dtype(np.float64)
NOTHING: Array = np.empty(0)
PACKED_AS = {FLOAT64: "d", np.dtype(np.int64): "q"}
"""Columns that may take many numbers at once, and their ``struct`` codes."""
OWN_DTYPE = {kind: np.asarray(kind()).dtype for kind in (bool, int, float)}

RAW, SINGLE, INT8, INT16, INT32, TIMES, OBJECTS = 0, 2, 3, 4, 5, 7, 32
CONSTANT = 1
"""Code of a column that is one value throughout."""
PROGRESSION = 6
"""Code of a column whose values are equally far apart."""
TICKS = 2.0**22
"""Ticks in a second: how finely a double can tell a time from 2004 to 2038, in seconds since the epoch."""
NUMBERS = {
    "|b1",
    "|i1",
    "|u1",
    *(order + kind for order in "<>" for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")),
}
"""The dtypes of numbers that have a stored form."""
_TIMES = struct.Struct("<qII")
NARROW = {INT8: "|i1", INT16: "<i2", INT32: "<i4"}
ITEM = re.compile(r"i-?[0-9a-f]+|f[0-9a-f]{16}|b[01]")


class Column:
    """A stretch of cells, never changed: growing and shrinking give a new column, on the same cells where they can.

    Of the columns that came of one another only the newest may be extended, and by one thread at a time.

    Attributes:
        cells: the allocated cells; the first axis is that of the column.
        start: index in ``cells`` of the first value.
        stop: index in ``cells`` after the last value.
        offset: how many values there were before ``cells[0]``: value ``i`` since the beginning is in
            ``cells[i - offset]``.
    """

    __slots__ = ("_view", "cells", "offset", "start", "stop")

    def __init__(self, cells: Array, start: int = 0, stop: int | None = None, offset: int = 0) -> None:
        self.cells = cells
        self.start = start
        self.stop = len(cells) if stop is None else stop
        self.offset = offset
        self._view: Array | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def first(self) -> int:
        """How many values there were before the first one that is left."""
        return self.offset + self.start

    @property
    def last(self) -> int:
        """How many values there were in all."""
        return self.offset + self.stop

    @property
    def view(self) -> Array:
        """The values, as a read-only array that nothing changes later."""
        view = self._view
        if view is None:
            view = self.cells[self.start : self.stop]
            view.flags.writeable = False
            self._view = view
        return view

    def between(self, first: int, last: int) -> Array:
        """Return the values ``first`` up to ``last``, counted since the beginning."""
        return self.cells[first - self.offset : last - self.offset]

    def _on(self, cells: Array, start: int, stop: int, offset: int) -> Self:
        """Return what is made of this column."""
        return self.__class__(cells, start, stop, offset)

    def extended(self, values: Array | Sequence[Any]) -> Self:
        """Return this column with ``values`` at its end; its dtype holds them exactly."""
        cells, start, stop, offset = self.cells, self.start, self.stop, self.offset
        end = stop + len(values)
        if end > len(cells):
            live = cells[start:stop]
            end = len(live) + len(values)
            cells = np.empty(end + max(end // 2, SPARE), live.dtype)
            cells[: len(live)] = live
            start, stop, offset = 0, len(live), offset + start
        cells[stop:end] = values
        return self._on(cells, start, end, offset)

    def with_one(self, number: float) -> Self:
        """Return this column with a number at its end; its dtype holds it exactly."""
        stop = self.stop
        if stop == len(self.cells):
            return self.extended((number,))
        self.cells[stop] = number
        return self._on(self.cells, self.start, stop + 1, self.offset)

    def with_numbers(self, numbers: Sequence[Any]) -> Self:
        """Return this column with Python numbers at its end, promoted like ``numpy.append`` of each in turn."""
        dtype = self.cells.dtype
        if dtype is FLOAT64 and len(numbers) == 1 and type(numbers[0]) is float:
            return self.extended(numbers)
        if (code := PACKED_AS.get(dtype)) is not None:
            try:
                packed = packed_numbers(code, numbers)
            except (struct.error, OverflowError):  # a float, or an int that needs another dtype
                packed = NOTHING
            # beyond 64 bits an int makes objects of all; NaN and infinities have to be looked at, too
            if len(packed) and (
                code == "q" or np.maximum.reduce(np.abs(packed)) < 2**63 or set(map(type, numbers)) == {float}
            ):
                return self.extended(packed)
        column = self
        for promoted, run in _runs(dtype, numbers):
            cells = np.empty(len(run), promoted)
            cells[:] = run
            column = column.as_type(promoted).extended(cells)
        return column

    def without(self, oldest: int) -> Self:
        """Return this column without its ``oldest`` first values, or empty if there are fewer."""
        return self._on(self.cells, min(self.start + oldest, self.stop), self.stop, self.offset) if oldest > 0 else self

    def as_type(self, dtype: np.dtype[Any]) -> Self:
        """Return this column with values of ``dtype``."""
        if self.cells.dtype == dtype:
            return self
        return self._on(self.view.astype(dtype), 0, len(self), self.first)

    def flat(self) -> Self:
        """Return this column with one axis; rows follow each other."""
        return self if self.cells.ndim == 1 else type(self)(self.view.reshape(-1))

    def shared(self) -> Self:
        """Return this column with no spare cells: extending it copies, so it may live beside this one."""
        return self._on(self.cells[: self.stop], self.start, self.stop, self.offset)


def packed_numbers(code: str, numbers: Sequence[Any]) -> Array:
    """Return numbers as an array of the dtype with this ``struct`` code, three times as fast as ``numpy.array``.

    Raises:
        struct.error: one of them is not of that type, or does not fit.
        OverflowError: an int does not fit in a float.
    """
    return np.frombuffer(struct.pack(f"{len(numbers)}{code}", *numbers), code)


def _runs(dtype: np.dtype[Any], numbers: Sequence[Any]) -> Iterator[tuple[np.dtype[Any], list[Any]]]:
    """Split ``numbers`` where a column of ``dtype`` would change its dtype; yield each stretch with its dtype."""
    run: list[Any] = []
    promoted: dict[np.dtype[Any], np.dtype[Any]] = {}
    for number in numbers:
        if type(number) is int and not -(2**31) <= number < 2**31:
            own = np.asarray(number).dtype
        else:
            own = OWN_DTYPE.get(type(number)) or np.asarray(number).dtype
        wanted = promoted.get(own)
        if wanted is None:
            wanted = promoted[own] = np.result_type(dtype, own)
        if wanted != dtype:
            if run:
                yield dtype, run
            dtype, run, promoted = wanted, [], {}
        run.append(number)
    yield dtype, run


def encode_column(array: Array, *, progressions: bool = False) -> list[Any]:
    """Return ``[code, dtype, length, payload]``, the shortest of the cheap forms that holds ``array`` bit for bit.

    Args:
        array: of shape ``(n,)``.
        progressions: whether the codes 6 and 7 may be used; of 6 nothing but ``decode_column``'s ``max_length`` bounds
            the length.

    Raises:
        UnsupportedTypeError: the dtype has no form that is the same everywhere, e.g. strings and extended floats, or
            an object is not a Python number.
    """
    dtype = array.dtype.str
    if dtype == "|O":
        return [OBJECTS, dtype, len(array), ",".join(map(_item, array)).encode()]
    if dtype not in NUMBERS or array.ndim != 1:
        raise UnsupportedTypeError("$", array, f"a column of {array.dtype} has no stored form; convert it to float64")
    array = np.ascontiguousarray(array)
    size = len(array)
    if size:
        bits = _bits(array)
        if bool((bits[:64] == bits[0]).all()) and bool((bits == bits[0]).all()):
            return [CONSTANT, dtype, size, array[:1].tobytes()]
        if dtype == "<f8":
            with np.errstate(all="ignore"):
                for some in (slice(64), slice(None)):  # most columns that are not show it at once
                    narrow = array[some].astype("<f4")
                    exact = bool((narrow.astype("<f8").view("<u8") == bits[some]).all())
                    if not exact:
                        break
            if exact:
                return [SINGLE, dtype, size, narrow.tobytes()]
            if progressions and (payload := _in_ticks(array)) is not None:
                return [TIMES, dtype, size, payload]
        elif dtype in ("<i2", "<i4", "<i8"):
            if progressions and dtype == "<i8" and _is_progression(array):
                return [PROGRESSION, dtype, size, np.append(array[:1], np.diff(array[:2])).tobytes()]
            low, high = int(array.min()), int(array.max())
            for code, small in NARROW.items():
                bounds = np.iinfo(small)
                if np.dtype(small).itemsize < array.itemsize and bounds.min <= low and high <= bounds.max:
                    return [code, dtype, size, array.astype(small).tobytes()]
    return [RAW, dtype, size, array.tobytes()]


def _in_ticks(array: Array) -> bytes | None:
    """Return times as ticks; None if that does not hold them bit for bit in about half the room."""
    with np.errstate(all="ignore"):
        for some in (array[:64], array):
            ticks = (some * TICKS).astype("<i8")
            if len(some) < 2 or not bool((_bits(ticks / TICKS) == _bits(some)).all()):
                return None
    distances = np.diff(ticks)
    best, least = b"", 8 * len(array)
    for width in (1, 2, 4):
        bounds = np.iinfo(f"i{width}")
        far = (distances <= bounds.min) | (distances > bounds.max)
        size = width * len(distances) + 8 * int(np.count_nonzero(far))
        if size < least:
            near = np.where(far, bounds.min, distances).astype(f"<i{width}")
            left = distances[far]
            best, least = _TIMES.pack(ticks[0], width, len(left)) + near.tobytes() + left.tobytes(), size
    return best or None


def _is_progression(array: Array) -> bool:
    with np.errstate(all="ignore"):
        for some in (array[:64], array):
            if len(some) < 3 or not bool((some[2:] - some[1:-1] == some[1] - some[0]).all()):
                return False
    return True


def decode_column(
    column: Any, *, max_length: int, writable: bool = True, progressions: bool = False, out: Array | None = None
) -> Array:
    """Return the array that ``encode_column`` took, in its own memory.

    Args:
        column: ``[code, dtype, length, payload]``, from anywhere.
        max_length: values to allocate at most.
        writable: give every value its own memory. If false, values that are all the same share one cell.
        progressions: whether the codes 6 and 7 are allowed.
        out: where to put it, of that length and dtype; None for new memory. Objects have new memory in any case.

    Raises:
        LimitExceededError: it has more than ``max_length`` values.
        CorruptStateError: it is no such list, or its parts contradict each other.
    """
    if not isinstance(column, list | tuple) or len(column) != 4:
        raise CorruptStateError(f"a stored column is [code, dtype, length, payload], got {column!r:.80}")
    code, dtype, length, payload = column
    well_formed = type(code) is int and isinstance(dtype, str) and type(length) is int and isinstance(payload, bytes)
    if not well_formed or length < 0:
        raise CorruptStateError(f"a stored column is [int, str, int, bytes], got {column!r:.80}")
    if length > max_length:
        raise LimitExceededError(f"a stored column has {length} values, at most {max_length} are allowed")
    if code == OBJECTS and dtype == "|O":
        return _objects(payload, length)
    if dtype not in NUMBERS:
        raise CorruptStateError(f"a stored column has the unknown dtype {dtype!r:.80}")
    if code == RAW:
        array = _numbers(payload, dtype, length)
    elif code == CONSTANT:
        one = _numbers(payload, dtype, 1)
        array = np.broadcast_to(one, length) if length else np.empty(0, dtype)
    elif code == SINGLE and dtype == "<f8":
        array = _numbers(payload, "<f4", length)
    elif code == PROGRESSION and dtype == "<i8" and progressions:
        first, distance = _numbers(payload, dtype, 2)
        with np.errstate(all="ignore"):
            array = first + distance * np.arange(length)
    elif code == TIMES and dtype == "<f8" and progressions:
        array = _from_ticks(payload, length)
    elif code in NARROW and dtype[:2] == "<i" and np.dtype(NARROW[code]).itemsize < np.dtype(dtype).itemsize:
        array = _numbers(payload, NARROW[code], length)
    else:
        raise CorruptStateError(f"a stored column of {dtype} has the unknown code {code}")
    if out is None and code == CONSTANT and not writable:
        return array
    out = np.empty(length, dtype) if out is None else out
    with np.errstate(all="ignore"):
        out[:] = array
    return out


def _from_ticks(payload: bytes, length: int) -> Array:
    """Return the times that ``_in_ticks`` made a payload of."""
    first, width, count = _TIMES.unpack_from(payload) if len(payload) >= _TIMES.size else (0, 0, 0)
    end = _TIMES.size + width * (length - 1)
    if length < 2 or width not in (1, 2, 4) or len(payload) != end + 8 * count:
        raise CorruptStateError(f"a stored column of {length} times has {len(payload)} bytes")
    ticks = np.empty(length, "<i8")
    ticks[0] = first
    distances = ticks[1:]
    distances[:] = np.frombuffer(payload, f"<i{width}", length - 1, _TIMES.size)
    far = np.flatnonzero(distances == np.iinfo(f"i{width}").min)
    if len(far) != count:
        raise CorruptStateError(f"{len(far)} stored times are far from the one before, and {count} should be")
    distances[far] = np.frombuffer(payload, "<i8", count, end)
    with np.errstate(all="ignore"):
        return np.cumsum(ticks, out=ticks) / TICKS


def _bits(array: Array) -> Array:
    """Return ``array`` as something that compares equal only where all bits are."""
    size = array.dtype.itemsize
    return array.view("V16") if size == 16 else array.view(f"u{size}")


def _numbers(payload: bytes, dtype: str, length: int) -> Array:
    if len(payload) != length * np.dtype(dtype).itemsize:
        raise CorruptStateError(f"a stored column of {length} times {dtype} has {len(payload)} bytes")
    if dtype == "|b1" and payload.strip(b"\0\1"):
        raise CorruptStateError("a stored column of booleans has a byte that is neither 0 nor 1")
    return np.frombuffer(payload, dtype)


def _item(value: object) -> str:
    if isinstance(value, np.generic):  # a history of objects may be made of these
        value = value.item()
    kind = type(value)
    if kind is bool:
        return f"b{value:d}"
    if kind is int:
        return f"i{value:x}"
    if kind is float:
        return f"f{struct.pack('>d', value).hex()}"
    raise UnsupportedTypeError("$", value, "a history stores only real numbers; pass resumed=False")


def _objects(payload: bytes, length: int) -> Array:
    try:
        items = payload.decode("ascii").split(",") if payload else []
    except UnicodeDecodeError:
        raise CorruptStateError("a stored column of objects is not ASCII") from None
    if len(items) != length:
        raise CorruptStateError(f"a stored column of {length} objects has {len(items)} of them")
    array = np.empty(length, object)
    for index, item in enumerate(items):
        if not ITEM.fullmatch(item):
            raise CorruptStateError(f"a stored column of objects has the item {item!r:.80}")
        kind, digits = item[0], item[1:]
        if kind == "f":
            array[index] = struct.unpack(">d", bytes.fromhex(digits))[0]
        else:
            array[index] = int(digits, 16) if kind == "i" else digits == "1"
    return array
