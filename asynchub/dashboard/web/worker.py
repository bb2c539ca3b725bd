"""One thread for all work on runs, so that the event loop of a server never waits for a file.

Order: first come, first served; one piece of work at a time, so that it needs no locks.
Bounded: more than ``MOST_WAITING`` pieces do not wait, and nobody waits for one longer than he says; what nobody waits
    for any more is not begun.
Closing: what is in hand is finished, what waits is not begun. A piece of work that never ends keeps no process alive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from asynchub.errors import LifecycleError, WaitTimeoutError

__all__ = ("Worker",)

P = ParamSpec("P")
T = TypeVar("T")
MOST_WAITING = 200
SECONDS = 30.0


class Worker:
    """A thread that works for an event loop; it begins with its first piece of work.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns in the thread, or raise what it raises.

        Raises:
            LifecycleError: the worker is closed.
            WaitTimeoutError: it was not done in ``SECONDS``, or too much waits already.
        """
        if self._closed:
            raise LifecycleError("the server is closing")
        if self._work.qsize() >= MOST_WAITING:
            raise WaitTimeoutError(f"{MOST_WAITING} others wait for an answer already: ask again in a while")
        future: Future[T] = Future()
        self._work.put((future, lambda: function(*args, **kwargs)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), SECONDS)
        except TimeoutError:
            if future.done() and not future.cancelled():  # it is what the function has raised
                raise
            raise WaitTimeoutError(f"there was no answer in {SECONDS:g} s: the runs are slow to read") from None

    def close(self) -> None:
        """End, once what is in hand is done; does not wait for that."""
        if not self._closed:
            self._closed = True
            self._work.put(None)

    def _run(self) -> None:
        while (piece := self._work.get()) is not None:
            future, work = piece
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._closed:
                    raise LifecycleError("the server is closing")
                result = work()
            except BaseException as error:  # it is raised where it is waited for
                future.set_exception(error)
            else:
                future.set_result(result)
            del piece, future, work
