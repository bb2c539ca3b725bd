"""How late an event loop comes round: asked ten times per interval, from a thread that the loop cannot hold up.

Ends: a loop that has ended, or stands still between two runs, is not late.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from asynchub.loops import LoopHandle
from asynchub.pipeline.clock import clock
from asynchub.pipeline.histogram import Counts, bucket_of, empty

__all__ = ("LoopCounters", "LoopMeter")


@dataclass(slots=True)
class LoopCounters:
    """What was seen of a loop so far.

    Attributes:
        lags: how late it came round, of shape ``(960,)``.
        slowest: nanoseconds that it was late at most, since the last reading.
        waiting: since when it has not come round; 0 if it has.
    """

    lags: Counts = field(default_factory=empty)
    slowest: int = 0
    waiting: int = 0


class LoopMeter:
    """The lag of one event loop.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: LoopHandle) -> None:
        self.loop = loop
        self._since = 0
        self._lags = empty()
        self._slowest = 0
        self._lock = threading.Lock()

    def probe(self) -> bool:
        """Ask it to come round, unless it has been asked already; False when it has ended."""
        if self._since:
            return self._goes_on()
        self._since = clock()
        if self.loop.call_soon(self._came_round):
            return True
        self._since = 0
        return False

    def _goes_on(self) -> bool:
        """Tell whether it may still come round; it drops what it was asked when it ends."""
        native = self.loop.native
        if not hasattr(native, "is_running"):  # trio's, which keeps one of these, however often it is asked
            return self.loop.call_soon(_nothing)
        if not native.is_running():
            self._since = 0
        return not native.is_closed()

    def _came_round(self) -> None:
        since = self._since
        if not since:  # asked before it stood still
            return
        lag = clock() - since
        with self._lock:
            self._lags[bucket_of(lag)] += 1
            self._slowest = max(self._slowest, lag)
        self._since = 0

    def late(self, now: int) -> int:
        """Return for how many nanoseconds it has not come round."""
        since = self._since
        return max(now - since, 0) if since else 0

    def counters(self) -> LoopCounters:
        """Return what was seen of it so far."""
        with self._lock:
            counted = LoopCounters(np.copy(self._lags), self._slowest, self._since)
            self._slowest = 0
        return counted


def _nothing() -> None:
    """Is called by a loop that is asked whether it is there."""
