"""Reading the tail of a journal, also while another process writes it.

Exact: a record counts if its checksum is right, which what an earlier round or an earlier session left has not. Where
    the ``seq`` of two records leaves room, and no third says that nothing is between them, it was overwritten.
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

from asynchub.batches import Batch, batch_of, decode_batch
from asynchub.errors import CorruptStateError, StateError
from asynchub.events import ENTRY
from asynchub.history import NO_STEP
from asynchub.journal.tail import (
    ALIGN,
    BOOL,
    CHECKSUM,
    ENTRIES,
    HALF_HEAD,
    MAGIC,
    NAME,
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

__all__ = ("TailReader", "contents", "scan")


LENGTH = (1 << SHIFT) - 1


class _Found(NamedTuple):
    """What a record holds: entries of scalars, an encoded event, or a batch; from ``seq`` to ``seq``.

    Or, with ``before``, that no event has a ``seq`` after that and up to ``last``.
    """

    first: int
    last: int
    entries: list[Any]
    event: bytes | None = None
    batch: Batch | None = None
    before: int | None = None


class _Half:
    """How far a half has been read.

    Attributes:
        start: where it begins in the file.
        head: what says which round it is.
        number: number of the round, 0 if it was never begun.
        before: everything up to this ``seq`` was elsewhere when the round began.
        seed: what the checksums of its records begin with.
        position: where the next record begins.
        gap: that no event has a ``seq`` after the first and up to the second of these, as the last records said.
        cells: the keys that were defined in it, by number.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.head = b""
        self.number = self.before = self.seed = 0
        self.gap = (0, 0)
        self.position = start
        self.cells: dict[int, Cell] = {}

    def begin(self, head: bytes, own: int) -> None:
        """Read it from the start, if it has one.

        Args:
            head: what it begins with.
            own: what the checksums of this tail begin with.
        """
        self.__init__(self.start)  # type: ignore[misc]  # all of it anew
        self.head = head
        seed = crc32(head[: SEQS.size], own)
        if len(head) == HALF_HEAD and CHECKSUM.unpack_from(head, SEQS.size)[0] == seed:
            self.number, self.before = SEQS.unpack_from(head)
            self.seed, self.position = seed, self.start + HALF_HEAD


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

    def poll(self, after: int, size: int = 65_536, salvage: bool = False) -> list[Batch]:
        """Return what comes after ``after`` (a ``seq``) without a gap, in order; not all at once, if it is much.

        Args:
            after: the ``seq``.
            size: bytes that are read of each half, about.
            salvage: whether to go on behind a gap.
        """
        self.gap = self.more = False
        try:
            file = FileIO(self.path)
        except FileNotFoundError:
            return []
        with file:
            return self._poll(file, after, size, salvage) if self._is_whole(file) else []

    def beginnings(self) -> list[int]:
        """Return the ``seq`` that each half begins with, as of the last ``poll``; of an older session, perhaps."""
        return sorted(half.before + 1 for half in self._halves if half.number)

    def _is_whole(self, file: FileIO) -> bool:
        """Tell whether there is a tail now; begin anew if it is another one than before."""
        head = _read(file, 0, TAIL_HEAD.size + CHECKSUM.size)
        if head == self._head:
            return True
        known, right = head[: TAIL_HEAD.size], head[TAIL_HEAD.size :]
        if len(right) < CHECKSUM.size or CHECKSUM.pack(crc32(known)) != right:
            return False  # begun at this moment; or, after a power failure, anything
        magic, major, _, run_id, nonce, half = TAIL_HEAD.unpack(known)
        if magic != MAGIC or major != 1 or os.fstat(file.fileno()).st_size != START + 2 * half:
            return False
        self._head, self.run_id, self._size = head, run_id, half
        self._own = crc32(nonce, crc32(run_id))
        self._halves = [_Half(START), _Half(START + half)]
        return True

    def _poll(self, file: FileIO, after: int, size: int, salvage: bool) -> list[Batch]:
        taken: list[_Found] = []
        for half in self._halves:
            if half.head != (head := _read(file, half.start, HALF_HEAD)):
                half.begin(head, self._own)
        for half in sorted(self._halves, key=lambda half: half.number):  # the older one first
            if half.gap[0] <= after:
                after = max(after, half.gap[1])
            for end, found in self._records(file, half, size):
                if found is not None:
                    if found.before is not None and found.before <= after:
                        half.gap = found.before, found.last
                        after = max(after, found.last)
                    elif found.first > after + 1 and not salvage:  # what came between has been overwritten
                        self.gap = True
                        return _joined(taken)
                    elif found.last > after:
                        taken.append(_cut(found, after))
                        after = found.last
                half.position = end
            if self.more:
                break
        return _joined(taken)

    def _records(self, file: FileIO, half: _Half, size: int) -> Iterator[tuple[int, _Found | None]]:
        """Yield where each of the next records of a half ends, and what it holds, if it is not a key."""
        if not half.number:
            return
        start, room = half.position, half.start + self._size - half.position
        data = _read(file, start, min(size, room))
        if _whole(data) > len(data):
            data = _read(file, start, min(_whole(data), room))
        if _read(file, half.start, HALF_HEAD) != half.head:  # begun anew meanwhile
            self.more = True
            return
        position = 0
        while (record := self._record(data, position, half.seed)) is not None:
            kind, body, position = record
            try:
                found = _found(kind, body, half.cells)
            except (StateError, KeyError, struct.error, UnicodeDecodeError):  # a segment will have it in another form
                self.gap = True
                return
            yield start + position, found
        rest = data[position : position + RECORD.size]
        self.more = position > 0 and len(data) < room and position + _whole(rest) > len(data)

    def _record(self, data: bytes, start: int, seed: int) -> tuple[int, bytes, int] | None:
        if start + RECORD.size + SEQ.size > len(data):
            return None
        word, checksum = RECORD.unpack_from(data, start)
        end = start + RECORD.size + (word & LENGTH)
        if word & LENGTH < SEQ.size or end > len(data):
            return None
        body = data[start + RECORD.size : end]
        if record_checksum(word, body, seed) != checksum:
            return None
        return word >> SHIFT, body, end + -end % ALIGN


def _read(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""


def _whole(data: bytes) -> int:
    """Return how many bytes the record needs that begins with ``data``."""
    return RECORD.size + (RECORD.unpack_from(data)[0] & LENGTH) if len(data) >= RECORD.size else RECORD.size


def _found(kind: int, body: bytes, cells: dict[int, Cell]) -> _Found | None:
    """Return what a record holds; of a key, keep it in ``cells``, and return None."""
    seq = SEQ.unpack_from(body)[0]
    if not 0 < seq < 2**62:
        raise CorruptStateError(f"there is no event {seq}")
    if kind == Record.KEY:
        number, resumed = RECORD.unpack_from(body, SEQ.size)
        key = body[SEQ.size + RECORD.size :].decode("utf-8", "surrogatepass")
        cells[number] = Cell(key, None, [], bool(resumed), False)
        return None
    if kind == Record.GAP:
        return _Found(seq, seq - 1, [], before=SEQ.unpack_from(body, SEQ.size)[0])
    if kind == Record.EVENT:
        if body[8:9] == b"\1":
            batch = decode_batch(body[9:])
            if batch.seqs[0] != seq:
                raise CorruptStateError(f"wanted event {seq} first, got {batch.seqs[0]}")
            return _Found(seq, batch.seqs[1], [], batch=batch)
        return _Found(seq, seq, [], event=body[9:])
    entries: list[Any] = []
    for start in range(SEQ.size, len(body), ENTRIES[0].size):
        of = SEQ.unpack_from(body, start + 32)[0] >> 32
        time, step, value, count, number = ENTRIES[of].unpack_from(body, start)
        value = bool(value) if of == BOOL else value
        entries += (cells[number & 0xFFFFFFFF], time, None if step == NO_STEP else step, value, count)
    return _Found(seq, seq + len(entries) // ENTRY - 1, entries)


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


def scan(folder: Path, run_id: bytes | None, after: int, salvage: bool) -> tuple[bytes | None, list[Batch]]:
    """Return whose the tail of a journal is, and what it has beyond ``after``, the newest ``seq`` in the segments.

    Args:
        folder: of the journal.
        run_id: identity of the run, if there are segments.
        after: the ``seq``.
        salvage: whether to go on behind a gap.

    Raises:
        CorruptStateError: it is the tail of another run.
    """
    reader = TailReader(folder)
    found = reader.poll(after, 2**20, salvage)
    while reader.more:
        found += reader.poll(found[-1].seqs[1] if found else after, 2**20, salvage)
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
