"""Putting what was published into the tail of a journal; layout and reading are in ``asynchub.journal.tail``.

Threads: ``put``, ``put_event`` and ``swap`` are called with the hub's lock held.
Interrupts: an exception in any line of ``put`` leaves what was put before, and what is put again is found once.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from asynchub.batches import batch_of, encode_batch
from asynchub.events import ENTRY
from asynchub.history import NO_STEP
from asynchub.journal.tail import (
    ALIGN,
    CHECKSUM,
    ENTRIES,
    HALF_HEAD,
    KIND_OF,
    MAGIC,
    NAME,
    ONE,
    RECORD,
    SEQ,
    SEQS,
    SHIFT,
    START,
    TAIL_HEAD,
    Record,
    record_checksum,
)
from asynchub.live import Cell
from asynchub.statefile import write_all

__all__ = ("HALF", "Tail")

HALF = 2**23
"""Bytes of each half, unless told otherwise."""
ONE_WORD = Record.SCALARS << SHIFT | (ONE.size - RECORD.size)
ONE_SIZE = ONE.size
pack_one = ONE.pack


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
        self._own = crc32(nonce, crc32(run_id))
        path = self._path = folder / NAME
        size = START + 2 * half
        if path.exists() and path.stat().st_size != size:  # never cut: somebody may be reading all of it
            path.unlink()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _allocate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("I")
        if hasattr(mmap, "MADV_DONTFORK"):
            self._map.madvise(mmap.MADV_DONTFORK)
        head = TAIL_HEAD.pack(MAGIC, 1, 0, run_id, nonce, half)
        self._map[: len(head) + 4] = head + CHECKSUM.pack(crc32(head))
        self._round = secrets.randbits(31) << 32 | 1  # never one that this half has had
        self.swap(last_seq)

    def swap(self, last_seq: int) -> None:
        """Go on in the other half, over what is there: all of that must be in a segment.

        Args:
            last_seq: ``seq`` of the newest event that is safe elsewhere.
        """
        self._round += 1
        start = START + self._round % 2 * self._half
        head = SEQS.pack(self._round, last_seq)
        self._seed = crc32(head, self._own)
        self._map[start : start + HALF_HEAD] = head + RECORD.pack(self._seed, 0)
        self._position = start + HALF_HEAD
        self._end = start + self._half
        self._hurry_at = start + self._half // 2
        self._ids: dict[Cell, int] = {}
        self.last_seq = last_seq

    def put(self, first: int, items: Sequence[Any]) -> bool:
        """Put entries; False, and nothing put, if there is no room in this half.

        Args:
            first: ``seq`` of the first of them.
            items: ``cell, time, step, value, count`` of each; those that were put before are left out.
        """
        if len(items) == ENTRY and first == self.last_seq + 1:
            cell, time, step, value, count = items
            start = self._position
            end = start + ONE_SIZE
            if end <= self._hurry_at and type(value) is float:
                if step is None:
                    step = NO_STEP
                try:
                    record = pack_one(ONE_WORD, first, time, step, value, count, self._ids[cell])
                except (KeyError, struct.error):  # a new key; a count of more than 64 bits
                    return self._put_many(first, items)
                self._bytes[start:end] = record
                self._words[(start >> 2) + 1] = crc32(record, self._seed)  # makes it a record
                self._position = end
                self.last_seq = first
                return True
        skip = (self.last_seq + 1 - first) * ENTRY
        if skip > 0:
            first, items = self.last_seq + 1, items[skip:]
        return not items or self._put_many(first, items)

    def _put_many(self, first: int, items: Sequence[Any]) -> bool:
        if not self._follows(first):
            return False
        parts = [SEQ.pack(first)]
        fields = iter(items)
        for cell, time, step, value, count in zip(*[fields] * ENTRY, strict=False):
            number = self._ids.get(cell)
            if number is None and (number := self._define(cell, first)) is None:
                return False
            kind = KIND_OF[type(value)]
            try:
                step = NO_STEP if step is None else step
                parts.append(ENTRIES[kind].pack(time, step, value, count, kind << 32 | number))
            except struct.error:  # beyond 64 bits
                return self._put_large(first, items)
        if not self._write(Record.SCALARS, b"".join(parts)):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _put_large(self, first: int, items: Sequence[Any]) -> bool:
        """Put entries some of whose numbers have more than 64 bits; as columns, in the way of segments."""
        if not self._write(Record.EVENT, SEQ.pack(first) + b"\1" + encode_batch(batch_of([(first, list(items))], []))):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _follows(self, first: int) -> bool:
        """Say it where an event does not have the next ``seq``; False if there is no room for that."""
        return first == self.last_seq + 1 or self._write(Record.GAP, SEQS.pack(first, self.last_seq))

    def _define(self, cell: Cell, first: int) -> int | None:
        """Give a cell a number in this half; None if there is no room."""
        number = len(self._ids)
        key = cell.key.encode("utf-8", "surrogatepass")
        if not self._write(Record.KEY, SEQ.pack(first) + RECORD.pack(number, bool(cell.resumed)) + key):
            return None
        self._ids[cell] = number
        return number

    def put_event(self, seq: int, data: bytes) -> bool:
        """Put an encoded event; False, and nothing put, if there is no room in this half."""
        if seq <= self.last_seq:
            return True
        if not (self._follows(seq) and self._write(Record.EVENT, SEQ.pack(seq) + b"\0" + data)):
            return False
        self.last_seq = seq
        return True

    def _write(self, kind: Record, body: bytes) -> bool:
        size = 8 + len(body)
        start, end = self._position, self._position + size + -size % ALIGN
        if end > self._end or len(body) >= 1 << SHIFT:
            return False
        word = kind << SHIFT | len(body)
        self._map[start : start + size] = RECORD.pack(word, record_checksum(word, body, self._seed)) + body
        self._position = end
        if end > self._hurry_at:
            self._hurry_at = self._end
            self._hurry()
        return True

    def clear(self) -> None:
        """Take everything out: all of it is in segments, and on the disk."""
        for _ in range(2):
            self.swap(self.last_seq)

    def remove(self) -> None:
        """Remove the file: nothing is in it that is not elsewhere."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; it stays as it is."""
        self._words.release()
        self._bytes.release()
        self._map.close()


def _allocate(descriptor: int, size: int) -> None:
    """Make a file that long, with room for it on the disk: to write to a hole of a full disk would kill the process."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
    else:
        write_all(descriptor, bytes(size))
