"""An asyncio loop in a thread of its own, for clients of brokers: they know no other loop, and swallow cancellations.

Ends: ``stop`` is bounded, whatever the loop is at; a thread that does not end is left behind, as a daemon.
Fork: a forked child has no such thread; there ``call`` does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from asynchub.loops import Latch

__all__ = ("LoopThread",)

logger = logging.getLogger("asynchub")
START_TIMEOUT = 30.0


class LoopThread:
    """Runs one coroutine function on a loop in a thread.

    Args:
        name: of the thread.
        main: what to run; the thread ends when it returns, or was cancelled by ``stop``.

    Attributes:
        ended: set when the thread is done.
        error: what ``main`` raised, or None.
    """

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.ended = Latch()
        self.error: BaseException | None = None
        self._main = main
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = Latch()
        self._context = Context()  # not the caller's, who may be of another kind of loop
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._begun.wait(START_TIMEOUT)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            self._begun.set()
            await self._main()

        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            logger.debug("%s was cancelled", self._thread.name)
        except BaseException as error:  # for whoever started it
            self.error = error
        finally:
            self._begun.set()
            self.ended.set()

    @property
    def here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def call(self, function: Callable[[], object]) -> bool:
        """Have the loop call ``function`` soon; False if it has ended. Any thread."""
        if self._loop is None or self._pid != os.getpid():
            return False
        try:
            self._loop.call_soon_threadsafe(function, context=self._context)
        except RuntimeError:  # it is closed
            return False
        return True

    def cancel(self) -> None:
        """Cancel what runs. Any thread; does not wait."""
        task = self._task
        if task is not None:
            self.call(task.cancel)

    def stop(self, timeout: float) -> bool:
        """Cancel what runs, and wait at most ``timeout`` seconds for the end; tell whether it has come."""
        self.cancel()
        return self._told(self.ended.wait(timeout), timeout)

    async def stopped(self, timeout: float) -> bool:
        """Do what ``stop`` does in this task."""
        self.cancel()
        return self._told(await self.ended.waited(timeout), timeout)

    def _told(self, ended: bool, timeout: float) -> bool:
        if not ended:
            logger.warning("%s has not ended in %.1f s, and is left behind", self._thread.name, timeout)
        return ended
