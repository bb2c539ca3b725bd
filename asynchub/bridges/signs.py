"""What a bridge says of itself: to its hub, as events, and to who follows the run, as signs of life.

Threads: all of it on the bridge's own loop; ``error`` may be read from anywhere.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import msgpack

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.plan import Plan
from asynchub.bridges.sender import Sender
from asynchub.bridges.spool import Spool
from asynchub.bridges.transport import Transport
from asynchub.bridging import BridgeDegraded, BridgeRestored, ClocksApart, FrameRefused

__all__ = ("Signs", "in_words")

GRACE = 2.0
"""Seconds that a broker may be away before that is said."""
HEARTBEAT = 5.0
"""Seconds from one sign of life to the next."""
APART = 1.0
"""Seconds that clocks may be apart before that is said, and by which that has to change to be said again."""


def in_words(error: BaseException | None) -> str:
    """Return an error as ``Type: text``; nothing of none."""
    return "" if error is None else f"{type(error).__name__}: {error}"


class Signs:
    """Says how a bridge is doing.

    Args:
        plan: what the bridge was told.

    Attributes:
        error: why the broker takes nothing; None if it does.
        waiting: frames in the spool.
    """

    def __init__(self, plan: Plan) -> None:
        self.error: Exception | None = None
        self.waiting = 0
        self._plan = plan
        self._down_since: float | None = None
        self._said = False
        self._clock_said = 0.0

    def refused(self, source: str, error: Exception) -> None:
        """Say that something in the spool is damaged or foreign."""
        self._plan.hub.publish(FrameRefused(source=source, error=in_words(error)))

    def told(self, error: Exception | None) -> None:
        """Take note of why nothing can be sent, or, with None, that it can; say so if that lasts."""
        self.error = error
        if error is not None:
            if self._down_since is None:
                self._down_since = time.monotonic()
                asyncio.get_running_loop().call_later(GRACE, self._say_down, self._down_since)
        elif self._down_since is not None:
            seconds, self._down_since = time.monotonic() - self._down_since, None
            if self._said:
                self._said = False
                restored = BridgeRestored(bridge=self._plan.name, seconds=seconds, waiting=self.waiting)
                self._plan.hub.publish(restored)

    def _say_down(self, since: float) -> None:
        if self._down_since == since and self.error is not None:
            self._said = True
            self._plan.hub.publish(BridgeDegraded(bridge=self._plan.name, error=in_words(self.error)))

    async def live(self, epoch: int, transport: Transport, spool: Spool, sender: Sender) -> None:
        """Give signs of life, and look at the clocks, until cancelled."""
        subject = self._plan.subjects.heartbeat(self._plan.rank)
        while True:
            facts = {
                "rank": self._plan.rank,
                "world": self._plan.world,
                "epoch": epoch,
                "time": time.time(),
                "step": self._plan.hub.step,
                "waiting": spool.waiting,
                "left_out": spool.left_out + sender.left_out,
            }
            if transport.connected:
                with suppress(BridgeError):  # whatever is to be sent next will tell
                    await transport.tell(subject, msgpack.packb(facts))
            ahead = sender.clock_ahead
            if ahead is not None and abs(ahead - self._clock_said) > APART:
                self._clock_said = ahead
                self._plan.hub.publish(ClocksApart(rank=self._plan.rank, seconds=ahead))
            await asyncio.sleep(HEARTBEAT)
