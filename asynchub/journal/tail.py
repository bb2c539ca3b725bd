"""The end of a journal, in memory that the operating system shares with a file: it outlives the process.

What was put is there after ``kill -9``, without a system call; after a power failure it may be anything, and is found
to be. It is a place for what is not in a segment yet: two halves, of which one is filled while the other one is
written to a segment.

Threads: ``put`` is called with the hub's lock held.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from asynchub.events import ENTRY
from asynchub.history import NO_STEP
from asynchub.journal.batches import batch_of, encode_batch
from asynchub.journal.records import (
    ALIGN,
    BOOL,
    CHECKSUM,
    FLOAT,
    HEAD,
    INT,
    MAGIC,
    NAME,
    NUMBERS,
    ONE,
    RECORD,
    SEQ,
    SHIFT,
    START,
    RecordKind,
)
from asynchub.live import Cell
from asynchub.statefile import write_all

__all__ = ("HALF", "Tail")

HALF = 2**23
"""Bytes of each half, unless told otherwise."""
KIND_OF = {float: FLOAT, int: INT, bool: BOOL}


class Tail:
    """The tail of a journal that is written.

    Attributes:
        last_seq: ``seq`` of the newest event that was put.

    Args:
        folder: of the journal.
        run_id: identity of the run, 16 bytes.
        last_seq: ``seq`` of the newest event in the segments.
        half: bytes of each half, a multiple of 4096.
        hurry: called when half of a half is full.

    Raises:
        OSError: the file could not be made.
    """

    def __init__(
        self, folder: Path, run_id: bytes, last_seq: int, half: int = HALF, hurry: Callable[[], object] = bool
    ) -> None:
        self.last_seq = last_seq
        self._hurry = hurry
        self._half = half
        nonce = secrets.token_bytes(8)
        self._seed = zlib.crc32(nonce, zlib.crc32(run_id))
        self._path = folder / NAME
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _allocate(descriptor, START + 2 * half)
            self._map = mmap.mmap(descriptor, START + 2 * half)
        finally:
            os.close(descriptor)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("I")
        if hasattr(mmap, "MADV_DONTFORK"):
            self._map.madvise(mmap.MADV_DONTFORK)
        head = HEAD.pack(MAGIC, 1, 0, run_id, nonce, half)
        self._map[: len(head) + 4] = head + CHECKSUM.pack(zlib.crc32(head))
        self._number = 1
        self.swap()

    def swap(self) -> None:
        """Go on in the other half, over what is there: all of that must be in a segment."""
        self._number = 1 - self._number
        self._begin = self._position = START + self._number * self._half
        self._end = self._position + self._half
        self._hurry_at = self._position + self._half // 2
        self._ids: dict[Cell, int] = {}

    def put(self, first: int, items: Sequence[Any]) -> bool:
        """Put entries; False, and nothing put, if there is no room in this half.

        Args:
            first: ``seq`` of the first of them.
            items: ``cell, time, step, value, count`` of each; those that were put before are left out.
        """
        if len(items) == ENTRY and first > self.last_seq:
            cell, time, step, value, count = items
            start = self._position
            end = start + ONE_SIZE
            if end <= self._hurry_at and type(value) is float:
                if step is None:
                    step = NO_STEP
                try:
                    pack_one(self._map, start, ONE_WORD, 0, first, time, step, value, count, self._ids[cell], FLOAT)
                except (KeyError, struct.error):  # a new key; a count of more than 64 bits
                    return self._put_many(first, items)
                self._words[(start >> 2) + 1] = crc32(self._bytes[start + 8 : end], self._seed)  # makes it a record
                self._position = end
                self.last_seq = first
                return True
        skip = (self.last_seq + 1 - first) * ENTRY
        if skip > 0:
            first, items = self.last_seq + 1, items[skip:]
        return not items or self._put_many(first, items)

    def _put_many(self, first: int, items: Sequence[Any]) -> bool:
        parts = [SEQ.pack(first)]
        fields = iter(items)
        for cell, time, step, value, count in zip(*[fields] * ENTRY, strict=False):
            number = self._ids.get(cell)
            if number is None and (number := self._define(cell, first)) is None:
                return False
            kind = KIND_OF[type(value)]
            try:
                parts.append(NUMBERS[kind].pack(time, NO_STEP if step is None else step, value, count, number, kind))
            except struct.error:  # beyond 64 bits
                return self._put_large(first, items)
        if not self._write(RecordKind.SCALARS, b"".join(parts)):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _put_large(self, first: int, items: Sequence[Any]) -> bool:
        """Put entries some of whose numbers have more than 64 bits; as columns, in the way of segments."""
        if not self._write(
            RecordKind.EVENT, SEQ.pack(first) + b"\1" + encode_batch(batch_of([(first, list(items))], []))
        ):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _define(self, cell: Cell, first: int) -> int | None:
        """Give a cell a number in this half; None if there is no room."""
        number = len(self._ids)
        key = cell.key.encode("utf-8", "surrogatepass")
        if not self._write(RecordKind.KEY, SEQ.pack(first) + RECORD.pack(number, bool(cell.resumed)) + key):
            return None
        self._ids[cell] = number
        return number

    def put_event(self, seq: int, data: bytes) -> bool:
        """Put an encoded event; False, and nothing put, if there is no room in this half."""
        if seq <= self.last_seq:
            return True
        if not self._write(RecordKind.EVENT, SEQ.pack(seq) + b"\0" + data):
            return False
        self.last_seq = seq
        return True

    def _write(self, kind: RecordKind, body: bytes) -> bool:
        if self._position == self._begin and SEQ.unpack_from(body)[0] > self.last_seq + 1:
            self._write(RecordKind.SCALARS, SEQ.pack(self.last_seq + 1))  # none: ``seq`` has made a jump
        size = 8 + len(body)
        start, end = self._position, self._position + size + -size % ALIGN
        if end > self._end or len(body) >= 1 << SHIFT:
            return False
        record = RECORD.pack(kind << SHIFT | len(body), crc32(body, self._seed)) + body
        self._map[start : start + size] = record
        self._position = end
        if end > self._hurry_at:
            self._hurry_at = self._end
            self._hurry()
        return True

    def close(self, remove: bool) -> None:
        """Let go of the file; remove it, if all of it is in segments."""
        if remove:
            self._path.unlink(missing_ok=True)
        self._words.release()
        self._bytes.release()
        self._map.close()


ONE_WORD = RecordKind.SCALARS << SHIFT | (ONE.size - RECORD.size)
ONE_SIZE = ONE.size
pack_one = ONE.pack_into


def _allocate(descriptor: int, size: int) -> None:
    """Make a file that long, with room for it on the disk: to write to a hole of a full disk would kill the process."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    else:
        write_all(descriptor, bytes(size))
