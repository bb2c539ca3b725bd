"""The spool: frames of one rank, kept until a broker has them.

Order: the frames of earlier epochs first, oldest first.
Written through: a frame is in the page cache when ``append`` returns, and outlives the process, however that ends; a
    crash of the machine may take the newest. A disk that refuses is tried again; meanwhile frames are in memory.
Bounded: at 80 % of the room the oldest frames are thinned, merged, and at last emptied; what is left of them says
    exactly how many events are not there.
Damage: what is torn, damaged or foreign is left out, and told; the rest is read.
Threads: one at a time uses a spool; the plain attributes may be read from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asynchub.batches import Batch
from asynchub.bridges.frames import BASE, EVENTS, Frame, encode_frame
from asynchub.bridges.records import found_records
from asynchub.bridges.segment import Refused, Segment, damage
from asynchub.bridges.shrinking import shrink
from asynchub.bridges.spool_folder import Taken, foreign_files, lock_spool, remove_unfinished, segment_files
from asynchub.bridges.thinning import emptied, thinned
from asynchub.errors import ArgumentError, CorruptStateError, StateError
from asynchub.locking import FolderLock

__all__ = ("Spool", "Spooled")

FULL = 0.8
"""Part of the room that may be used; the rest is for what is written anew."""
MOST_HELD = 2**26
"""Bytes in memory, at most, while the disk refuses."""
LEAST = 2**16
PARTS = 8
"""Segments, at least, that there is room for."""


class Spooled(NamedTuple):
    """A frame of a spool.

    Attributes:
        frame: the frame.
        data: its bytes.
    """

    frame: Frame
    data: bytes


class Spool:
    """The frames of one rank that a broker has not got.

    Args:
        folder: of this run and rank, e.g. ``run/spool/<run>/<rank>``; it is created. None: in memory only.
        epoch: of the frames to be appended: when this process began, in nanoseconds since the epoch of time.
        max_bytes: bytes that it takes at most, 65,536 or more.
        segment_bytes: bytes of a file, about; at most an eighth of ``max_bytes``.
        refused: called with where something damaged or foreign is, and what is wrong with it, once for each piece.

    Raises:
        ArgumentError: an argument is out of its range, or the epoch was there before.
        BridgeError: another process uses the folder.
        OSError: the folder cannot be read or made.

    Attributes:
        last: the newest frame of events, or of what an epoch began with, that an earlier epoch has left, without its
            events; None if there is none.
        waiting: how many frames a broker has not got.
        size: bytes that they take, with those that share a file with them.
        left_out: events that this process has left out, because there was no room.
        degraded: why frames are in memory; None if all are on the disk, or are not meant to be.
    """

    def __init__(
        self,
        folder: Path | None,
        epoch: int,
        *,
        max_bytes: int = 2**28,
        segment_bytes: int = 2**22,
        refused: Refused,
    ) -> None:
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise ArgumentError(f"epoch must be a time in nanoseconds, got {epoch!r:.80}")
        if type(max_bytes) is not int or max_bytes < LEAST:
            raise ArgumentError(f"max_bytes of a spool must be an int of at least {LEAST}, got {max_bytes!r:.80}")
        if type(segment_bytes) is not int or segment_bytes < 1:
            raise ArgumentError(f"segment_bytes must be an int of at least 1, got {segment_bytes!r:.80}")
        self.last: Frame | None = None
        self.waiting = 0
        self.size = 0
        self.left_out = 0
        self.degraded: Exception | None = None
        self._folder = folder
        self._epoch = epoch
        self._room = int(FULL * max_bytes)
        self._held_room = int(FULL * min(max_bytes, MOST_HELD))
        self._segment_bytes = min(segment_bytes, max_bytes // PARTS)
        self._refused = refused
        self._segments: list[Segment] = []
        self._open: Segment | None = None
        self._peeked: Spooled | None = None
        self._lock: FolderLock | None = None
        self._taken: Taken | None = None
        if folder is not None:
            self._lock = lock_spool(folder)
            try:
                self._read(folder)
            except BaseException:
                self._lock.release()
                raise

    # --- what an earlier process has left

    def _read(self, folder: Path) -> None:
        files = segment_files(folder)
        if any(epoch == self._epoch for epoch, _, _ in files):
            raise ArgumentError(f"epoch {self._epoch} is in {folder} already; each process of a rank has its own")
        remove_unfinished(folder)
        for path in foreign_files(folder):
            self._refused(str(path), CorruptStateError("not a file of a spool of this version: it is left alone"))
        self._taken = taken = Taken(folder)
        last: dict[int, int] = {}
        for epoch, begin, path in files:
            segment = Segment(folder, epoch, begin)
            after = last.get(epoch, -1)
            try:
                self._reopen(segment, path, after, taken.numbers.get(epoch, -1))
            except OSError as error:
                self._refused(str(path), error)
                continue
            if segment.last <= after:  # what it was merged into is there: a crash has kept this from being deleted
                segment.delete()
                continue
            last[epoch] = segment.last
            self._segments.append(segment)
        taken.forget(set(last))
        self._clean()
        self._count()
        self.last = next(self._left(), None)

    def _reopen(self, segment: Segment, path: Path, after: int, taken: int) -> None:
        data = path.read_bytes()
        found = found_records(data)
        for start, stop in found.damaged:
            self._refused(f"{path} at byte {start}", damage(stop - start, "are damaged"))
        if torn := len(data) - found.whole:
            self._refused(f"{path} at byte {found.whole}", damage(torn, "are what a crash has left of a write"))
            with suppress(OSError), path.open("rb+") as file:  # else it is told again the next time
                file.truncate(found.whole)
        segment.reopen(found, after, taken)

    def _left(self) -> Iterator[Frame]:
        """Yield the frames that earlier epochs have left, the newest first, without their events."""
        for segment in reversed(self._segments):
            try:
                for frame in segment.newest():
                    if frame.kind in (EVENTS, BASE):
                        yield frame._replace(batch=Batch([], [], []))
            except OSError as error:
                self._refused(segment.source, error)

    # --- appending

    def append(self, frame: Frame) -> None:
        """Keep a frame. What the disk says is in ``degraded``.

        Args:
            frame: the next of this epoch; its number is larger than all before.

        Raises:
            ArgumentError: it is not.
        """
        newest = self._segments[-1] if self._segments else None
        after = newest.last if newest is not None and newest.epoch == self._epoch else -1
        if frame.epoch != self._epoch or frame.number <= after:
            raise ArgumentError(
                f"wanted a frame of epoch {self._epoch} with a number above {after}, "
                f"got number {frame.number} of epoch {frame.epoch}"
            )
        data = self._encoded(frame)
        self._save_held()
        self._make_room(len(data))
        segment = self._open
        if segment is None or segment.size + len(data) > self._segment_bytes:
            segment = self._begin(frame.number)
        try:
            segment.append(frame.number, data)
        except OSError as error:
            self.degraded = error.with_traceback(None)
            self._begin(frame.number).append(frame.number, data)
        self._clean()
        self._count()

    def _encoded(self, frame: Frame) -> bytes:
        """Return a frame as bytes, with fewer events if it would take too much of the room."""
        data = encode_frame(frame)
        if len(data) <= self._room // 2:
            return data
        less = thinned([frame], infos=True)[0]
        data = encode_frame(less)
        if len(data) > self._room // 2:
            less = emptied([frame])[0]
            data = encode_frame(less)
        self.left_out += frame.batch.size - less.batch.size
        return data

    def _begin(self, number: int) -> Segment:
        """Begin a segment with the frame of that number."""
        if self._open is not None:
            self._open.seal()
            self._open.forget_records()
        segment = Segment(self._folder, self._epoch, number)
        if self._folder is not None and self.degraded is None:
            try:
                segment.create()
            except OSError as error:
                self.degraded = error.with_traceback(None)
        self._segments.append(segment)
        self._open = segment
        return segment

    def _save_held(self) -> None:
        """Write what is in memory, if the disk takes it now."""
        if self.degraded is None:
            return
        for segment in self._segments:
            if segment.held is not None and segment.size:
                if (failure := segment.save()) is not None:
                    self.degraded = failure
                    return
                if segment is self._open:
                    self._open = None
        self.degraded = None

    def _clean(self) -> None:
        """Delete segments that a broker has all of; but the newest, and the newest that outlives the process."""
        newest = next((one for one in reversed(self._segments) if one.held is None and one.size), None)
        for segment in [one for one in self._segments[:-1] if not one.waiting and one is not newest]:
            segment.delete()
            self._segments.remove(segment)

    def _make_room(self, coming: int) -> None:
        """Make the oldest frames smaller until others find room."""
        while self.size + coming > self._room and self._shrink(self._sealed()):
            pass
        while self._held() + coming > self._held_room and self._shrink(self._sealed(held=True)):
            pass

    def _sealed(self, *, held: bool = False) -> list[Segment]:
        return [
            one for one in self._segments if one.waiting and one is not self._open and not (held and one.held is None)
        ]

    def _held(self) -> int:
        """Return how many bytes are in memory that should not be."""
        if self.degraded is None:
            return 0
        return sum(segment.size for segment in self._segments if segment.held is not None)

    def _shrink(self, sealed: list[Segment]) -> bool:
        shrunk = shrink(self._segments, sealed, self._segment_bytes, self._on_its_way(), self._refused)
        if shrunk is None:
            return False
        self.left_out += shrunk.left_out
        self.degraded = shrunk.failure or self.degraded
        self._count()
        return True

    def _on_its_way(self) -> tuple[int, int] | None:
        """Return epoch and number of the frame that a broker may have, without anybody here knowing: the oldest."""
        segment = self._front()
        try:
            records = None if segment is None else segment.records()
        except OSError:  # it is told when it is read
            return None
        return (segment.epoch, records[0].number) if segment is not None and records else None

    def _count(self) -> None:
        self.size = sum(segment.size for segment in self._segments)
        self.waiting = sum(segment.waiting for segment in self._segments)

    # --- sending

    def peek(self) -> Spooled | None:
        """Return the oldest frame that was not taken off; None if there is none."""
        while self._peeked is None and (segment := self._front()) is not None:
            self._peeked = self._first(segment)
        return self._peeked

    def _front(self) -> Segment | None:
        return next((segment for segment in self._segments if segment.waiting), None)

    def _first(self, segment: Segment) -> Spooled | None:
        """Return the oldest frame of a segment; if it is none, tell, leave it out, and return None."""
        source, number, waiting = segment.source, segment.last, segment.waiting
        try:
            records = segment.records()
            if len(records) < waiting:
                self._refused(source, CorruptStateError(f"{waiting - len(records)} frames are not there any more"))
            if records:
                source, number = f"{source} at byte {records[0].start}", records[0].number
                data = segment.read(records[0])
                return Spooled(segment.decoded(records[0], data), data)
        except (StateError, OSError) as error:
            self._refused(source, error)
        segment.take_off(number)
        self._clean()
        self._count()
        return None

    def take_off(self, epoch: int, number: int) -> None:
        """Forget what a broker has.

        Args:
            epoch: the epoch,
            number: of which it has all frames up to this number. A frame that was merged with later ones stays.
        """
        if self._peeked is not None and self._peeked.frame.epoch == epoch and self._peeked.frame.number <= number:
            self._peeked = None
        taken = 0
        for segment in self._segments:
            if segment.epoch == epoch and segment.waiting:
                taken += segment.take_off(number)
                if segment.waiting:
                    break
        if taken and self._taken is not None:
            self._taken.add(epoch, number)
        self._clean()
        self._count()

    def epochs(self) -> list[int]:
        """Return the epochs of which frames are waiting, oldest first."""
        return list(dict.fromkeys(segment.epoch for segment in self._segments if segment.waiting))

    # --- ending

    def close(self) -> None:
        """Let go of the folder, and leave in it what is waiting; closing twice is fine.

        What is in memory, and is not taken by the disk now, is lost.
        """
        if self._lock is not None:
            self._save_held()
            if self._open is not None:
                self._open.seal()
            self._lock.release()
            self._lock = None

    def forget(self) -> None:
        """Let go of the files in a forked child; the parent keeps them."""
        if self._open is not None:
            self._open.seal()
        if self._lock is not None:
            self._lock.forget()
            self._lock = None
