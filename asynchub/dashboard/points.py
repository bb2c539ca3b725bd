"""The values of a journal, as buckets of one value each.

Steps: a value without one has its index among the values of its key that count.
Threads: any thread may call anything here; nothing is written, nothing is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asynchub.batches import Batch, Scalars, decode_batch
from asynchub.columns import Array
from asynchub.dashboard.buckets import of_values
from asynchub.dashboard.growing import Owned, together
from asynchub.errors import CorruptStateError
from asynchub.history import NO_STEP
from asynchub.journal.frames import FRAME_SIZE, SEGMENT_SIZE, Kind, frame_size, frames, read_head
from asynchub.journal.reading import segment_files

__all__ = (
    "KIND_AT",
    "SEQS",
    "SEQS_AT",
    "Place",
    "is_still_there",
    "numbered",
    "place_of",
    "places",
    "values_of",
)

SEQS = struct.Struct("<QQ")
"""``seq`` of the first and of the last event of a frame, in its header."""
SEQS_AT = 16
KIND_AT = 12


class Place(NamedTuple):
    """A frame of a journal.

    Attributes:
        segment: number of its segment.
        offset: where it begins in it.
        header: its header, with its checksum.
    """

    segment: int
    offset: int
    header: bytes


def values_of(batch: Batch, number_of: Callable[[str], int | None]) -> Owned:
    """Return the values of a batch, in the order of ``seq``.

    Args:
        batch: it.
        number_of: returns the number of a key; None if it is not wanted.
    """
    numbers = np.array([-1 if (one := number_of(key)) is None else one for key, _ in batch.keys], np.int64)
    parts = []
    for scalars in batch.scalars:
        owners, columns = numbers[scalars.whose], scalars
        if numbers.size and numbers.min() < 0:
            wanted = np.flatnonzero(owners >= 0)
            owners, columns = owners[wanted], Scalars(*(column[wanted] for column in scalars))
        rows = of_values(columns.steps, columns.values, columns.counts, columns.seqs, columns.times)
        parts.append(Owned(owners, rows))
    found = together(parts, 1)
    return found if len(batch.scalars) < 2 else found.take(np.argsort(found.rows.first_seq, kind="stable"))


def numbered(values: Owned, seen: Array) -> Owned:
    """Return values with an index as the step of each that has none.

    Args:
        values: in the order of ``seq``.
        seen: how many values of each key there were before.
    """
    missing = values.rows.first == NO_STEP
    if not bool(missing.any()):
        return values
    order = np.argsort(values.owners, kind="stable")
    owners = values.owners[order]
    starts = np.searchsorted(owners, owners)  # where the values of the key begin
    index = np.empty(len(order), np.int64)
    index[order] = np.arange(len(order)) - starts + seen[owners]
    return Owned(values.owners, values.rows._replace(first=np.where(missing, index, values.rows.first)))


# --- from segments


def places(file: FileIO, offset: int = SEGMENT_SIZE) -> Iterator[Place]:
    """Yield where the frames of a segment are, going from header to header, from one on."""
    while size := frame_size(header := _at(file, offset, FRAME_SIZE)):
        yield Place(0, offset, header)
        offset += size


def _frame(file: FileIO, place: Place) -> Iterator[Batch]:
    try:
        seed = read_head(_at(file, 0, SEGMENT_SIZE)).seed
        for frame in frames(_at(file, place.offset, frame_size(place.header)), seed, 0):
            yield decode_batch(frame.payload)
    except CorruptStateError:  # whoever follows the journal says so
        return


def place_of(folder: Path, seq: int) -> Place | None:
    """Return the frame of events that has ``seq``; None while it is in no segment."""
    for number, first_seq, path in reversed(segment_files(folder)):
        if first_seq <= seq:
            with FileIO(path) as file:
                for place in places(file):
                    first, last = SEQS.unpack_from(place.header, SEQS_AT)
                    if place.header[KIND_AT] == Kind.EVENTS and first <= seq <= last:
                        return place._replace(segment=number)
            return None
    return None


def is_still_there(folder: Path, place: Place) -> bool:
    """Tell whether a journal has a frame still, or has deleted the segment that it was in."""
    files = segment_files(folder)
    for number, _, path in files:
        if number == place.segment:
            with FileIO(path) as file:
                return _at(file, place.offset, FRAME_SIZE) == place.header
    return bool(files) and files[0][0] > place.segment


def _at(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size) or b""
