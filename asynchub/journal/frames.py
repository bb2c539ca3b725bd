"""Segments and their frames: what a journal's files are made of.

Whole: every byte is covered by a checksum or must be zero. The checksum of a frame begins with the identity of the run
    and the number of the segment, so that a frame of another run, or a block that the disk held before, is none.
Threads: no state is shared; any thread may call anything here.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from asynchub.errors import CorruptStateError, UnknownTypeError

__all__ = (
    "FRAME_SIZE",
    "MAGIC",
    "REWINDS",
    "RUN_ID",
    "SEGMENT_SIZE",
    "Frame",
    "Kind",
    "SegmentHead",
    "frame_size",
    "frames",
    "later_frame",
    "pack_frame",
    "pack_head",
    "read_head",
)

MAGIC = b"\x89AHJ\r\n\x1a\n"
MAJOR, MINOR = 1, 0
SYNC = b"AHJ1"
ALIGN = 8
_HEAD = struct.Struct("<8sHHI16sIIQQ4s")
_FRAME = struct.Struct("<4sIIBBHQQQ")
_CHECKSUM = struct.Struct("<I")
SEGMENT_SIZE = _HEAD.size + _CHECKSUM.size
"""Bytes of the head of a segment."""
FRAME_SIZE = _FRAME.size
"""Bytes of the header of a frame."""
RUN_ID = slice(16, 32)
"""Where, in the head of a segment, the identity of the run stands."""
CHECKED_FROM = 12
"""Where, in the header of a frame, what follows its checksum begins."""
REWINDS = 1
"""Flag of a frame of events with a ``Rewound`` among them."""
LONGEST = 2**31
"""Bytes that the payload of a frame may have."""


class Kind(IntEnum):
    """What a frame holds."""

    EVENTS = 1
    SNAPSHOT = 5
    CLOSE = 6
    CONTROL = 7


class SegmentHead(NamedTuple):
    """What a segment says of itself.

    Attributes:
        run_id: identity of the run, 16 bytes.
        number: its number, from 1.
        first_seq: events before this ``seq`` are in earlier segments, all of them.
        created: when it was begun, in nanoseconds since the epoch.
    """

    run_id: bytes
    number: int
    first_seq: int
    created: int

    @property
    def seed(self) -> int:
        """What the checksum of its frames begins with."""
        return zlib.crc32(self.run_id + _CHECKSUM.pack(self.number))


class Frame(NamedTuple):
    """One frame.

    Attributes:
        kind: a ``Kind``, or a number that this version does not know.
        flags: bits of ``REWINDS``, and of what this version does not know.
        first_seq: ``seq`` of its first event; of one that has none, of the next there will be.
        last_seq: ``seq`` of its last event; of one that has none, of the one before.
        durable_seq: every event up to this one was on the disk when the frame was made.
        payload: what it holds.
        start: where it begins in its file.
        end: where the next one begins.
    """

    kind: int
    flags: int
    first_seq: int
    last_seq: int
    durable_seq: int
    payload: bytes
    start: int
    end: int


def pack_head(run_id: bytes, number: int, first_seq: int) -> bytes:
    """Return the head of a segment; arguments as of ``SegmentHead``."""
    head = _HEAD.pack(MAGIC, MAJOR, MINOR, 0, run_id, number, 0, first_seq, time.time_ns(), bytes(4))
    return head + _CHECKSUM.pack(zlib.crc32(head))


def read_head(data: bytes) -> SegmentHead:
    """Return what the first bytes of a segment say.

    Raises:
        CorruptStateError: they are damaged, truncated or foreign.
        UnknownTypeError: a newer version wrote them.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptStateError(f"wanted a segment of a journal, which begins with {MAGIC!r}; got {data[:8]!r}")
    if len(data) < SEGMENT_SIZE:
        raise CorruptStateError(f"{len(data)} bytes are not even the head of a segment: the file is truncated")
    if zlib.crc32(data[: _HEAD.size]) != _CHECKSUM.unpack_from(data, _HEAD.size)[0]:
        raise CorruptStateError("the checksum of the head is wrong: the file is damaged")
    _, major, minor, incompatible, run_id, number, _, first_seq, created, _ = _HEAD.unpack_from(data)
    if major > MAJOR or incompatible:
        raise UnknownTypeError(
            f"written by a newer version of asynchub, in format {major}.{minor} with flags {incompatible:#x}; "
            f"this version reads {MAJOR}.x without flags; update asynchub"
        )
    if major < MAJOR:
        raise CorruptStateError(f"there is no format {major}.{minor}")
    return SegmentHead(run_id, number, first_seq, created)


def pack_frame(
    seed: int, kind: int, flags: int, first_seq: int, last_seq: int, durable_seq: int, payload: bytes
) -> bytes:
    """Return the bytes of a frame, a multiple of 8; arguments as of ``Frame``, and its segment's ``seed``."""
    blank = _FRAME.pack(SYNC, len(payload), 0, kind, flags, 0, first_seq, last_seq, durable_seq)
    checksum = _checksum(seed, blank, payload)
    header = _FRAME.pack(SYNC, len(payload), checksum, kind, flags, 0, first_seq, last_seq, durable_seq)
    return header + payload + bytes(-len(payload) % ALIGN)


def _checksum(seed: int, header: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(header[CHECKED_FROM:], zlib.crc32(header[:8], seed)))


def frames(data: bytes | memoryview, seed: int, start: int = SEGMENT_SIZE, base: int = 0) -> Iterator[Frame]:
    """Yield the frames of a segment from ``start`` on, until one is not whole.

    Args:
        data: bytes of the file.
        seed: that of the segment.
        start: where, in ``data``, the first frame begins.
        base: where, in the file, ``data`` begins.
    """
    while (frame := _frame_at(data, seed, start, base)) is not None:
        yield frame
        start = frame.end - base


def later_frame(data: bytes, seed: int, start: int) -> Frame | None:
    """Return the first whole frame that begins after ``start``, wherever; None if there is none."""
    while (start := data.find(SYNC, start + 1)) >= 0:
        if start % ALIGN == 0 and (frame := _frame_at(data, seed, start, 0)) is not None:
            return frame
    return None


def frame_size(data: bytes) -> int:
    """Return how many bytes the frame has that ``data`` begins with; 0 if it begins with none."""
    if len(data) < FRAME_SIZE or data[: len(SYNC)] != SYNC:
        return 0
    length: int = _FRAME.unpack_from(data)[1]
    return FRAME_SIZE + length + -length % ALIGN if length <= LONGEST else 0


def _frame_at(data: bytes | memoryview, seed: int, start: int, base: int) -> Frame | None:
    header = bytes(data[start : start + FRAME_SIZE])
    if len(header) < FRAME_SIZE:
        return None
    sync, length, checksum, kind, flags, _, first_seq, last_seq, durable_seq = _FRAME.unpack(header)
    if sync != SYNC or length > LONGEST:
        return None
    stop = start + FRAME_SIZE + length
    end = stop + -length % ALIGN
    if end > len(data):
        return None
    payload = bytes(data[start + FRAME_SIZE : stop])
    if _checksum(seed, header, payload) != checksum or any(data[stop:end]):
        return None
    return Frame(kind, flags, first_seq, last_seq, durable_seq, payload, base + start, base + end)
