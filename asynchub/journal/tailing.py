"""Reading the tail of a journal, also while another process writes it.

Exact: a record counts if its checksum is right, and those of a half are in the order of ``seq``; what an earlier round
    left behind them is older, and what an earlier session left has another checksum. Nothing is between two records,
    even where their ``seq`` leaves room: a state that is loaded may make it jump.
Safe: it is read with system calls, from copies. In a mapping, a page that is cut off at this moment would kill whoever
    looks at it.
Threads: one at a time uses a reader; any number of readers may read.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from asynchub.errors import CorruptStateError, StateError
from asynchub.events import ENTRY
from asynchub.history import NO_STEP
from asynchub.journal.batches import Batch, batch_of, decode_batch
from asynchub.journal.records import (
    ALIGN,
    BOOL,
    CHECKSUM,
    FLOAT,
    HEAD,
    LENGTH,
    MAGIC,
    NAME,
    NUMBERS,
    RECORD,
    SEQ,
    SHIFT,
    START,
    RecordKind,
)
from asynchub.live import Cell

__all__ = ("TailReader", "contents", "scan")


class _Found(NamedTuple):
    """What a record holds: entries of scalars, an encoded event, or a batch; from ``seq`` to ``seq``."""

    first: int
    last: int
    entries: list[Any]
    event: bytes | None
    batch: Batch | None


class _Half:
    """How far a half has been read.

    Attributes:
        start: where it begins in the file.
        first: ``seq`` at the beginning of what is in it now.
        position: where the next record begins.
        last: ``seq`` of the newest event read from it, -1 if none was; records behind the newest one are older.
        cells: the keys that were defined in it, by number.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.begin(-1)

    def begin(self, first: int) -> None:
        """Read it from the start."""
        self.first, self.position, self.last = first, self.start, -1
        self.cells: dict[int, Cell] = {}


class TailReader:
    """Reads a tail that another process may be writing, renewing or removing.

    Attributes:
        path: the file.
        run_id: identity of the run whose tail it is; None while there is none.
        gap: whether the last ``poll`` found that what comes next is in the segments only.
        more: whether the last ``poll`` ended before it was at the end.

    Args:
        folder: of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.run_id: bytes | None = None
        self.gap = self.more = False
        self._head = b""
        self._halves: list[_Half] = []

    def poll(self, after: int, size: int = 65_536) -> list[Batch]:
        """Return what comes after ``after`` (a ``seq``) without a gap, in order; not all at once, if it is much.

        Args:
            after: the ``seq``.
            size: bytes that are read of each half, about.
        """
        self.gap = self.more = False
        try:
            file = FileIO(self.path)
        except FileNotFoundError:
            return []
        with file:
            return self._poll(file, after, size) if self._is_whole(file) else []

    def beginnings(self) -> list[int]:
        """Return the ``seq`` that each half begins with, as of the last ``poll``; of an older session, perhaps."""
        return sorted(half.first for half in self._halves)

    def _is_whole(self, file: FileIO) -> bool:
        """Tell whether there is a tail now; begin anew if it is another one than before."""
        head = _read(file, 0, HEAD.size + CHECKSUM.size)
        if head == self._head:
            return True
        known, right = head[: HEAD.size], head[HEAD.size :]
        if len(right) < CHECKSUM.size or CHECKSUM.pack(crc32(known)) != right:
            return False  # begun at this moment; or, after a power failure, anything
        magic, major, _, run_id, nonce, half = HEAD.unpack(known)
        if magic != MAGIC or major != 1 or os.fstat(file.fileno()).st_size != START + 2 * half:
            return False
        self._head, self.run_id, self._size = head, run_id, half
        self._seed = crc32(nonce, crc32(run_id))
        self._halves = [_Half(START), _Half(START + half)]
        return True

    def _poll(self, file: FileIO, after: int, size: int) -> list[Batch]:
        taken: list[_Found] = []
        for half in self._halves:
            if half.first != (first := _first(file, half)):
                half.begin(first)
        for half in sorted(self._halves, key=lambda half: half.first):  # the older one first
            for end, found in self._records(file, half, size):
                if found is not None:
                    if found.first > after + 1 and half.last < 0:  # what came before it has been overwritten
                        self.gap = True
                        return _joined(taken)
                    half.last = found.last
                    if found.last > after:
                        taken.append(_cut(found, after))
                        after = found.last
                half.position = end
            if self.more:
                break
        return _joined(taken)

    def _records(self, file: FileIO, half: _Half, size: int) -> Iterator[tuple[int, _Found | None]]:
        """Yield where each of the next records of a half ends, and what it holds, if it is not a key."""
        start, last, room = half.position, half.last, half.start + self._size - half.position
        data = _read(file, start, min(size, room))
        if _whole(data) > len(data):
            data = _read(file, start, min(_whole(data), room))
        if _first(file, half) != half.first:  # begun anew meanwhile
            self.more = True
            return
        position = 0
        while (record := self._record(data, position)) is not None:
            kind, body, position = record
            seq = SEQ.unpack_from(body)[0]
            if seq <= last:  # of an earlier round
                return
            try:
                found = _found(kind, seq, body, half.cells)
            except (StateError, KeyError, struct.error, UnicodeDecodeError):  # a segment will have it in another form
                self.gap = True
                return
            last = found.last if found is not None else last
            yield start + position, found
        rest = data[position : position + RECORD.size]
        self.more = position > 0 and len(data) < room and position + _whole(rest) > len(data)

    def _record(self, data: bytes, start: int) -> tuple[int, bytes, int] | None:
        if start + RECORD.size + SEQ.size > len(data):
            return None
        word, checksum = RECORD.unpack_from(data, start)
        end = start + RECORD.size + (word & LENGTH)
        if word & LENGTH < SEQ.size or end > len(data):
            return None
        body = data[start + RECORD.size : end]
        if crc32(body, self._seed) != checksum:
            return None
        return word >> SHIFT, body, end + -end % ALIGN


def _read(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""


def _whole(data: bytes) -> int:
    """Return how many bytes the record needs that begins with ``data``."""
    return RECORD.size + (RECORD.unpack_from(data)[0] & LENGTH) if len(data) >= RECORD.size else RECORD.size


def _first(file: FileIO, half: _Half) -> int:
    """Return the ``seq`` at the beginning of what is in a half at this moment."""
    return int.from_bytes(_read(file, half.start + RECORD.size, SEQ.size), "little")


def _found(kind: int, seq: int, body: bytes, cells: dict[int, Cell]) -> _Found | None:
    """Return what a record holds; of a key, keep it in ``cells``, and return None."""
    if kind == RecordKind.KEY:
        number, resumed = RECORD.unpack_from(body, SEQ.size)
        key = body[SEQ.size + RECORD.size :].decode("utf-8", "surrogatepass")
        cells[number] = Cell(key, None, [], bool(resumed), False)
        return None
    if kind == RecordKind.EVENT:
        if body[8:9] == b"\1":
            batch = decode_batch(body[9:])
            return _Found(seq, batch.seqs[1], [], None, batch)
        return _Found(seq, seq, [], body[9:], None)
    entries: list[Any] = []
    for start in range(SEQ.size, len(body), NUMBERS[FLOAT].size):
        of = SEQ.unpack_from(body, start + 32)[0] >> 32
        time, step, value, count, number, of = NUMBERS[of].unpack_from(body, start)
        entries += (cells[number], time, None if step == NO_STEP else step, bool(value) if of == BOOL else value)
        entries.append(count)
    return _Found(seq, seq + len(entries) // ENTRY - 1, entries, None, None)


def _cut(found: _Found, after: int) -> _Found:
    """Return what of a record comes after ``after``."""
    if found.first > after:
        return found
    if found.batch is not None:
        return found._replace(first=after + 1, batch=found.batch.between(after, found.last))
    return found._replace(first=after + 1, entries=found.entries[(after + 1 - found.first) * ENTRY :])


def _joined(found: Sequence[_Found]) -> list[Batch]:
    """Return records as batches: one for all, but for those that are a batch already."""
    batches: list[Batch] = []
    for is_batch, group in itertools.groupby(found, key=lambda one: one.batch is not None):
        some = list(group)
        if is_batch:
            batches += [one.batch for one in some if one.batch is not None]
        else:
            runs = [(one.first, one.entries) for one in some if one.event is None]
            batches.append(batch_of(runs, [(one.first, one.event) for one in some if one.event is not None]))
    return batches


def scan(folder: Path, run_id: bytes | None, after: int) -> tuple[bytes | None, list[Batch]]:
    """Return whose the tail of a journal is, and what it has beyond ``after``, the newest ``seq`` in the segments.

    Args:
        folder: of the journal.
        run_id: identity of the run, if there are segments.
        after: the ``seq``.

    Raises:
        CorruptStateError: it is the tail of another run.
    """
    reader = TailReader(folder)
    found = reader.poll(after, 2**20)
    while reader.more:
        found += reader.poll(found[-1].seqs[1] if found else after, 2**20)
    if reader.run_id is None:  # none yet; or, after a power failure, anything
        return run_id, []
    if run_id is not None and reader.run_id != run_id:
        raise CorruptStateError(f"{reader.path} belongs to run {reader.run_id.hex()}, the segments to {run_id.hex()}")
    return reader.run_id, found


def contents(folder: Path) -> tuple[bytes | None, list[Batch]]:
    """Return whose the tail of a journal is, None if it is damaged; and all events that are in it, in order."""
    reader = TailReader(folder)
    found = reader.poll(0)
    for first in reader.beginnings():
        after = max(first - 1, found[-1].seqs[1] if found else 0)
        while batches := reader.poll(after, 2**20):
            found += batches
            after = found[-1].seqs[1]
    return reader.run_id, found
