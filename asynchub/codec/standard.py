"""Values of the standard library: their payloads, and what is made of a payload.

An encoder returns a code and either the payload, as bytes, or a list: one that may hold any storable value, or one with
the data of an array in it. A decoder takes the payload, or the list read from it; whatever it raises, the payload is
damaged.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from asynchub.codec.codes import MAX_BIG_INT, Code
from asynchub.codec.packing import Bulk, pack
from asynchub.codec.refusals import Refused
from asynchub.errors import LimitExceededError, UnknownTypeError

__all__ = ("DECODERS", "ENCODERS", "Payload", "big_int")

Payload = tuple[Code, bytes | list[Any] | Bulk]

_FLAVOURS: dict[type[PurePath], str] = {
    PurePosixPath: "pure-posix",
    PureWindowsPath: "pure-windows",
    PosixPath: "posix",
    WindowsPath: "windows",
}
_PATHS: dict[str, type[PurePath]] = {
    "pure-posix": PurePosixPath,
    "pure-windows": PureWindowsPath,
    # a path of the other system cannot be made here; its pure form can
    "posix": PosixPath if os.name == "posix" else PurePosixPath,
    "windows": WindowsPath if os.name == "nt" else PureWindowsPath,
}
_ZONE = re.compile(r"[A-Za-z0-9_+\-]{1,64}(/[A-Za-z0-9_+\-]{1,64}){0,4}", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)


def big_int(value: int) -> Payload:
    """Return an int of any size as two's complement, most significant byte first.

    Raises:
        Refused: it is longer than ``MAX_BIG_INT``.
    """
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    if size > MAX_BIG_INT:
        raise Refused(f"an int of {size} bytes is longer than the {MAX_BIG_INT} allowed; store it as bytes")
    return Code.BIG_INT, value.to_bytes(size, "big", signed=True)


def _int(data: bytes) -> int:
    if len(data) > MAX_BIG_INT:
        raise LimitExceededError(f"an int of {len(data)} bytes, {MAX_BIG_INT} allowed")
    return int.from_bytes(data, "big", signed=True)


def _zone(zone: tzinfo | None) -> list[int | str | None]:
    """Return the offset in microseconds and the name of a time zone.

    Only an offset: ``timezone(offset)``; only a name: ``ZoneInfo(name)``; both: ``timezone(offset, name)``.
    """
    if zone is None:
        return [None, None]
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        return [offset // _MICROSECOND, None if name == timezone(offset).tzname(None) else name]
    if type(zone) is not ZoneInfo:
        raise Refused(f"its time zone is a {type(zone).__name__}; use datetime.timezone or zoneinfo.ZoneInfo")
    if zone.key is None or not _ZONE.fullmatch(zone.key):
        raise Refused(f"its time zone has the key {zone.key!r}; use ZoneInfo('Area/City')")
    return [None, zone.key]


def _tzinfo(offset: int | None, name: str | None) -> tzinfo | None:
    if offset is not None:
        delta = timedelta(microseconds=offset)
        return timezone(delta) if name is None else timezone(delta, name)
    if name is None:
        return None
    if not _ZONE.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no key of a time zone")
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise UnknownTypeError(f"no time zone {name!r} on this machine; install tzdata") from error


def _packed_zone(zone: tzinfo | None, numbers: list[int]) -> bytes:
    parts = [*numbers, *_zone(zone)]
    try:
        return pack(parts)
    except UnicodeEncodeError as error:
        raise Refused("the name of its time zone is not valid Unicode") from error


def _datetime(parts: list[Any]) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, offset, name = parts
    return datetime(year, month, day, hour, minute, second, microsecond, _tzinfo(offset, name), fold=fold)


def _time(parts: list[Any]) -> time:
    hour, minute, second, microsecond, fold, offset, name = parts
    return time(hour, minute, second, microsecond, _tzinfo(offset, name), fold=fold)


def _date(parts: list[Any]) -> date:
    year, month, day = parts
    return date(year, month, day)


def _timedelta(parts: list[Any]) -> timedelta:
    if not all(type(part) is int for part in parts):
        raise ValueError("a timedelta is made of ints")
    days, seconds, microseconds = parts
    return timedelta(days, seconds, microseconds)


def _path(parts: list[Any]) -> PurePath:
    flavour, text = parts
    return _PATHS[flavour](text)


def _range(parts: list[Any]) -> range | slice:
    kind, start, stop, stride = parts
    if kind == "slice":
        return slice(start, stop, stride)
    if kind == "range" and all(type(part) is int for part in parts[1:]):
        return range(start, stop, stride)
    raise ValueError(f"neither a range nor a slice: {kind!r:.80}")


def _flavoured(path: PurePath) -> Payload:
    return Code.PATH, [_FLAVOURS[type(path)], str(path)]


_DATE_FIELDS = ("year", "month", "day")
_TIME_FIELDS = ("hour", "minute", "second", "microsecond", "fold")


def _numbers(value: Any, names: tuple[str, ...]) -> list[int]:
    return [getattr(value, name) for name in names]


ENCODERS: dict[type, Callable[[Any], Payload]] = {
    complex: lambda v: (Code.COMPLEX, struct.pack("<dd", v.real, v.imag)),
    bytearray: lambda v: (Code.BYTEARRAY, bytes(v)),
    datetime: lambda v: (Code.DATETIME, _packed_zone(v.tzinfo, _numbers(v, _DATE_FIELDS + _TIME_FIELDS))),
    date: lambda v: (Code.DATE, pack(_numbers(v, _DATE_FIELDS))),
    time: lambda v: (Code.TIME, _packed_zone(v.tzinfo, _numbers(v, _TIME_FIELDS))),
    timedelta: lambda v: (Code.TIMEDELTA, pack([v.days, v.seconds, v.microseconds])),
    UUID: lambda v: (Code.UUID, v.bytes),
    Decimal: lambda v: (Code.DECIMAL, str(v).encode("ascii")),
    range: lambda v: (Code.RANGE, ["range", v.start, v.stop, v.step]),
    slice: lambda v: (Code.RANGE, ["slice", v.start, v.stop, v.step]),
    **dict.fromkeys(_FLAVOURS, _flavoured),
}
"""By exact type."""

DECODERS: dict[Code, Callable[[Any], Any]] = {
    Code.BIG_INT: _int,
    Code.COMPLEX: lambda data: complex(*struct.unpack("<dd", data)),
    Code.BYTEARRAY: bytearray,
    Code.SURROGATES: lambda data: data.decode("utf-8", "surrogatepass"),
    Code.DATETIME: _datetime,
    Code.DATE: _date,
    Code.TIME: _time,
    Code.TIMEDELTA: _timedelta,
    Code.PATH: _path,
    Code.UUID: lambda data: UUID(bytes=data),
    Code.DECIMAL: lambda data: Decimal(data.decode("ascii")),
    Code.RANGE: _range,
}
