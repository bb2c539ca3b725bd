"""What spools hold, found without touching them: nothing is locked, nothing is written.

Of a spool that is in use, what is told is as of some moment while it was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from asynchub.bridges.frames import Frame, decode_frame
from asynchub.bridges.records import found_records
from asynchub.bridges.spool_folder import Taken, find_spools, segment_files, user_of
from asynchub.errors import CorruptStateError, StateError

__all__ = ("SpooledEpoch", "spooled_epochs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledEpoch:
    """What of one epoch of a rank waits in a spool for a broker.

    Attributes:
        folder: of the spool.
        run: name of the run; empty if no frame can be read.
        rank: the rank; -1 if no frame can be read.
        epoch: the epoch, in nanoseconds since the epoch of time.
        frames: how many there are.
        size: bytes that they take.
        events: how many they stand for.
        left_out: how many of these are not in them.
        oldest: when the first of them was made, in seconds since the epoch of time; NaN if there is none.
        newest: when the last of them was made.
        damaged: pieces that cannot be read.
        user: who uses the spool, in words.
    """

    folder: Path
    run: str = ""
    rank: int = -1
    epoch: int
    frames: int = 0
    size: int = 0
    events: int = 0
    left_out: int = 0
    oldest: float = float("nan")
    newest: float = float("nan")
    damaged: int = 0
    user: str


def spooled_epochs(folder: Path) -> Iterator[SpooledEpoch]:
    """Yield what waits in the spools in a folder and below; also where nothing waits, of the newest epoch.

    Raises:
        FileNotFoundError: the folder is not there, or there is no spool in it.
    """
    for spool in find_spools(folder):
        found = list(_epochs(spool))
        yield from [one for one in found if one.frames or one.damaged] or found[-1:]


def _epochs(folder: Path) -> Iterator[SpooledEpoch]:
    taken = Taken(folder)
    files: dict[int, list[Path]] = {}
    for epoch, _, path in segment_files(folder):
        files.setdefault(epoch, []).append(path)
    for epoch, paths in files.items():
        yield _epoch(folder, epoch, paths, taken.numbers.get(epoch, -1))


def _epoch(folder: Path, epoch: int, paths: list[Path], taken: int) -> SpooledEpoch:
    told = SpooledEpoch(folder=folder, epoch=epoch, user=user_of(folder))
    last = -1
    for path in paths:
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # sent, or merged with another, at this moment
            continue
        found = found_records(data)
        told = replace(told, damaged=told.damaged + len(found.damaged) + (found.whole < len(data)))
        for record in found.records:
            if record.number <= last:  # what it was merged into was there already
                continue
            last = record.number
            try:
                frame = decode_frame(data[record.start : record.stop])
                if frame.epoch != epoch:
                    raise CorruptStateError(f"wanted a frame of epoch {epoch}, got one of {frame.epoch}")
            except StateError:
                told = replace(told, damaged=told.damaged + (record.number > taken))
                continue
            told = replace(told, run=frame.run, rank=frame.rank)
            if record.number > taken:
                told = _with(told, frame, record.stop - record.start)
    return told


def _with(told: SpooledEpoch, frame: Frame, size: int) -> SpooledEpoch:
    return replace(
        told,
        frames=told.frames + 1,
        size=told.size + size,
        events=told.events + frame.size,
        left_out=told.left_out + frame.left_out,
        oldest=told.oldest if told.frames else frame.time,
        newest=frame.time,
    )
