"""The end of a journal, in memory that the operating system shares with a file: it outlives the process.

What was put is there after ``kill -9``, without a system call; after a power failure it may be anything, and is found
to be. It is a place for what is not in a segment yet: two halves, of which one is filled while the other one is
written to a segment. Each time a half is begun it gets a new number, with which the checksums of its records begin:
what was in it before is no record.

Threads: any thread may call anything here; ``asynchub.journal.putting`` writes it.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from asynchub.errors import CorruptStateError, StateError
from asynchub.events import ENTRY
from asynchub.filing import Run
from asynchub.history import NO_STEP
from asynchub.journal.batches import Batch, decode_batch, pieces
from asynchub.live import Cell

__all__ = (
    "ALIGN",
    "BOOL",
    "CHECKSUM",
    "ENTRIES",
    "HALF_HEAD",
    "KIND_OF",
    "MAGIC",
    "NAME",
    "ONE",
    "RECORD",
    "SEQ",
    "SEQS",
    "SHIFT",
    "START",
    "TAIL_HEAD",
    "Record",
    "TailReader",
    "record_checksum",
    "scan",
)

NAME = "tail.mm"
MAGIC = b"\x89AHT\r\n\x1a\n"
START = 4096
"""Where the first half begins."""
TAIL_HEAD = struct.Struct("<8sHH16s8sQ")
CHECKSUM = struct.Struct("<I")
RECORD = struct.Struct("<II")
ONE = struct.Struct("<QQdqdqQ")
ENTRIES = {kind: struct.Struct(f"<dq{code}qQ") for kind, code in enumerate("dqq")}
SEQ = struct.Struct("<Q")
SEQS = struct.Struct("<QQ")
HALF_HEAD = SEQS.size + 8
"""Bytes of the head of a half: its number, the ``seq`` before it, and a checksum."""
FLOAT, INT, BOOL = range(3)
KIND_OF = {float: FLOAT, int: INT, bool: BOOL}
SHIFT = 28
"""Bits of the first word of a record that are its length; the others are its kind."""
ALIGN = 8


class Record(IntEnum):
    """What a record holds."""

    SCALARS = 1
    KEY = 2
    EVENT = 3
    GAP = 4


def record_checksum(word: int, body: bytes, seed: int) -> int:
    """Return the checksum of a record: of all of it, with zeros where the checksum is."""
    return crc32(body, crc32(RECORD.pack(word, 0), seed))


class _Found(NamedTuple):
    first: int
    last: int
    entries: list[Any]
    event: bytes | None = None
    batch: Batch | None = None
    before: int | None = None


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
            head = file.read(TAIL_HEAD.size + 4)
            if len(head) < TAIL_HEAD.size + 4 or head[: len(MAGIC)] != MAGIC:
                raise CorruptStateError(f"{self.path}: wanted the tail of a journal, got {head[:8]!r}")
            if crc32(head[: TAIL_HEAD.size]) != CHECKSUM.unpack_from(head, TAIL_HEAD.size)[0]:
                raise CorruptStateError(f"{self.path}: the checksum of the head is wrong")
            _, major, _, self.run_id, self.nonce, self._half = TAIL_HEAD.unpack_from(head)
            size = os.fstat(file.fileno()).st_size
            if major != 1 or size != START + 2 * self._half:
                raise CorruptStateError(f"{self.path}: a tail with halves of {self._half} bytes has {size} bytes")
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._own = crc32(self.nonce, crc32(self.run_id))
        self._cells: dict[tuple[str, bool], Cell] = {}
        self._numbered: list[dict[int, Cell]] = [{}, {}]
        self._rounds = [0, 0]
        self._positions = [0, 0]

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def poll(self, after: int, salvage: bool = False) -> list[Batch]:
        """Return what comes after ``after`` (a ``seq``) without a gap, as far as it is here, in order.

        Args:
            after: the ``seq``.
            salvage: whether to go on behind a gap.
        """
        batches: list[Batch] = []
        runs: list[Run] = []
        events: list[tuple[int, bytes]] = []
        for one in sorted([*self._read(0), *self._read(1)], key=lambda one: one.first):
            if one.before is not None and one.before <= after:  # no event ever had a `seq` between
                after = max(after, one.last)
            if one.last <= after:
                continue
            if one.first > after + 1 and not salvage:  # what came between has been overwritten: it is in a segment
                self._rounds = [0, 0]
                break
            if one.batch is not None:
                batches += [*pieces(runs, events), one.batch.between(after, one.last)]
                runs, events = [], []
            elif one.event is not None:
                events.append((one.first, one.event))
            else:
                first = max(after + 1, one.first)
                runs.append((first, one.entries[(first - one.first) * ENTRY :]))
            after = one.last
        return batches + pieces(runs, events)

    def _read(self, number: int) -> Iterator[_Found]:
        """Yield the records of a half, from where the last call ended if it was not begun anew since."""
        start = START + number * self._half
        head = self._map[start : start + HALF_HEAD]
        seed = crc32(head[: SEQS.size], self._own)
        if seed != CHECKSUM.unpack_from(head, SEQS.size)[0]:
            return
        of, _ = SEQS.unpack_from(head)
        if of != self._rounds[number]:
            self._numbered[number], self._positions[number], self._rounds[number] = {}, start + HALF_HEAD, of
        while (record := self._record(self._positions[number], start + self._half, seed)) is not None:
            kind, body, end = record
            try:
                found = self._found(kind, body, self._numbered[number])
            except (StateError, KeyError, struct.error, UnicodeDecodeError):  # written by somebody else
                return
            self._positions[number] = end
            if found is not None:
                yield found

    def _record(self, start: int, stop: int, seed: int) -> tuple[int, bytes, int] | None:
        if start + 16 > stop:
            return None
        word, checksum = RECORD.unpack(self._map[start : start + 8])
        length = word & (1 << SHIFT) - 1
        if length < 8 or start + 8 + length > stop:
            return None
        body = self._map[start + 8 : start + 8 + length]
        if record_checksum(word, body, seed) != checksum:
            return None
        end = start + 8 + length
        return word >> SHIFT, body, end + -end % ALIGN

    def _found(self, kind: int, body: bytes, cells: dict[int, Cell]) -> _Found | None:
        seq = SEQ.unpack_from(body)[0]
        if not 0 < seq < 2**62:
            raise CorruptStateError(f"there is no event {seq}")
        if kind == Record.KEY:
            number, resumed = RECORD.unpack_from(body, 8)
            of = body[16:].decode("utf-8", "surrogatepass"), bool(resumed)
            if of not in self._cells:
                self._cells[of] = Cell(of[0], None, [], of[1], False)
            cells[number] = self._cells[of]
            return None
        if kind == Record.GAP:
            return _Found(seq, seq - 1, [], before=SEQ.unpack_from(body, 8)[0])
        if kind == Record.EVENT:
            if body[8:9] == b"\1":
                batch = decode_batch(body[9:])
                if batch.seqs[0] != seq:
                    raise CorruptStateError(f"wanted event {seq} first, got {batch.seqs[0]}")
                return _Found(seq, batch.seqs[1], [], batch=batch)
            return _Found(seq, seq, [], event=body[9:])
        entries: list[Any] = []
        for start in range(8, len(body), ENTRIES[FLOAT].size):
            of_value = SEQ.unpack_from(body, start + 32)[0] >> 32
            time, step, value, count, number = ENTRIES[of_value].unpack_from(body, start)
            value = bool(value) if of_value == BOOL else value
            entries += (cells[number & 0xFFFFFFFF], time, None if step == NO_STEP else step, value, count)
        return _Found(seq, seq + len(entries) // ENTRY - 1, entries)


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
    try:
        reader = TailReader(folder)
    except (FileNotFoundError, CorruptStateError):  # none yet; or, after a power failure, anything
        return run_id, []
    try:
        if run_id is not None and reader.run_id != run_id:
            raise CorruptStateError(f"{reader.path} is of run {reader.run_id.hex()}, the segments are not")
        return reader.run_id, reader.poll(after, salvage)
    finally:
        reader.close()
