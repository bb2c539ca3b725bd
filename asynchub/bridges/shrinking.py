"""Making room in a spool: which of its segments becomes smaller next, and how.

Tiers: a segment that is thinned goes up a level, and joins what is there already; when a level has grown large, its
    oldest segment is thinned once more. So the newest is whole, and the oldest is kept in the coarsest steps.
At last: when nothing becomes smaller by that, the oldest segment is emptied.
Crashes: at every moment each frame is in the files once, or twice with the wider one first, which then counts.
Threads: one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asynchub.batches import Batch
from asynchub.bridges.frames import EVENTS, Frame, encode_frame
from asynchub.bridges.segment import Refused, Segment
from asynchub.bridges.thinning import emptied, thinned

__all__ = ("Shrunk", "shrink")

NOTHING = Batch([], [], [])
EMPTY = 2**30
"""Level of a segment that has no events any more."""
WORTH = 0.9
"""A segment is written anew if that leaves less than this part of it."""
ENOUGH = 0.5
"""Infos go down to the newest of each key where more than this part of a segment would be left."""


class Shrunk(NamedTuple):
    """What came of making room.

    Attributes:
        left_out: events that are not there any more.
        failure: why frames are in memory, if the disk took none.
    """

    left_out: int = 0
    failure: OSError | None = None


class _Frames:
    """The frames of a segment, but the one that may not change; read once.

    Attributes:
        first: that one, once it was read; else nothing.
        events: how many events those have that were read.
    """

    def __init__(self, segment: Segment, kept: tuple[int, int] | None, refused: Refused) -> None:
        self.first: list[Frame] = []
        self.events = 0
        self._frames = segment.frames(refused)
        self._kept = kept

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            if (frame.epoch, frame.number) == self._kept:
                self.first = [frame]
            else:
                self.events += frame.batch.size if frame.kind == EVENTS else 0
                yield frame


def shrink(
    segments: list[Segment],
    sealed: Sequence[Segment],
    segment_bytes: int,
    kept: tuple[int, int] | None,
    refused: Refused,
) -> Shrunk | None:
    """Make one segment smaller; return what came of that, or None if nothing can be done.

    Args:
        segments: of the spool, in order; one that is needed no more is removed.
        sealed: those of them that may be changed, in order; nothing is appended to them.
        segment_bytes: bytes that a segment has, about.
        kept: epoch and number of the frame that may be on its way to a broker, or there already: it stays as it is.
        refused: called for each piece that cannot be read.
    """
    segment = _next(sealed)
    emptying = segment is None
    if segment is None:
        segment = next((one for one in sealed if one.level < EMPTY), None)
    if segment is None:
        return None
    before = _before(segments, segment)
    if before not in sealed:
        before = None
    try:
        if emptying:
            return _empty(segments, segment, before, kept, refused)
        return _thin(segments, segment, before, segment_bytes, kept, refused)
    except OSError as error:
        refused(segment.source, error)
        segments.remove(segment)
        return Shrunk()


def _next(sealed: Sequence[Segment]) -> Segment | None:
    """Return the segment to thin: the oldest of the level that is largest, all above the lowest taken together."""
    sizes: dict[int, int] = {}
    for one in sealed:
        if not one.stuck:
            sizes[one.level] = sizes.get(one.level, 0) + one.size
    if not sizes:
        return None
    above = {level: size for level, size in sizes.items() if level}
    level = max(above, key=above.__getitem__) if sizes.get(0, 0) < sum(above.values()) else 0
    return next(one for one in sealed if not one.stuck and one.level == level)


def _thin(
    segments: list[Segment],
    segment: Segment,
    before: Segment | None,
    segment_bytes: int,
    kept: tuple[int, int] | None,
    refused: Refused,
) -> Shrunk:
    damage: list[str] = []

    def tell(source: str, error: Exception) -> None:
        damage.append(source)
        refused(source, error)

    frames = _Frames(segment, kept, tell)
    less = thinned(frames)
    new = _encoded(less, frames.first)
    if segment.level and _size(new) > ENOUGH * segment.size:
        frames = _Frames(segment, kept, _pass_over)
        less = thinned(frames, infos=True)
        new = _encoded(less, frames.first)
    segment.level = level = segment.level + 1
    if new and not damage and _size(new) > WORTH * segment.size:
        segment.stuck = level > 1
        return Shrunk()
    left_out = frames.events - sum(frame.batch.size for frame in less)
    if before is not None and before.level == level and before.size + _size(new) <= segment_bytes:
        failure = before.replace([*before.raw(), *new])
        before.stuck = False
        segments.remove(segment)
        segment.delete()
    else:
        failure = _replaced(segments, segment, new)
    return Shrunk(left_out, failure)


def _empty(
    segments: list[Segment], segment: Segment, before: Segment | None, kept: tuple[int, int] | None, refused: Refused
) -> Shrunk:
    frames = _Frames(segment, kept, refused)
    rest = [frame._replace(batch=NOTHING) for frame in frames]
    segment.level, segment.stuck = EMPTY, True
    if before is not None and before.level == EMPTY and not frames.first:
        earlier = _Frames(before, kept, refused)
        failure = before.replace(_encoded(emptied([*earlier, *rest]), earlier.first))
        segments.remove(segment)
        segment.delete()
        return Shrunk(frames.events, failure)
    return Shrunk(frames.events, _replaced(segments, segment, _encoded(emptied(rest), frames.first)))


def _before(segments: list[Segment], segment: Segment) -> Segment | None:
    """Return the segment in front of one, if it is of the same epoch."""
    index = segments.index(segment)
    before = segments[index - 1] if index else None
    return before if before is not None and before.epoch == segment.epoch else None


def _replaced(segments: list[Segment], segment: Segment, new: list[tuple[int, bytes]]) -> OSError | None:
    if new:
        return segment.replace(new)
    segments.remove(segment)  # nothing in it could be read
    segment.delete()
    return None


def _encoded(frames: Sequence[Frame], first: Sequence[Frame]) -> list[tuple[int, bytes]]:
    return [(frame.number, encode_frame(frame)) for frame in (*first, *frames)]


def _size(new: Sequence[tuple[int, bytes]]) -> int:
    return sum(len(data) for _, data in new)


def _pass_over(source: str, error: Exception) -> None:
    """Do not tell once more."""
