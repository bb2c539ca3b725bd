"""A segment of a spool: frames of one epoch in a row, in a file, or in memory while the disk takes none.

Whole: a frame is appended in one write, and a file is replaced by renaming another: a process that is killed leaves
    what there was, or what there is.
Threads: one at a time uses a segment.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from asynchub.bridges.frames import Frame, decode_frame
from asynchub.bridges.records import Found, Record, found_records, pack_record
from asynchub.bridges.spool_folder import CLOEXEC, segment_path, write_whole
from asynchub.errors import CorruptStateError, StateError

__all__ = ("Refused", "Segment", "damage")

Refused = Callable[[str, Exception], object]
"""Called with where something damaged or foreign is, and what is wrong with it."""


class Segment:
    """Frames of one epoch in a row; empty, and in memory, at first.

    Args:
        folder: of the spool; None: it stays in memory.
        epoch: of its frames.
        begin: number of its first frame.

    Attributes:
        epoch: of its frames.
        waiting: how many of its frames a broker has not got.
        last: number of its newest frame; -1 if it has none.
        size: bytes that it takes.
        held: its bytes, if they are in memory; None if they are in its file.
        level: how often it was thinned.
        stuck: whether thinning does not make it smaller any more.
    """

    def __init__(self, folder: Path | None, epoch: int, begin: int) -> None:
        self._path = None if folder is None else segment_path(folder, epoch, begin)
        self.epoch = epoch
        self.waiting = 0
        self.last = -1
        self.size = 0
        self.held: bytearray | None = bytearray()
        self.level = 0
        self.stuck = False
        self._file: int | None = None
        self._taken = -1
        self._records: deque[Record] | None = deque()

    @property
    def source(self) -> str:
        """Where it is, in words."""
        return "a spool in memory" if self._path is None else str(self._path)

    def reopen(self, found: Found, after: int, taken: int) -> None:
        """Be what an earlier process has left in the file.

        Args:
            found: what is in the file.
            after: frames up to this number are in an earlier segment.
            taken: a broker has all frames up to this number.
        """
        self.held, self._records, self._taken = None, None, max(after, taken)
        self.size = found.whole
        numbers = [record.number for record in found.records]
        self.last = max(numbers, default=-1)
        self.waiting = sum(number > self._taken for number in numbers)

    # --- appending

    def create(self) -> None:
        """Have what will be appended go to a new file.

        Raises:
            OSError: the disk refuses.
        """
        self._file = os.open(self.source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | CLOEXEC, 0o666)
        self.held = None

    def append(self, number: int, data: bytes) -> None:
        """Append the bytes of a frame.

        Raises:
            OSError: the disk refuses; nothing is there of it.
        """
        record = pack_record(number, data)
        if self.held is not None:
            self.held += record
        elif self._file is not None:
            _write(self._file, record, self.size)
        self.size += len(record)
        self.last = number
        self.waiting += 1
        if self._records is not None:
            self._records.append(Record(number, self.size - len(data), self.size))

    def seal(self) -> None:
        """End it: nothing is appended any more."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what a file system tells so late, a reader finds damaged
                os.close(file)

    # --- reading

    def records(self) -> deque[Record]:
        """Return where its waiting frames are, oldest first.

        Raises:
            OSError: the file cannot be read.
        """
        if self._records is None:
            found = found_records(self._bytes())
            self._records = deque(record for record in found.records if record.number > self._taken)
            self.waiting = len(self._records)
        return self._records

    def forget_records(self) -> None:
        """Let go of what was noted to read it."""
        self._records = None

    def read(self, record: Record) -> bytes:
        """Return the bytes of a frame.

        Raises:
            OSError: the file cannot be read.
        """
        if self.held is not None:
            return bytes(self.held[record.start : record.stop])
        with open(self.source, "rb", buffering=0) as file:
            file.seek(record.start)
            return file.read(record.stop - record.start)

    def frames(self, refused: Refused) -> Iterator[Frame]:
        """Yield its waiting frames; tell of those that are none.

        Raises:
            OSError: the file cannot be read.
        """
        data = memoryview(self._bytes())
        for record in list(self.records()):
            try:
                yield self.decoded(record, bytes(data[record.start : record.stop]))
            except StateError as error:
                refused(f"{self.source} at byte {record.start}", error)

    def decoded(self, record: Record, data: bytes) -> Frame:
        """Return the frame with these bytes.

        Raises:
            StateError: it is none, of a version to come, or not of this segment.
        """
        frame = decode_frame(data)
        if (frame.epoch, frame.number) != (self.epoch, record.number):
            raise CorruptStateError(
                f"wanted frame {record.number} of epoch {self.epoch}, got {frame.number} of {frame.epoch}"
            )
        return frame

    def newest(self) -> Iterator[Frame]:
        """Yield its frames, delivered ones too, newest first; leave out those that are none.

        Raises:
            OSError: the file cannot be read.
        """
        data = self._bytes()
        for record in reversed(found_records(data).records):
            with suppress(StateError):  # it is told when it is its turn to be sent
                yield self.decoded(record, data[record.start : record.stop])

    def _bytes(self) -> bytes:
        return Path(self.source).read_bytes() if self.held is None else bytes(self.held)

    # --- changing

    def take_off(self, number: int) -> int:
        """Forget the frames up to a number; return how many of them were waiting."""
        if self.last <= number:
            taken, self.waiting = self.waiting, 0
            self._taken = self.last
            if self._records is not None:
                self._records.clear()
            return taken
        try:
            records = self.records()
        except OSError:  # whoever wants to read it is told
            return 0
        before = len(records)
        while records and records[0].number <= number:
            records.popleft()
        self._taken = max(self._taken, number)
        self.waiting = len(records)
        return before - len(records)

    def raw(self) -> list[tuple[int, bytes]]:
        """Return number and bytes of each of its waiting frames.

        Raises:
            OSError: the file cannot be read.
        """
        data = self._bytes()
        return [(record.number, data[record.start : record.stop]) for record in self.records()]

    def replace(self, frames: Sequence[tuple[int, bytes]]) -> OSError | None:
        """Have other frames in the place of all that it has; return why they are only in memory, if they are.

        Args:
            frames: number and bytes of each; at least one, in order.
        """
        self.held, in_file = bytearray().join(pack_record(*frame) for frame in frames), self.held is None
        self._records = None
        self.size, self.last, self.waiting = len(self.held), frames[-1][0], len(frames)
        failure = self.save()
        if failure is not None and in_file:
            self.delete()
        return failure

    def save(self) -> OSError | None:
        """Write what is in memory to its file; return why that did not work, if it did not."""
        if self._path is None or self.held is None:
            return None
        try:
            write_whole(self._path, self.held)
        except OSError as error:
            return error.with_traceback(None)  # which would keep alive what was to be written
        self.held, self._records = None, None
        return None

    def delete(self) -> None:
        """Remove its file, if there is one."""
        self.seal()
        if self._path is not None:
            with suppress(OSError):  # it is read again then, and what a broker has is known
                self._path.unlink()


def _write(file: int, record: bytes, size: int) -> None:
    try:
        written = os.write(file, record)
        if written < len(record):
            raise OSError(f"the disk took {written} of {len(record)} bytes")
    except OSError:
        with suppress(OSError):  # what is left of it is damage that a reader passes over
            os.ftruncate(file, size)
        raise


def damage(size: int, what: str) -> CorruptStateError:
    """Return the error that tells of bytes that are no frame."""
    return CorruptStateError(f"{size} bytes {what}, and are no frame: they are left out")
