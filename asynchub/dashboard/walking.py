"""All events of a journal, in batches, from the first to those that are written at this moment.

Exact: each event once, in the order of ``seq``. What was deleted is an ``EventsDropped`` in its place.
Damaged: what cannot be read is said in ``damages``, with the byte at which it begins, and passed over.
Sessions: a journal that was closed and is written again has begun another one.
Harmless: nothing is locked, nothing is written.
Threads: one at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from asynchub.batches import Batch, decode_batch, decode_event
from asynchub.dashboard.heads import journal_head
from asynchub.errors import CorruptStateError, JournalError, StateError
from asynchub.events import EventsDropped, Rewound
from asynchub.journal.frames import (
    FRAME_SIZE,
    REWINDS,
    SEGMENT_SIZE,
    Frame,
    Kind,
    SegmentHead,
    frame_size,
    frames,
    later_frame,
    read_head,
)
from asynchub.journal.reading import Damage, segment_files
from asynchub.journal.tailing import TailReader

__all__ = ("Taken", "Walk", "newer_batches", "newest_batches", "oldest_batches", "rewinds_in")

SIZE = 2**20
"""Bytes that are read at once, unless a frame has more."""
NEWEST = 2**18
"""Bytes of the newest segment that are looked at first."""
OLDEST = 2**17
"""Bytes of the oldest segment that tell how a run was begun."""
MOST_DAMAGES = 100
KIND_AT, FLAGS_AT = 12, 13
"""Where, in the header of a frame, its kind and its flags stand."""


class Taken(NamedTuple):
    """What comes next.

    Attributes:
        batch: the events, or how many are missing.
        begins: whether the journal was closed before them, and is written again.
    """

    batch: Batch | EventsDropped
    begins: bool = False


class Walk:
    """Goes through a journal once.

    Attributes:
        seq: everything up to this was taken, or is missing.
        durable_seq: everything up to this is on the disk, as the frames say.
        closed: whether the newest frame that was read says that no more will come.
        damages: what cannot be read.

    Args:
        folder: of the journal.
        run_id: identity of its run, 16 bytes.
    """

    def __init__(self, folder: Path, run_id: bytes) -> None:
        self.seq = self.durable_seq = 0
        self.closed = self._over = False
        self.damages: list[Damage] = []
        self._folder, self._run_id = folder, run_id
        self._index = self._offset = self._seed = 0
        self._path = folder
        self._head = b""
        self._end = self._seen = (0, 0)
        self._tail = TailReader(folder)

    def read(self) -> list[Taken]:
        """Return the next events of the segments, then of the tail; nothing at the end of what there is.

        Raises:
            JournalError: another run has taken the place of this one.
            UnknownTypeError: a newer version wrote it.
            OSError: it cannot be read.
        """
        try:
            files = segment_files(self._folder)
            end = (files[-1][0], files[-1][2].stat().st_size) if files else (0, 0)
        except FileNotFoundError:  # deleted at this moment
            return []
        if end != self._end:
            if end[0] < self._index:  # of another run, or begun anew
                self._index = 0
            for number, (index, first_seq, path) in enumerate(files):
                if index < self._index:
                    continue
                missing = self._enter(index, first_seq, path) if index > self._index else []
                if missing or (found := self._segment(path, is_last=number == len(files) - 1)):
                    return missing or found
            self._end = end
        return self._from_tail()

    def _enter(self, index: int, first_seq: int, path: Path) -> list[Taken]:
        """Go on to a segment; return what tells of the events before it that are gone."""
        before, left = self._path, self._index and self._path.exists()
        self._index, self._offset, self._path = index, 0, path
        missed = first_seq - 1 - self.seq
        if missed <= 0:
            return []
        if left:
            known = any(damage.path == before and (damage.last_seq or 0) >= self.seq for damage in self.damages)
            if not known:
                self._add(Damage(before, self._seen[1], self.seq + 1, first_seq - 1))
        self.seq = first_seq - 1
        return [] if left else [Taken(EventsDropped(seq=self.seq, time=path.stat().st_mtime, missed=missed))]

    def _add(self, damage: Damage) -> None:
        if len(self.damages) < MOST_DAMAGES:
            self.damages.append(damage)

    def _segment(self, path: Path, is_last: bool) -> list[Taken]:
        try:
            file = FileIO(path)
        except FileNotFoundError:
            return []
        with file:
            head = _at(file, 0, SEGMENT_SIZE)
            if head != self._head and not self._begun(file, head, path, is_last):
                return []
            found: list[Taken] = []
            while not found:
                whole = list(frames(_frames_at(file, self._offset), self._seed, 0, self._offset))
                for frame in whole:
                    self._take(frame, found, path)
                if not whole and not self._passed(file, path):
                    break
            self._seen = (self._index, self._offset)
            return found

    def _begun(self, file: FileIO, data: bytes, path: Path, is_last: bool) -> bool:
        """Begin with a segment that has this head; tell whether its frames can be read."""
        try:
            head = read_head(data)
        except CorruptStateError:
            if is_last and len(data) <= SEGMENT_SIZE and not _at(file, SEGMENT_SIZE, 1):
                return False  # begun at this moment, or torn
            self._add(Damage(path, 0, self.seq + 1, None))
            head = SegmentHead(self._run_id, self._index, self.seq + 1, 0)
        if head.run_id != self._run_id:
            raise JournalError(f"{path} belongs to run {head.run_id.hex()}, what was read before does not")
        self._head, self._seed, self._offset = data, head.seed, SEGMENT_SIZE
        return True

    def _take(self, frame: Frame, found: list[Taken], path: Path) -> None:
        self._offset = frame.end
        self.durable_seq = max(self.durable_seq, frame.durable_seq)
        self.closed = frame.kind == Kind.CLOSE
        self._over = self._over or self.closed
        if frame.kind != Kind.EVENTS or frame.last_seq <= self.seq:
            return
        try:
            batch = decode_batch(frame.payload).between(self.seq, frame.last_seq)
        except StateError:
            self._add(Damage(path, frame.start, self.seq + 1, frame.last_seq))
        else:
            found.append(Taken(batch, self._over))
            self._over = False
        self.seq = frame.last_seq

    def _passed(self, file: FileIO, path: Path) -> bool:
        """Go on behind what is no frame, if something whole is there; else it is written at this moment, or torn."""
        rest = _at(file, self._offset, -1)
        later = later_frame(rest, self._seed, 0) if rest else None
        if later is None or next(frames(_frames_at(file, self._offset), self._seed, 0), None) is not None:
            return later is not None  # it is whole by now
        self._add(Damage(path, self._offset, self.seq + 1, max(later.first_seq - 1, self.seq + 1)))
        self._offset += later.start
        return True

    def _from_tail(self) -> list[Taken]:
        found = self._tail.poll(self.seq)
        if not found:
            return []
        if self._tail.run_id != self._run_id:
            raise JournalError(f"{self._tail.path} belongs to another run than the segments beside it")
        self.seq = found[-1].seqs[1]
        begins, self._over, self.closed = self._over, False, False
        return [Taken(batch, begins and not number) for number, batch in enumerate(found)]


# --- the ends of a journal, at once


def newest_batches(folder: Path, most: int = sys.maxsize) -> tuple[list[Batch], bool]:
    """Return the newest events of a journal, some at least, in order; and whether it ends as one that was closed.

    Damage is passed over.

    Args:
        folder: of the journal.
        most: batches that are wanted of its segments, at most.

    Raises:
        OSError: it cannot be read.
    """
    head = journal_head(folder)
    found: list[Batch] = []
    closed = False
    for number, (_, _, path) in enumerate(reversed(segment_files(folder))):
        found, is_closed = _end_of(path, most)
        closed = closed or (is_closed and not number)
        if found:
            break
    seq = found[-1].seqs[1] if found else 0
    tail = TailReader(folder)
    fresh = tail.poll(seq, salvage=True)
    while tail.more and fresh:
        fresh += tail.poll(fresh[-1].seqs[1], salvage=True)
    if head is None or tail.run_id in (None, head.run_id):
        found += fresh
        closed = closed and not fresh
    return found, closed


def newer_batches(folder: Path, tail: TailReader, after: int) -> tuple[list[Batch], bool] | None:
    """Return the events of a journal after one, and whether it ends as one that was closed.

    Args:
        folder: of the journal.
        tail: reads its tail, and has not read beyond that event.
        after: ``seq`` of the event.

    Returns:
        The events, in order; None if they are more than the newest bytes of the journal, or damaged.

    Raises:
        OSError: it cannot be read.
    """
    files = segment_files(folder)
    if not files:
        return None
    with FileIO(files[-1][2]) as file:
        seed = read_head(_at(file, 0, SEGMENT_SIZE)).seed
        size = files[-1][2].stat().st_size
        start = max(size - NEWEST, SEGMENT_SIZE)
        start -= (start - SEGMENT_SIZE) % 8
        data = bytes(8) + _at(file, start, -1)
    some = list(_whole_frames(data, seed))
    found = []
    for frame in some:
        if frame.kind == Kind.EVENTS and frame.last_seq > after:
            if frame.first_seq > after + 1:
                return None
            found.append(decode_batch(frame.payload).between(after, frame.last_seq))
            after = frame.last_seq
    fresh = tail.poll(after, NEWEST)
    while tail.more and fresh:
        fresh += tail.poll(fresh[-1].seqs[1], NEWEST)
    if not some or tail.gap or tail.more:
        return None
    return found + fresh, some[-1].kind == Kind.CLOSE and not fresh


def _end_of(path: Path, most: int) -> tuple[list[Batch], bool]:
    """Return the newest events of a segment, and whether its last frame says that no more will come."""
    with FileIO(path) as file:
        try:
            seed = read_head(_at(file, 0, SEGMENT_SIZE)).seed
        except CorruptStateError:
            return [], False
        size = path.stat().st_size
        room = NEWEST
        while True:
            start = max(size - room, SEGMENT_SIZE)
            start -= (start - SEGMENT_SIZE) % 8
            data = bytes(8) + _at(file, start, -1)  # frames are looked for behind the first byte
            found = _salvaged(data, seed, most)
            if found[0] or start == SEGMENT_SIZE:
                return found
            room *= 8


def _salvaged(data: bytes, seed: int, most: int) -> tuple[list[Batch], bool]:
    """Return the events of the last whole frames in some bytes, and whether the last says that no more will come."""
    payloads: list[bytes] = []
    closed = False
    for one in _whole_frames(data, seed):
        closed = one.kind == Kind.CLOSE
        if one.kind == Kind.EVENTS:
            payloads.append(one.payload)
    found: list[Batch] = []
    for payload in reversed(payloads):
        if len(found) == most:
            break
        with suppress(StateError):
            found.append(decode_batch(payload))
    return found[::-1], closed


def _whole_frames(data: bytes, seed: int) -> Iterator[Frame]:
    """Yield the whole frames in some bytes behind the first one."""
    place = 0
    while (frame := later_frame(data, seed, place)) is not None:
        for one in (frame, *frames(data, seed, frame.end)):
            place = one.end - 1
            yield one


def oldest_batches(folder: Path) -> list[Batch]:
    """Return the first events of a journal, as far as they are in its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    for _, _, path in segment_files(folder)[:1]:
        with FileIO(path) as file:
            data = _at(file, 0, OLDEST)
        try:
            seed = read_head(data[:SEGMENT_SIZE]).seed
            return [decode_batch(frame.payload) for frame in frames(data, seed) if frame.kind == Kind.EVENTS]
        except StateError:
            return []
    return []


def rewinds_in(folder: Path) -> list[tuple[int, int]]:
    """Return ``seq`` and ``to_seq`` of each ``Rewound`` in the segments, oldest first; only heads of frames are read.

    Raises:
        OSError: they cannot be read.
    """
    found: dict[int, int] = {}
    for _, _, path in segment_files(folder):
        with FileIO(path) as file:
            try:
                seed = read_head(_at(file, 0, SEGMENT_SIZE)).seed
            except CorruptStateError:
                continue
            for offset, size in _flagged(file):
                for frame in frames(_at(file, offset, size), seed, 0):
                    found.update(_rewinds_of(frame))
    return sorted(found.items())


def _flagged(file: FileIO) -> Iterator[tuple[int, int]]:
    """Yield where frames are that have a ``Rewound``, and their sizes."""
    offset = SEGMENT_SIZE
    while size := frame_size(header := _at(file, offset, FRAME_SIZE)):
        if header[KIND_AT] == Kind.EVENTS and header[FLAGS_AT] & REWINDS:
            yield offset, size
        offset += size


def _rewinds_of(frame: Frame) -> Iterator[tuple[int, int]]:
    try:
        events = decode_batch(frame.payload).events
    except StateError:
        return
    for _, data in events:
        if b"Rewound" in data:
            event, _ = decode_event(data)
            if isinstance(event, Rewound):
                yield event.seq, event.to_seq


def _at(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""


def _frames_at(file: FileIO, offset: int) -> bytes:
    """Return some bytes from there on, one whole frame at least if there is one."""
    data = _at(file, offset, SIZE)
    if frame_size(data) > len(data) == SIZE:
        data = _at(file, offset, frame_size(data))
    return data
