"""Writing the segments of a journal.

Order: frames are in segments in the order in which they were given.
Durable: what was written before ``sync`` was called is on the disk when it returns. A segment that could not be
    written, or flushed, is never touched again: the kernel may have forgotten what it could not write. A new one is
    begun, with everything in it that was not on the disk. If that fails again, the new one is removed: a disk that
    refuses for hours is not filled with attempts.
Threads: one at a time calls ``write``; ``sync`` may run beside it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asynchub.batches import Batch, decode_event, encode_batch
from asynchub.codec.encoder import dumps
from asynchub.events import Rewound
from asynchub.journal.frames import REWINDS, Kind, SegmentHead, pack_frame, pack_head
from asynchub.statefile import flush, flush_folder, write_all

__all__ = ("Built", "SegmentWriter", "built", "opened", "reached")


class Built(NamedTuple):
    """A frame that is to be written: kind, flags, first and last ``seq`` and payload, as of ``Frame``; and its size.

    Attributes:
        size: how many events it has.
    """

    kind: int
    flags: int
    first_seq: int
    last_seq: int
    payload: bytes
    size: int


def built(batch: Batch) -> Built:
    """Return a frame of events."""
    rewinds = any(b"Rewound" in data and isinstance(decode_event(data)[0], Rewound) for _, data in batch.events)
    return Built(Kind.EVENTS, REWINDS if rewinds else 0, *batch.seqs, encode_batch(batch), batch.size)


def reached(seq: int, missing: int = 0) -> Built:
    """Return a frame that says that the log had come to ``seq``, although no event before it has that.

    Args:
        seq: the ``seq``.
        missing: how many events could not be kept.
    """
    return Built(Kind.CONTROL, 0, seq + 1, seq, dumps({"missing": missing}), 0)


def opened(fork: str, seq: int) -> Built:
    """Return a frame that says that the journal was opened to go on from ``seq``; ``fork`` is the identity of that."""
    return Built(Kind.CONTROL, 0, seq + 1, seq, dumps({"opened": [fork, seq]}), 0)


class SegmentWriter:
    """Writes the segments of one journal.

    Attributes:
        written_seq: ``seq`` of the newest event that the operating system has.
        durable_seq: ``seq`` of the newest event that the disk has.
        waiting: events that the disk does not have yet, and that are held for the case that it fails.
        opening: what every segment begun from now on says of the opening, as of ``opened``; None for nothing.

    Args:
        folder: of the journal.
        run_id: identity of the run, 16 bytes.
        name: of the hub.
        index: number of the last segment that there is, 0 if none.
        last_seq: ``seq`` of the newest event in them; all are on the disk.
        limit: bytes from which on a segment is followed by another one.
    """

    def __init__(self, folder: Path, run_id: bytes, name: str, index: int, last_seq: int, limit: int) -> None:
        self._folder = folder
        self._run_id = run_id
        self._name = name
        self._index = index
        self._limit = limit
        self._file: int | None = None
        self._path = folder
        self._seed = 0
        self._size = 0
        self._again = False  # the segment before was given up, and this one has not been flushed yet
        self._epoch = 0
        self._quiet = True  # the last frame says that all before it is on the disk
        self._held: deque[Built] = deque()
        self._unwritten: deque[Built] = deque()
        self._lock = threading.Lock()
        self.written_seq = self.durable_seq = last_seq
        self.waiting = 0
        self.opening: tuple[str, int] | None = None

    @property
    def last_seq(self) -> int:
        """``seq`` of the newest event that it was given."""
        with self._lock:
            return self._unwritten[-1].last_seq if self._unwritten else self.written_seq

    # --- writing

    def give(self, frames: Iterable[Built]) -> None:
        """Take frames to write; ``write`` writes them."""
        with self._lock:
            for frame in frames:
                self._unwritten.append(frame)
                self.waiting += frame.size

    def write(self) -> None:
        """Hand everything that was given to the operating system.

        Raises:
            OSError: the disk said no; everything is held, and the next call begins a new segment for it.
        """
        try:
            while self._unwritten:
                if self._file is None:
                    self._begin()
                frame = self._unwritten[0]
                self._append(frame)
                with self._lock:
                    self._held.append(self._unwritten.popleft())
                self.written_seq = max(self.written_seq, frame.last_seq)
        except OSError:
            self._cut_back()
            self.abandon()
            raise

    def _cut_back(self) -> None:
        """Take half a frame off the segment: the room may be needed for a new one."""
        if self._file is not None:
            with suppress(OSError):  # then it stays, and is found to be half
                os.ftruncate(self._file, self._size)

    def _begin(self) -> None:
        self._index += 1
        first_seq = self.durable_seq + 1
        path = self._folder / f"{first_seq:020}-{self._index:06}.ahj"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            head = pack_head(self._run_id, self._index, first_seq)
            write_all(descriptor, head)
            flush(descriptor)
            flush_folder(self._folder)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):  # the disk that refused the file may refuse this too
                path.unlink()
            raise
        self._seed = SegmentHead(self._run_id, self._index, first_seq, 0).seed
        self._file, self._path, self._size = descriptor, path, len(head)
        said = {"hub": self._name} if self.opening is None else {"hub": self._name, "opened": list(self.opening)}
        self._append(Built(Kind.CONTROL, 0, first_seq, first_seq - 1, dumps(said), 0))

    def _append(self, frame: Built) -> None:
        kind, flags, first_seq, last_seq, payload, _ = frame
        data = pack_frame(self._seed, kind, flags, first_seq, last_seq, self.durable_seq, payload)
        file = self._file
        if file is None:
            raise OSError(f"{self._path} is closed")
        write_all(file, data)
        self._size += len(data)
        self._quiet = kind in (Kind.CLOSE, Kind.CONTROL) and not self._held

    def abandon(self) -> None:
        """Never touch the segment again, and hold for the next one all that the disk may not have."""
        with self._lock:
            file, self._file = self._file, None
            self._unwritten.extendleft(reversed(self._held))
            self._held.clear()
            self.written_seq = self.durable_seq
            self._epoch += 1
        again, self._again = self._again, True
        if file is not None:
            with suppress(OSError):  # there is nothing more to lose in it
                os.close(file)
            if again:
                with suppress(OSError):
                    self._path.unlink()

    # --- making it durable

    def sync(self) -> None:
        """Wait until the disk has all that was written before the call.

        Raises:
            OSError: the disk said no; ``abandon`` the segment then.
        """
        with self._lock:
            if self._file is None:
                return
            file, upto, epoch = os.dup(self._file), self.written_seq, self._epoch  # `abandon` may come meanwhile
        try:
            _flush_data(file)
        finally:
            os.close(file)
        with self._lock:
            if epoch != self._epoch:
                raise OSError(f"{self._path} was given up meanwhile")
            self._again = False
            while self._held and self._held[0].last_seq <= upto:
                self.waiting -= self._held.popleft().size
            self.durable_seq = max(self.durable_seq, upto)

    def say_durable(self) -> None:
        """Leave a frame that says that all before it is on the disk; call in a quiet moment, and ``sync`` not after it.

        Raises:
            OSError: the disk said no.
        """
        if self._file is not None and not self._quiet and not self._unwritten:
            self._mark(Kind.CONTROL)

    def _mark(self, kind: Kind, payload: bytes = b"") -> None:
        self._append(Built(kind, 0, self.written_seq + 1, self.written_seq, payload, 0))

    def note_snapshot(self, name: str, seq: int) -> None:
        """Say that a snapshot of everything up to ``seq`` is on the disk."""
        if self._file is not None:
            self._mark(Kind.SNAPSHOT, dumps({"file": name, "seq": seq}))

    def rotate(self) -> bool:
        """End the segment if it is long enough, after a ``sync``; tell whether it was.

        Raises:
            OSError: the disk said no.
        """
        if self._size < self._limit or self._held or self._unwritten:
            return False
        self.close()
        return True

    def close(self) -> None:
        """End the segment, all of which is on the disk.

        Raises:
            OSError: the disk said no.
        """
        if self._file is None:
            return
        try:
            self._mark(Kind.CLOSE)
            _flush_data(self._file)
            file, self._file = self._file, None
            os.close(file)
        except OSError:
            self.abandon()
            raise

    def forget(self) -> None:
        """Let go of the file in a forked child, to which it does not belong."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _flush_data(descriptor: int) -> None:
    if sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        flush(descriptor)
