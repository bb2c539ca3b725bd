"""Whose journal a folder holds, from its first bytes."""

from __future__ import annotations

from io import FileIO
from pathlib import Path
from typing import NamedTuple

from asynchub.errors import CorruptStateError
from asynchub.journal.frames import FRAME_SIZE, SEGMENT_SIZE, Kind, frame_size, frames, read_head
from asynchub.journal.reading import name_in, segment_files
from asynchub.journal.tailing import TailReader

__all__ = ("JournalHead", "journal_head")

NANOSECONDS = 1e9
LONGEST = 2**16
"""Bytes of the first frame, at most, in which a name is looked for."""


class JournalHead(NamedTuple):
    """What the oldest segment of a journal says, or, while there is none, its tail.

    Attributes:
        run_id: identity of the run, 16 bytes.
        name: of the hub that wrote it, or "".
        began: when that segment was begun, in seconds since the epoch; None while there is none.
    """

    run_id: bytes
    name: str
    began: float | None


def journal_head(folder: Path) -> JournalHead | None:
    """Return whose journal a folder holds; None while nothing in it says so.

    Raises:
        CorruptStateError: no segment has a head that can be read.
        UnknownTypeError: a newer version wrote them.
        OSError: they cannot be read.
    """
    problem: CorruptStateError | None = None
    for _, _, path in segment_files(folder):
        try:
            with FileIO(path) as file:
                data = file.read(SEGMENT_SIZE + FRAME_SIZE) or b""
                if not data:
                    continue
                head = read_head(data[:SEGMENT_SIZE])
                size = min(frame_size(data[SEGMENT_SIZE:]), LONGEST)
                frame = data[SEGMENT_SIZE:] + (file.read(max(size - FRAME_SIZE, 0)) or b"")
        except CorruptStateError as error:
            problem = problem or error
            continue
        names = (name_in(one) for one in frames(frame, head.seed, 0) if one.kind == Kind.CONTROL)
        return JournalHead(head.run_id, next(names, ""), head.created / NANOSECONDS)
    if problem is not None:
        raise problem
    tail = TailReader(folder)
    tail.poll(0, 0)
    return JournalHead(tail.run_id, "", None) if tail.run_id is not None else None
