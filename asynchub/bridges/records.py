"""Records: how the frames of a spool lie in its files; the layout is in ``docs/formats/frames.md``.

Whole: a checksum covers every byte of a record. Behind one that is not whole, the next is found wherever it begins.
Threads: no state is shared; any thread may call anything here.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

__all__ = ("Found", "Record", "found_records", "pack_record")

SYNC = b"AHR1"
_HEAD = struct.Struct("<4sIQI")
CHECKED = 16
"""Bytes of the head of a record that its checksum covers, together with the frame."""


class Record(NamedTuple):
    """Where a frame lies.

    Attributes:
        number: of the frame.
        start: where the bytes of the frame begin.
        stop: where they end.
    """

    number: int
    start: int
    stop: int


class Found(NamedTuple):
    """What there is in a file.

    Attributes:
        records: the whole ones, in the order they lie there.
        damaged: where damaged pieces in front of a record begin and end.
        whole: where the last whole record ends; what follows is torn.
    """

    records: list[Record]
    damaged: list[tuple[int, int]]
    whole: int


def pack_record(number: int, data: bytes) -> bytes:
    """Return the bytes of a frame, as they lie in a file.

    Args:
        number: of the frame.
        data: the frame, as bytes.
    """
    head = _HEAD.pack(SYNC, len(data), number, 0)[:CHECKED]
    return head + zlib.crc32(data, zlib.crc32(head)).to_bytes(4, "little") + data


def found_records(data: bytes) -> Found:
    """Return what there is in a file with these bytes."""
    records: list[Record] = []
    damaged = []
    whole = start = 0
    while start >= 0:
        if (record := _record_at(data, start)) is None:
            start = data.find(SYNC, start + 1)
            continue
        if start > whole:
            damaged.append((whole, start))
        records.append(record)
        whole = start = record.stop
    return Found(records, damaged, whole)


def _record_at(data: bytes, start: int) -> Record | None:
    begin = start + _HEAD.size
    if len(data) < begin:
        return None
    sync, length, number, checksum = _HEAD.unpack_from(data, start)
    stop = begin + length
    if sync != SYNC or stop > len(data):
        return None
    view = memoryview(data)
    if zlib.crc32(view[begin:stop], zlib.crc32(view[start : start + CHECKED])) != checksum:
        return None
    return Record(number, begin, stop)
