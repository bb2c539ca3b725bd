"""Waking code that waits on an event loop, from any thread.

Works for asyncio (uvloop too) and trio. Waking a loop that has ended does nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio import NoEventLoopError
from anyio.lowlevel import current_token

__all__ = ("Latch", "LoopHandle", "deadline_in", "in_event_loop", "seconds_until")


def in_event_loop() -> bool:
    """Tell whether an event loop runs in this thread."""
    try:
        current_token()
    except NoEventLoopError:
        return False
    return True


def deadline_in(timeout: float | None) -> float | None:
    """Return the time, by ``time.monotonic``, that is ``timeout`` seconds away; None for never."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_until(deadline: float | None) -> float | None:
    """Return the seconds left until ``deadline``, not below 0; None if there is none."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


class LoopHandle:
    """The event loop running in this thread, for calls from elsewhere.

    Attributes:
        native: the asyncio loop or the trio token.
        thread: identifier of the loop's thread.
    """

    __slots__ = ("__weakref__", "native", "thread")

    def __init__(self) -> None:
        self.native: Any = current_token().native_token
        self.thread = threading.get_ident()

    def is_here(self) -> bool:
        """Tell whether the calling thread is the loop's."""
        return self.thread == threading.get_ident()

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Have the loop call ``function`` soon; False when the loop has ended. Any thread may call this."""
        try:
            if hasattr(self.native, "call_soon_threadsafe"):
                self.native.call_soon_threadsafe(function)
            else:
                self.native.run_sync_soon(function, idempotent=True)
        except RuntimeError:  # both kinds say so when the loop is closed (trio.RunFinishedError is one)
            return False
        return True


class Latch:
    """Set for good, from any thread; waited for by any number of threads and tasks.

    Unlike ``threading.Event`` it shares no lock: a signal handler that breaks into a wait, and waits for something that
    the same thread sets after this, holds up neither.

    Attributes:
        is_set: whether it is.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._wakes: list[Callable[[], object]] = []

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self.is_set = True
        for wake in self._wakes[:]:
            wake()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is set, at most ``timeout`` seconds; tell whether it is."""
        if self.is_set:
            return True
        closed = threading.Lock()
        closed.acquire()

        def wake() -> None:
            with suppress(RuntimeError):  # it is open already
                closed.release()

        self._wakes.append(wake)
        try:
            if not self.is_set:
                closed.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            self._wakes.remove(wake)
        return self.is_set

    async def waited(self, timeout: float | None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; tell whether it is."""
        event = anyio.Event()
        loop = LoopHandle()

        def wake() -> None:
            if loop.is_here():
                event.set()
            else:
                loop.call_soon(event.set)

        self._wakes.append(wake)
        try:
            if not self.is_set:
                with anyio.move_on_after(timeout):
                    await event.wait()
        finally:
            self._wakes.remove(wake)
        return self.is_set
