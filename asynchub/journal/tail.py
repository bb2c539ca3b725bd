"""The end of a journal, in memory that the operating system shares with a file: it outlives the process.

What was put is there after ``kill -9``, without a system call; after a power failure it may be anything, and is found
to be. It is a place for what is not in a segment yet: two halves, of which one is filled while the other one is
written to a segment.

Threads: ``put`` is called with the hub's lock held; ``scan`` and ``TailReader`` may be called from anywhere.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from asynchub.errors import CorruptStateError, StateError
from asynchub.events import ENTRY
from asynchub.history import NO_STEP
from asynchub.journal.batches import Batch, batch_of, decode_batch, encode_batch
from asynchub.live import Cell
from asynchub.statefile import write_all

__all__ = ("HALF", "Tail", "TailReader", "scan")

NAME = "tail.mm"
MAGIC = b"\x89AHT\r\n\x1a\n"
HALF = 2**23
"""Bytes of each half, unless told otherwise."""
START = 4096
"""Where the first half begins."""
_HEAD = struct.Struct("<8sHH16s8sQ")
_CHECKSUM = struct.Struct("<I")
_RECORD = struct.Struct("<II")
_ONE = struct.Struct("<IIQdqdqII")
_MANY = struct.Struct("<Q")
_ENTRY = {kind: struct.Struct(f"<dq{code}qII") for kind, code in enumerate("dqq")}
_SEQ = struct.Struct("<Q")
FLOAT, INT, BOOL = range(3)
KIND_OF = {float: FLOAT, int: INT, bool: BOOL}
SHIFT = 28
"""Bits of the first word of a record that are its length; the others are its kind."""
ALIGN = 8


class _Kind(IntEnum):
    """What a record holds."""

    SCALARS = 1
    KEY = 2
    EVENT = 3


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
        head = _HEAD.pack(MAGIC, 1, 0, run_id, nonce, half)
        self._map[: len(head) + 4] = head + _CHECKSUM.pack(zlib.crc32(head))
        self._number = 1
        self.swap()

    def swap(self) -> None:
        """Go on in the other half, over what is there: all of that must be in a segment."""
        self._number = 1 - self._number
        self._position = START + self._number * self._half
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
        parts = [_MANY.pack(first)]
        fields = iter(items)
        for cell, time, step, value, count in zip(*[fields] * ENTRY, strict=False):
            number = self._ids.get(cell)
            if number is None and (number := self._define(cell, first)) is None:
                return False
            kind = KIND_OF[type(value)]
            try:
                parts.append(_ENTRY[kind].pack(time, NO_STEP if step is None else step, value, count, number, kind))
            except struct.error:  # beyond 64 bits
                return self._put_large(first, items)
        if not self._write(_Kind.SCALARS, b"".join(parts)):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _put_large(self, first: int, items: Sequence[Any]) -> bool:
        """Put entries some of whose numbers have more than 64 bits; as columns, in the way of segments."""
        if not self._write(_Kind.EVENT, _SEQ.pack(first) + b"\1" + encode_batch(batch_of([(first, list(items))], []))):
            return False
        self.last_seq = first + len(items) // ENTRY - 1
        return True

    def _define(self, cell: Cell, first: int) -> int | None:
        """Give a cell a number in this half; None if there is no room."""
        number = len(self._ids)
        key = cell.key.encode("utf-8", "surrogatepass")
        if not self._write(_Kind.KEY, _SEQ.pack(first) + _RECORD.pack(number, bool(cell.resumed)) + key):
            return None
        self._ids[cell] = number
        return number

    def put_event(self, seq: int, data: bytes) -> bool:
        """Put an encoded event; False, and nothing put, if there is no room in this half."""
        if seq <= self.last_seq:
            return True
        if not self._write(_Kind.EVENT, _SEQ.pack(seq) + b"\0" + data):
            return False
        self.last_seq = seq
        return True

    def _write(self, kind: _Kind, body: bytes) -> bool:
        size = 8 + len(body)
        start, end = self._position, self._position + size + -size % ALIGN
        if end > self._end or len(body) >= 1 << SHIFT:
            return False
        record = _RECORD.pack(kind << SHIFT | len(body), crc32(body, self._seed)) + body
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


ONE_WORD = _Kind.SCALARS << SHIFT | (_ONE.size - _RECORD.size)
ONE_SIZE = _ONE.size
pack_one = _ONE.pack_into


def _allocate(descriptor: int, size: int) -> None:
    """Make a file that long, with room for it on the disk: to write to a hole of a full disk would kill the process."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    else:
        write_all(descriptor, bytes(size))


# --- reading


class _Found(NamedTuple):
    first: int
    last: int
    entries: list[Any]
    event: bytes | None
    batch: Batch | None


class TailReader:
    """Reads a tail that another process may be writing.

    Args:
        folder: of the journal.

    Raises:
        FileNotFoundError: it has no tail.
        CorruptStateError: it is no tail, or its head is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        with self.path.open("rb") as file:
            head = file.read(_HEAD.size + 4)
            if len(head) < _HEAD.size + 4 or head[: len(MAGIC)] != MAGIC:
                raise CorruptStateError(f"{self.path}: wanted the tail of a journal, got {head[:8]!r}")
            if zlib.crc32(head[: _HEAD.size]) != _CHECKSUM.unpack_from(head, _HEAD.size)[0]:
                raise CorruptStateError(f"{self.path}: the checksum of the head is wrong: the file is damaged")
            _, self._major, _, self.run_id, self.nonce, self._half = _HEAD.unpack_from(head)
            size = os.fstat(file.fileno()).st_size
            if self._major != 1 or size != START + 2 * self._half:
                raise CorruptStateError(f"{self.path}: a tail with halves of {self._half} bytes has {size} bytes")
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._seed = zlib.crc32(self.nonce, zlib.crc32(self.run_id))
        self._cells: list[dict[int, Cell]] = [{}, {}]
        self._positions = [0, 0]
        self._seqs = [0, 0]

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def poll(self, after: int) -> list[Batch]:
        """Return what comes after ``after`` (a ``seq``) without a gap, as far as it is here, in order."""
        batches: list[Batch] = []
        found = sorted([*self._read(0, after), *self._read(1, after)], key=lambda one: one.first)
        for one in found:
            if one.last <= after:
                continue
            if one.first > after + 1:  # what came between has been overwritten: it is in a segment
                self._seqs = [0, 0]
                break
            if one.batch is not None:
                batches.append(one.batch.between(after, one.last))
            elif one.event is not None:
                batches.append(Batch([], [], [(one.first, one.event)]))
            else:
                batches.append(batch_of([(one.first, one.entries)], []).between(after, one.last))
            after = one.last
        return batches

    def _read(self, number: int, after: int) -> Iterator[_Found]:
        """Yield the records of a half, from where the last call ended if that is still the same stretch."""
        start = START + number * self._half
        head = self._map[start : start + 16]
        first = _SEQ.unpack_from(head, 8)[0]
        if first != self._seqs[number]:  # it was begun anew
            self._cells[number], self._positions[number], self._seqs[number] = {}, start, first
        last = after if self._positions[number] != start else 0
        while (record := self._record(self._positions[number], start + self._half)) is not None:
            kind, body, end = record
            seq = _SEQ.unpack_from(body)[0]
            if seq <= last:  # of an earlier round
                return
            try:
                found = self._found(kind, seq, body, self._cells[number])
            except (StateError, KeyError, struct.error, UnicodeDecodeError):  # overwritten meanwhile
                return
            self._positions[number] = end
            if found is not None:
                last = found.last
                yield found

    def _record(self, start: int, stop: int) -> tuple[int, bytes, int] | None:
        if start + 16 > stop:
            return None
        word, checksum = _RECORD.unpack(self._map[start : start + 8])
        length = word & (1 << SHIFT) - 1
        if length < 8 or start + 8 + length > stop:
            return None
        body = self._map[start + 8 : start + 8 + length]
        if zlib.crc32(body, self._seed) != checksum:
            return None
        end = start + 8 + length
        return word >> SHIFT, body, end + -end % ALIGN

    def _found(self, kind: int, seq: int, body: bytes, cells: dict[int, Cell]) -> _Found | None:
        if kind == _Kind.KEY:
            number, resumed = _RECORD.unpack_from(body, 8)
            cells[number] = Cell(body[16:].decode("utf-8", "surrogatepass"), None, [], bool(resumed), False)
            return None
        if kind == _Kind.EVENT:
            if body[8:9] == b"\1":
                batch = decode_batch(body[9:])
                return _Found(seq, batch.seqs[1], [], None, batch)
            return _Found(seq, seq, [], body[9:], None)
        entries: list[Any] = []
        for start in range(8, len(body), _ENTRY[FLOAT].size):
            of = _SEQ.unpack_from(body, start + 32)[0] >> 32
            time, step, value, count, number, of = _ENTRY[of].unpack_from(body, start)
            entries += (cells[number], time, None if step == NO_STEP else step, bool(value) if of == BOOL else value)
            entries.append(count)
        return _Found(seq, seq + len(entries) // ENTRY - 1, entries, None, None)


def scan(folder: Path, run_id: bytes | None, after: int) -> tuple[bytes | None, list[Batch]]:
    """Return whose the tail of a journal is, and what it has beyond ``after``, the newest ``seq`` in the segments.

    Args:
        folder: of the journal.
        run_id: identity of the run, if there are segments.
        after: the ``seq``.

    Raises:
        CorruptStateError: it is the tail of another run.
    """
    try:
        reader = TailReader(folder)
    except (FileNotFoundError, CorruptStateError):  # none yet; or, after a power failure, anything
        return run_id, []
    try:
        if run_id is not None and reader.run_id != run_id:
            raise CorruptStateError(
                f"{reader.path} belongs to run {reader.run_id.hex()}, the segments to {run_id.hex()}"
            )
        return reader.run_id, reader.poll(after)
    finally:
        reader.close()
