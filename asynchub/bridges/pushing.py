"""Frames of a spool, brought to a broker one by one.

Once: the broker is asked for the newest frame that it has of an epoch before the first of it is sent; beside that, it
    knows a frame by its message id.
Order: as in the spool.
Failures: an error of the broker's leaves the spool as it was: what was not taken is there, and oldest first.
Threads: all of it on the loop of the transport; no other thread uses the spool meanwhile.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from asynchub.bridges.frames import Frame, decode_frame, encode_frame
from asynchub.bridges.spool import Spool, Spooled
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.thinning import emptied, thinned
from asynchub.bridges.transport import Transport
from asynchub.errors import StateError

__all__ = ("Sent", "push", "push_one", "take_off_known")

logger = logging.getLogger("asynchub")


class Sent(NamedTuple):
    """A frame that a broker has taken.

    Attributes:
        frame: the frame, as it was sent.
        position: where it is in the broker's log.
    """

    frame: Frame
    position: int


async def push(spool: Spool, transport: Transport, subjects: Subjects, *, timeout: float) -> int:
    """Send all that is in a spool and that a broker has not got; return how many frames were sent.

    Args:
        spool: what is to be sent, all of it of one run.
        transport: to the broker, connected.
        subjects: of that run.
        timeout: seconds that the broker may take for each answer.

    Raises:
        AccessRefusedError: the credentials do not allow it; the rest is in the spool.
        BridgeError: the broker does not answer; the rest is in the spool.
    """
    if not spool.waiting:
        return 0
    await transport.open_log(timeout)
    count = 0
    for epoch in spool.epochs():
        await take_off_known(spool, transport, subjects, epoch, timeout=timeout)
        while (spooled := spool.peek()) is not None and spooled.frame.epoch == epoch:
            await push_one(spool, transport, subjects, timeout=timeout)
            count += 1
    return count


async def push_one(spool: Spool, transport: Transport, subjects: Subjects, *, timeout: float) -> Sent | None:
    """Send the oldest frame of a spool; return None if there is none. Arguments and errors as of ``push``."""
    spooled = spool.peek()
    if spooled is None:
        return None
    frame, data = _short_enough(spooled, transport.max_bytes)
    subject = subjects.events(frame.rank, frame.epoch)
    position = await transport.append(subject, data, frame.message_id, timeout=timeout)
    spool.take_off(frame.epoch, frame.number)
    return Sent(frame, position)


async def take_off_known(
    spool: Spool, transport: Transport, subjects: Subjects, epoch: int, *, timeout: float
) -> Sent | None:
    """Take off what a broker has of the epoch that is next; return the newest of that, None if there is nothing.

    Arguments and errors as of ``push``.
    """
    spooled = spool.peek()
    if spooled is None or spooled.frame.epoch != epoch:
        return None
    stored = await transport.newest(subjects.events(spooled.frame.rank, epoch), timeout)
    if stored is None:
        return None
    try:
        frame = decode_frame(stored.data)
    except StateError as error:
        logger.warning("the broker's newest message of %s is no frame: %s", stored.subject, error)
        return None
    spool.take_off(epoch, frame.number)
    return Sent(frame, stored.position)


def _short_enough(spooled: Spooled, max_bytes: int) -> Spooled:
    """Return a frame with as many of its events as a broker takes in one message."""
    if len(spooled.data) <= max_bytes:
        return spooled
    (frame,) = thinned([spooled.frame], infos=True)
    data = encode_frame(frame)
    if len(data) > max_bytes:
        (frame,) = emptied([spooled.frame])
        data = encode_frame(frame)
    logger.warning(
        "frame %s has %d bytes, and the broker takes %d: %d of its %d events are left out",
        frame.message_id,
        len(spooled.data),
        max_bytes,
        frame.left_out,
        frame.size,
    )
    return Spooled(frame, data)
