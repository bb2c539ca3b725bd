"""The newest value of each key of a rank, as a broker keeps it for those who come late.

Threads: all of it on the loop of the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asynchub.bridges.frames import SNAPSHOT, Frame, decode_frame
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Stored, Transport
from asynchub.errors import CorruptStateError, StateError

__all__ = ("read_snapshot",)

TRIES = 5
"""How often a snapshot is read that is just being replaced."""
PAUSE = 0.02
"""Seconds before the second try; the next ones wait longer, each by as much."""


async def read_snapshot(
    transport: Transport, subjects: Subjects, rank: int, refused: Callable[[str, Exception], object], timeout: float
) -> list[Frame]:
    """Return the parts of a rank's newest snapshot; none if there is none that is whole.

    Args:
        transport: to the broker.
        subjects: of the run.
        rank: the rank.
        refused: called with where a part is that is damaged or foreign, and what is wrong with it.
        timeout: seconds in which the broker has to answer, each time.

    Raises:
        BridgeError: it does not.
    """
    for again in range(TRIES):
        await asyncio.sleep(again * PAUSE)
        parts: list[Frame] = []
        while not parts or len(parts) < parts[0].parts:
            stored = await transport.newest(subjects.snapshot(rank, len(parts)), timeout)
            if stored is None:
                break
            try:
                parts.append(_part(stored, subjects.run, rank))
            except StateError as error:
                refused(stored.subject, error)
                return []
        if not parts:
            return []
        if len(parts) == parts[0].parts and len({(one.epoch, one.number) for one in parts}) == 1:
            return parts
    return []


def _part(stored: Stored, run: str, rank: int) -> Frame:
    frame = decode_frame(stored.data)
    if (frame.kind, frame.run, frame.rank) != (SNAPSHOT, run, rank):
        raise CorruptStateError(f"it is no snapshot of rank {rank} of this run")
    if not 0 < frame.position < stored.position:
        raise CorruptStateError(f"it reaches up to position {frame.position}, and is at {stored.position}")
    return frame
