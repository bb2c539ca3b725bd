"""A thread that does one thing at a time for a task, which need not wait for it.

For calls of a library that may hang, as one does whose server is gone: the thread is a daemon, so a call that never
returns holds up neither the task nor the end of the program.

Order: calls run one after the other, as they were begun; never two at once, not even after ``end``.
Threads: ``begin`` and ``end`` may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from asynchub.loops import Latch

__all__ = ("Call", "Worker")


class Call:
    """One thing to do, begun or done.

    Attributes:
        done: set when it has returned or raised.
        error: what it raised, if it did.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self.done = Latch()
        self.error: BaseException | None = None
        self._function = function

    def run(self) -> None:
        """Do it, in this thread."""
        try:
            self._function()
        except BaseException as error:  # whoever waits is to have it
            self.error = error
        finally:
            self.done.set()


class Worker:
    """A thread of its own, that begins with the first call.

    Attributes:
        name: of the thread.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._before: threading.Thread | None = None  # one that was told to end

    def begin(self, function: Callable[..., object], *arguments: Any) -> Call:
        """Have ``function`` called with ``arguments`` when the calls begun before are done; does not wait."""
        call = Call(lambda: function(*arguments))
        if self._thread is None:
            self._calls = SimpleQueue()
            given = self._calls, self._before
            self._thread = threading.Thread(target=_run, args=given, name=self.name, daemon=True)
            self._thread.start()
        self._calls.put(call)
        return call

    def end(self) -> None:
        """Have the thread end when the calls begun so far are done; does not wait."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread, self._before = None, self._thread


def _run(calls: SimpleQueue[Call | None], before: threading.Thread | None) -> None:
    if before is not None:
        before.join()
    while (call := calls.get()) is not None:
        call.run()
