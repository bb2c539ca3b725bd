"""Where the readers of one event loop wait for what is published.

After events were found, readers let new ones gather for ``latency`` seconds while publishers only append; when that is
over, somebody looks for all of them. With nothing there, the next publish wakes the loop.

Threads: ``kick`` and ``hurry`` may be called from any; all else happens in the loop's own.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import anyio

from asynchub.loops import LoopHandle

__all__ = ("FALLBACK_POLL", "Station", "TaskStation", "TimerStation", "station_here")

FALLBACK_POLL = 1.0
"""Seconds after which a sleeping reader looks by itself: a wake-up may be lost when a loop's self-pipe is full."""

Ready = Callable[[], bool]
"""Tells whether there is something for a reader that waits."""


class _Log(Protocol):
    """What is looked at."""

    latency: float

    def arm(self, station: Station) -> bool:
        """Have the next publish call ``kick``; False if there is something already."""

    def collect(self) -> None:
        """Look for events."""


class Station(ABC):
    """What both kinds have in common.

    Args:
        log: what readers wait for.

    Attributes:
        thread: identifier of the loop's thread.
    """

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._loop = LoopHandle()
        self.thread = self._loop.thread
        self._next_look = 0.0
        self._hurried = False

    def is_here(self) -> bool:
        """Tell whether the code that calls this runs on the station's loop; False if that takes long to find out."""
        return False

    def found(self) -> None:
        """Say that the last look found events: the next comes after ``latency``."""
        if self._next_look >= 0:
            self._next_look = time.monotonic() + self._log.latency

    def kick(self) -> None:
        """Have the readers look, from any thread."""
        if self._loop.is_here():
            self._next_look = -1.0  # published on this very loop: no need to spare another thread
            self._wake_here()
        else:
            if self._next_look < 0:
                self._next_look = 0.0
            self._loop.call_soon(self._wake)

    def hurry(self) -> bool:
        """Have them look now, from any thread; False when the loop has ended."""
        self._hurried = True
        if self._loop.is_here():
            self._wake()
            return True
        return self._loop.call_soon(self._wake)

    @abstractmethod
    async def wait(self, ready: Ready) -> None:
        """Wait until ``ready()`` may have become true; call it again, and wait again, as long as it has not."""

    def leave(self) -> None:  # noqa: B027  # one kind has nothing to do then
        """Say that a reader that has waited has something to do."""

    @abstractmethod
    def _wake(self) -> None:
        """Have those who wait look."""

    def _wake_here(self) -> None:
        self._wake()


class TimerStation(Station):
    """On asyncio: a timer looks for all, and wakes those for whom there is something."""

    def __init__(self, log: _Log) -> None:
        super().__init__(log)
        self._native: asyncio.AbstractEventLoop = self._loop.native
        self._timer: asyncio.Handle | None = None  # set while a reader waits that has not been woken
        self._waiting: list[tuple[Ready, asyncio.Future[None]]] = []

    def is_here(self) -> bool:
        return asyncio._get_running_loop() is self._native

    async def wait(self, ready: Ready) -> None:
        entry = (ready, self._native.create_future())
        self._waiting.append(entry)
        try:
            if self._timer is None:
                self._set_timer()
            if not ready():  # another thread may have collected before the next publish was to wake anybody
                await entry[1]
        finally:
            self._waiting.remove(entry)

    def _set_timer(self) -> None:
        delay = 0.0
        if self._hurried:
            self._hurried = False
        else:
            delay = self._next_look - time.monotonic()
            if delay <= 0 and self._log.arm(self):
                delay = FALLBACK_POLL
        native = self._native
        self._timer = native.call_later(delay, self._look) if delay > 0 else native.call_soon(self._look)

    def _look(self) -> None:
        self._timer = None
        asleep = [entry for entry in self._waiting if not entry[1].done()]
        try:
            self._log.collect()
            found = [entry for entry in asleep if entry[0]()]
            if found:
                self.found()
            if len(found) < len(asleep):
                self._set_timer()
        except Exception:  # each looks for itself then, and is told
            found = asleep
        for _, future in found:
            future.set_result(None)

    def _wake(self) -> None:
        if self._timer is not None and not self._native.is_closed():
            self._timer.cancel()
            self._hurried = False
            self._look()

    def _wake_here(self) -> None:
        """Wake one at once, which looks for itself, and look for the others."""
        if self._timer is None or self._native.is_closed():
            return
        self._timer.cancel()
        asleep = [future for _, future in self._waiting if not future.done()]
        self._timer = self._native.call_soon(self._look) if len(asleep) > 1 else None
        if asleep:
            asleep[0].set_result(None)


class TaskStation(Station):
    """Elsewhere (trio): one of the readers sleeps for all, and wakes those for whom there is something.

    Attributes:
        waiting: of each other reader that waits: a function that tells whether there is something for it, and the
            event that wakes it.
        polled: whether a reader sleeps for all.
    """

    def __init__(self, log: _Log) -> None:
        super().__init__(log)
        self._event = anyio.Event()
        self.waiting: list[tuple[Ready, anyio.Event]] = []
        self.polled = False

    async def wait(self, ready: Ready) -> None:
        if not self.polled:
            self.polled = True
            try:
                await self._poll(ready)
            finally:
                self.polled = False
        else:
            entry = (ready, anyio.Event())
            self.waiting.append(entry)
            try:
                await entry[1].wait()
            finally:
                self.waiting.remove(entry)

    def leave(self) -> None:
        if self.waiting and not self.polled:
            self.waiting[0][1].set()

    def _wake(self) -> None:
        self._event.set()

    async def _poll(self, own: Ready) -> None:
        delay = self._next_look - time.monotonic()
        if self._hurried:
            self._hurried = False
        elif delay > 0:
            await self._sleep(delay)
        elif self._log.arm(self) and not own():  # another thread may have collected before
            await self._sleep(FALLBACK_POLL)
        self._log.collect()
        for ready, event in self.waiting:
            if ready():
                event.set()
                self.found()

    async def _sleep(self, seconds: float) -> None:
        if self._event.is_set():
            self._event = anyio.Event()
        if self._hurried:
            return
        with anyio.move_on_after(seconds):
            await self._event.wait()


def station_here(log: _Log) -> Station:
    """Return a new station of the running event loop."""
    return TimerStation(log) if isinstance(LoopHandle().native, asyncio.AbstractEventLoop) else TaskStation(log)
