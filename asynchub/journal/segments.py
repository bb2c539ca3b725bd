"""Reading the segments of a journal while another process writes them.

Whole: a frame counts when all of it is there and its checksum is right; a segment is over when there is a later one.
Missing: events whose segment was deleted are counted, by an ``EventsDropped`` in their place; events that were promised
    and cannot be read are an error.
Threads: one at a time uses a reader; nothing is locked or written.
"""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from asynchub.batches import Batch, decode_batch
from asynchub.errors import CorruptStateError, JournalCorruptError, JournalError
from asynchub.events import EventsDropped
from asynchub.journal.frames import SEGMENT_SIZE, Frame, Kind, frame_size, frames, later_frame, read_head
from asynchub.journal.reading import Damage, segment_files

__all__ = ("SegmentReader",)

SIZE = 2**20
"""Bytes that are read at once, unless a frame has more."""


class SegmentReader:
    """Reads segments, each once, from front to back.

    Attributes:
        last_seq: everything up to this ``seq`` was returned, or need not be.
        run_id: identity of the run; None before anything was read.
        closed: whether the newest frame that was read says that no more will come.

    Args:
        folder: of the journal.
        last_seq: the ``seq`` after which to begin.
    """

    def __init__(self, folder: Path, last_seq: int) -> None:
        self.last_seq = last_seq
        self.run_id: bytes | None = None
        self.closed = True
        self._folder = folder
        self._index = 0
        self._head = self._head_run_id = b""
        self._seed = self._offset = 0
        self._checked = (0, 0)

    def read(self) -> list[Batch | EventsDropped]:
        """Return the next events; nothing at the end of what there is.

        Raises:
            JournalError: the segments of another run have taken the place of those that were read.
            JournalCorruptError: what was promised is damaged.
            StateError: a frame is not what a frame is.
        """
        try:
            files = segment_files(self._folder)  # before one is read: that is over if a later one was there
        except FileNotFoundError:
            return []
        if files and files[-1][0] < self._index:  # of another run, or begun anew without an event
            self._index = 0
        if not self._index:
            known = [at for at, (_, first_seq, _) in enumerate(files) if first_seq <= self.last_seq + 1]
            files = files[max(known, default=0) :]
        for index, first_seq, path in files:
            if index > self._index and (missing := self._enter(index, first_seq, path)):
                return missing
            if index == self._index and (found := self._read(path)):
                return found
        return []

    def _enter(self, index: int, first_seq: int, path: Path) -> list[Batch | EventsDropped]:
        """Go on to a segment; return what tells of the events before it that are gone."""
        missed = first_seq - 1 - self.last_seq
        if missed > 0:
            left = [one for one in segment_files(self._folder) if one[0] == self._index]
            if left and index == self._index + 1:
                raise JournalCorruptError([Damage(left[0][2], self._offset, self.last_seq + 1, first_seq - 1)])
        self._index = index
        if missed <= 0:
            return []
        self.last_seq += missed
        return [EventsDropped(seq=self.last_seq, time=path.stat().st_mtime, missed=missed)]

    def _read(self, path: Path) -> list[Batch | EventsDropped]:
        """Return the next events of a segment."""
        try:
            file = FileIO(path)
        except FileNotFoundError:  # deleted at this moment
            return []
        with file:
            if not self._is_whole(path, _at(file, 0, SEGMENT_SIZE)):
                return []
            found: list[Batch | EventsDropped] = []
            while not found and (whole := self._frames(file)):
                for frame in whole:
                    self._offset, self.closed = frame.end, frame.kind == Kind.CLOSE
                    if frame.kind == Kind.EVENTS and frame.last_seq > self.last_seq:
                        found.append(decode_batch(frame.payload).between(self.last_seq, frame.last_seq))
                        self.last_seq = frame.last_seq
                        self.run_id = self._head_run_id
            if not found:
                self._check_rest(path, file)
            return found

    def _is_whole(self, path: Path, head: bytes) -> bool:
        """Tell whether a segment has a head; begin with it if it is another one than before."""
        if head == self._head:
            return True
        try:
            read = read_head(head)
        except CorruptStateError:  # begun at this moment; or torn, which the next segment will tell
            return False
        if self.run_id not in (None, read.run_id):
            raise JournalError(
                f"{path} belongs to run {read.run_id.hex()}, what was read before to run {self.run_id.hex()}: "
                "somebody has put another run in its place; follow it from its beginning"
            )
        self._head, self._head_run_id = head, read.run_id
        self._seed, self._offset = read.seed, SEGMENT_SIZE
        return True

    def _frames(self, file: FileIO) -> list[Frame]:
        data = _at(file, self._offset, SIZE)
        if frame_size(data) > len(data) == SIZE:
            data = _at(file, self._offset, frame_size(data))
        return list(frames(data, self._seed, 0, self._offset))

    def _check_rest(self, path: Path, file: FileIO) -> None:
        """Raise an error if what is behind the last whole frame is not one that is being written."""
        size = os.fstat(file.fileno()).st_size
        if size == self._offset or (self._offset, size) == self._checked:
            return
        later = later_frame(_at(file, self._offset, size - self._offset), self._seed, 0)
        if later is not None and not self._frames(file):  # it was complete, then, when the later one was written
            last = max(later.first_seq - 1, self.last_seq + 1)
            raise JournalCorruptError([Damage(path, self._offset, self.last_seq + 1, last)])
        self._checked = self._offset, size


def _at(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""
