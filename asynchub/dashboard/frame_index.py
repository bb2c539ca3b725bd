"""Values out of the segments of a journal, by ``seq``: where a frame is that was found once is not looked for again.

Checked: a segment that is another one by now, or does not have its last frame any more, is walked again. What is
    damaged, or not there any more, is left out.
Bounded: places of the segments that were asked for last are kept, ``MOST_FRAMES`` of them, and those of one at least.
Threads: one at a time; nothing is written.
"""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np

from asynchub.batches import Batch, decode_batch
from asynchub.columns import Array
from asynchub.dashboard.growing import Owned, together
from asynchub.dashboard.points import KIND_AT, SEQS, SEQS_AT, places, values_of
from asynchub.errors import CorruptStateError
from asynchub.journal.frames import FRAME_SIZE, SEGMENT_SIZE, Kind, frame_size, frames, read_head
from asynchub.journal.reading import segment_files

__all__ = ("FrameIndex",)

MOST_FRAMES = 100_000
NONE = 2**63 - 1


class FrameIndex:
    """Where the frames of a journal are.

    Args:
        folder: of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segments: OrderedDict[Path, _Segment] = OrderedDict()

    def values(self, intervals: Sequence[tuple[int, int]], numbers: Mapping[str, int]) -> Owned:
        """Return the values of some keys, in the order of ``seq``, whose events are in one of some intervals.

        Only the frames with such events are read.

        Args:
            intervals: the first and the last ``seq`` of each, in order.
            numbers: number of each key that is wanted.

        Raises:
            OSError: a segment cannot be read.
        """
        if not intervals:
            return Owned.none()
        lows = np.array([first for first, _ in intervals], np.int64)
        highs = np.array([last for _, last in intervals], np.int64)
        parts = []
        for batch in self._batches(lows, highs):
            values = values_of(batch.between(int(lows[0]) - 1, int(highs[-1])), numbers.get)
            seqs = values.rows.first_seq
            which = np.searchsorted(lows, seqs, side="right") - 1
            parts.append(values.take((which >= 0) & (seqs <= highs[which])))
        found = together(parts, 1)
        seqs = found.rows.first_seq
        if bool((seqs[1:] > seqs[:-1]).all()):
            return found
        return found.take(np.unique(seqs, return_index=True)[1])  # a segment may repeat the end of the one before

    def _batches(self, lows: Array, highs: Array) -> Iterator[Batch]:
        files = segment_files(self._folder)
        there = {path for _, _, path in files}
        for path in [path for path in self._segments if path not in there]:
            del self._segments[path]
        firsts = np.array([first_seq for _, first_seq, _ in files], np.int64)
        wanted = _meeting(lows, highs, firsts, np.append(firsts[1:] - 1, 2**62)) if files else []
        for number in wanted:
            yield from self._of_segment(files[number][2], lows, highs)

    def _of_segment(self, path: Path, lows: Array, highs: Array) -> Iterator[Batch]:
        with FileIO(path) as file:
            segment = self._segments.pop(path, None)
            if segment is None or not segment.goes_on(file):
                segment = _Segment(file)
            segment.walk(file)
            self._segments[path] = segment
            while len(self._segments) > 1 and sum(one.size for one in self._segments.values()) > MOST_FRAMES:
                self._segments.popitem(last=False)
            for number in segment.meeting(lows, highs):
                yield from segment.frame(file, number)


class _Segment:
    """Where the frames of events in a segment are."""

    def __init__(self, file: FileIO) -> None:
        self._inode = os.fstat(file.fileno()).st_ino
        self._end = SEGMENT_SIZE
        self._offsets, self._sizes, self._firsts, self._lasts = (array("q") for _ in range(4))
        try:
            self._seed: int | None = read_head(_at(file, 0, SEGMENT_SIZE)).seed
        except CorruptStateError:  # whoever follows the journal says so
            self._seed = None

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._offsets)

    def goes_on(self, file: FileIO) -> bool:
        """Return whether a file has what was found, and perhaps more: the last frame, at least, is where it was."""
        return os.fstat(file.fileno()).st_ino == self._inode and (not self.size or bool(self._header(file, -1)))

    def walk(self, file: FileIO) -> None:
        """Go from header to header through what is new."""
        if self._seed is None:
            return
        length = os.fstat(file.fileno()).st_size
        for place in places(file, self._end):
            size = frame_size(place.header)
            if place.offset + size > length:  # it is not whole yet
                return
            self._end = place.offset + size
            if place.header[KIND_AT] == Kind.EVENTS:
                first, last = SEQS.unpack_from(place.header, SEQS_AT)
                self._offsets.append(place.offset)
                self._sizes.append(size)
                self._firsts.append(first)
                self._lasts.append(last)

    def meeting(self, lows: Array, highs: Array) -> list[int]:
        """Return the indexes of frames with an event that is in one of some intervals."""
        if not self.size:
            return []
        return _meeting(lows, highs, np.array(self._firsts), np.array(self._lasts))

    def frame(self, file: FileIO, number: int) -> Iterator[Batch]:
        """Yield the events of a frame; none if it is damaged."""
        if self._seed is None or not self._header(file, number):
            return
        try:
            for frame in frames(_at(file, self._offsets[number], self._sizes[number]), self._seed, 0):
                yield decode_batch(frame.payload)
        except CorruptStateError:  # as above
            return

    def _header(self, file: FileIO, number: int) -> bytes:
        """Return the header of a frame; nothing if it is not where it was."""
        header = _at(file, self._offsets[number], FRAME_SIZE)
        if frame_size(header) != self._sizes[number]:
            return b""
        return header if SEQS.unpack_from(header, SEQS_AT) == (self._firsts[number], self._lasts[number]) else b""


def _meeting(lows: Array, highs: Array, firsts: Array, lasts: Array) -> list[int]:
    """Return the indexes of stretches of events that have something in common with an interval."""
    index = np.searchsorted(highs, firsts)
    found: list[int] = np.flatnonzero(np.append(lows, NONE)[index] <= lasts).tolist()
    return found


def _at(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""
