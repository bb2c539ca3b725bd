"""Bringing frames from the spool to a broker: each once, in order, for as long as it takes.

Once: before the first frame of an epoch is sent, and after every failure, the broker is asked for the newest that it
    has of it; what it has is not sent again. Beside that, the broker knows a frame by its message id.
Late readers: every ``SNAPSHOT_EVERY`` frames, the newest value of each key goes to the broker in one piece, with the
    place in the broker's log up to which it reaches.
Too large: a frame that a broker refuses for its size is sent empty, and says how many events are not in it.
Threads: all of it on the bridge's own loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from asynchub.batches import Batch
from asynchub.bridges.cutting import Identity
from asynchub.bridges.failures import AccessRefusedError, BridgeError
from asynchub.bridges.frames import BASE, SNAPSHOT, Frame, decode_frame, encode_frame
from asynchub.bridges.newest import Newest
from asynchub.bridges.spool import Spool, Spooled
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.thinning import emptied
from asynchub.bridges.transport import Stored, Transport
from asynchub.errors import StateError
from asynchub.loops import Latch

__all__ = ("Sender",)

logger = logging.getLogger("asynchub")
ANSWER = 2.0
"""Seconds in which a broker has to answer."""
RETRY = 0.25
"""Seconds until what has failed is tried again, while the broker seems to be there; twice as many each time."""
REFUSED = 5.0
"""Seconds until what was refused, or has failed in a way that nobody foresaw, is tried again."""
NOTHING = Batch([], [], [])
SNAPSHOT_EVERY = 64
"""Frames from one snapshot to the next."""


class Sender:
    """Sends what is in a spool.

    Args:
        identity: whose frames are sent.
        subjects: of the run.
        transport: to the broker.
        spool: what is to be sent.
        told: called on the loop with why nothing can be sent, or None when it can again.

    Attributes:
        delivered: frames that the broker took from this sender.
        left_out: events that were not sent, because their frame is too large for the broker.
        newest: the newest frame that the broker has, without its events; None before the first.
        clock_ahead: by how many seconds this machine's clock is ahead of the broker's; None while that is not known.
    """

    def __init__(
        self,
        identity: Identity,
        subjects: Subjects,
        transport: Transport,
        spool: Spool,
        told: Callable[[Exception | None], object],
    ) -> None:
        self.delivered = 0
        self.left_out = 0
        self.newest: Frame | None = None
        self.clock_ahead: float | None = None
        self._identity = identity
        self._subjects = subjects
        self._transport = transport
        self._spool = spool
        self._told = told
        self._known: set[int] = set()
        self._values = Newest()
        self._position = 0
        self._since_snapshot = 0
        self._some = asyncio.Event()
        self._waiting: list[tuple[int, Latch]] = []
        self._opened = False
        self._failures = 0  # since a frame was delivered

    def wake(self) -> None:
        """Say that there is something new in the spool, or that the broker is there again, or is not. On the loop."""
        self._some.set()

    def emptied(self, number: int) -> Latch:
        """Return a latch that is set when the broker has all up to a frame of this epoch. On the loop."""
        latch = Latch()
        self._waiting.append((number, latch))
        self._tell_waiting()
        self._some.set()
        return latch

    def _tell_waiting(self) -> None:
        newest, own = self.newest, self._identity.epoch
        reached = newest.number if newest is not None and newest.epoch == own else 0
        for one in [one for one in self._waiting if one[0] <= reached or not self._spool.waiting]:
            self._waiting.remove(one)
            one[1].set()

    async def run(self) -> None:
        """Send, again and again, until cancelled."""
        while True:
            try:
                await self._send_all()
            except AccessRefusedError as error:
                await self._failed(error, REFUSED)
            except BridgeError as error:
                slow = self._transport.connected  # else it was not asked anything
                await self._failed(error, min(RETRY * 2 ** min(self._failures, 8), REFUSED) if slow else RETRY)
                self._failures += slow
            except Exception as error:  # a defect, of ours or of a client: what comes later is worth sending
                logger.exception("frames of run %r could not be sent", self._subjects.run)
                await self._failed(error, REFUSED)

    async def _failed(self, error: Exception, pause: float) -> None:
        self._known.clear()
        self._opened = False
        self._told(error)
        while not self._transport.connected:
            self._some.clear()
            await self._some.wait()
        await asyncio.sleep(pause)

    async def _send_all(self) -> None:
        while True:
            if not self._transport.connected:
                raise self._transport.error or BridgeError("the broker is not there")
            if not self._opened:
                await self._transport.open_log(ANSWER)
                self._opened = True
            self._some.clear()
            spooled = self._spool.peek()
            if spooled is None:
                self._told(None)
                self._tell_waiting()
                await self._some.wait()
            elif spooled.frame.epoch not in self._known:
                await self._ask(spooled.frame.rank, spooled.frame.epoch)
            else:
                await self._send(spooled)

    async def _send(self, spooled: Spooled) -> None:
        frame, data = spooled
        if len(data) > self._transport.max_bytes:
            frame = emptied([frame])[0]
            data = encode_frame(frame)
            self.left_out += spooled.frame.batch.size
            logger.warning(
                "frame %s of run %r takes %d bytes, the broker takes %d: its %d events are left out",
                frame.message_id,
                self._subjects.run,
                len(spooled.data),
                self._transport.max_bytes,
                spooled.frame.batch.size,
            )
        subject = self._subjects.events(frame.rank, frame.epoch)
        self._position = await self._transport.append(subject, data, frame.message_id, timeout=ANSWER)
        self._told(None)
        self._spool.take_off(frame.epoch, frame.number)
        self.delivered += 1
        self._failures = 0
        self._note(frame)
        self._tell_waiting()
        if (frame.kind == BASE and frame.part == frame.parts - 1) or self._since_snapshot >= SNAPSHOT_EVERY:
            try:
                await self.snapshot()
            except AccessRefusedError as error:
                self._since_snapshot = 0
                logger.warning("nobody who comes late is given the newest values of %r: %s", self._subjects.run, error)
            except BridgeError as error:
                self._since_snapshot = SNAPSHOT_EVERY  # it is tried again after the next frame
                logger.debug("no snapshot of run %r: %s", self._subjects.run, error)

    async def _ask(self, rank: int, epoch: int) -> None:
        """Find out what the broker has of an epoch."""
        stored = await self._transport.newest(self._subjects.events(rank, epoch), ANSWER)
        self._known.add(epoch)
        if stored is None:
            return
        try:
            frame = decode_frame(stored.data)
        except StateError as error:
            logger.warning("the broker's newest message of %s is no frame: %s", stored.subject, error)
            return
        self._position = stored.position
        while (spooled := self._spool.peek()) is not None and spooled.frame.epoch == epoch:
            if spooled.frame.number > frame.number:
                break
            self._spool.take_off(epoch, spooled.frame.number)
            self._note(spooled.frame)
        self._tell_waiting()

    def _note(self, frame: Frame) -> None:
        if self.newest is None or self.newest.epoch != frame.epoch:
            self._values = Newest()
        self.newest = frame._replace(batch=NOTHING)
        self._since_snapshot += 1
        self._values.add(frame.batch)

    async def snapshot(self) -> None:
        """Give the broker the newest value of each key, as of the last frame that it has.

        Raises:
            BridgeError: it does not take it.
        """
        newest = self.newest
        if newest is None or newest.epoch != self._identity.epoch or not self._since_snapshot:
            return
        batches = self._values.parts()
        frames = [
            newest._replace(
                kind=SNAPSHOT,
                first=newest.number,
                time=time.time(),
                batch=batch,
                position=self._position,
                part=part,
                parts=len(batches),
            )
            for part, batch in enumerate(batches)
        ]
        encoded = [encode_frame(frame) for frame in frames]
        if any(len(data) > self._transport.max_bytes for data in encoded):
            self._since_snapshot = 0
            return  # who comes late reads the frames themselves
        subject = ""
        for frame, data in reversed(list(zip(frames, encoded, strict=True))):  # who finds the first finds the others
            subject = self._subjects.snapshot(frame.rank, frame.part)
            message_id = f"{frame.message_id}/{frame.part}"
            await self._transport.append(subject, data, message_id, alone=True, timeout=ANSWER)
        self._since_snapshot = 0
        with suppress(BridgeError):  # what it is for is no reason to stop sending
            self._compare_clocks(await self._transport.newest(subject, ANSWER))

    def _compare_clocks(self, stored: Stored | None) -> None:
        if stored is not None:
            with suppress(StateError):  # somebody else has written there
                self.clock_ahead = decode_frame(stored.data).time - stored.time
