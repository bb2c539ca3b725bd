"""A stage of a pipeline: what is done to each item, timed inside of the function that does it.

Time: from the first line of the function to its last. What passes before a thread of a pool takes the call, or before
    an event loop comes round to it, is not the stage's.
Counts: a call that returns is an item; one that raises an ``Exception`` is an error; one that is cancelled is neither.
    All three were busy.
Transparent: a decorated function is called, raises, is cancelled, described and pickled as without; where it was
    pickled to, another process, nothing is counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import anyio

from asynchub.errors import ArgumentError
from asynchub.loops import LoopHandle, in_event_loop
from asynchub.pipeline.calls import Task, wrapped
from asynchub.pipeline.tally import Meter

__all__ = ("Stage",)

F = TypeVar("F", bound=Callable[..., Any])


class Stage:
    """One stage of a pipeline: a decorator, a context manager for each item, and what can be changed about it.

    Made by ``Pipeline.stage``; the same name gives the same stage.

    Args:
        meter: what counts for it.
        limited: whether calls of its async functions wait for the ``limiter``.
        enabled: whether anything is measured; if not, functions stay as they are.
        changed: called with the stage, the old and the new concurrency, a reason and an author.

    Attributes:
        meter: what counts for it.
        limited: whether calls of its async functions wait for the ``limiter``.
        functions: names of the functions that it has decorated.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        limited: bool,
        enabled: bool = True,
        changed: Callable[[Stage, int, int, str, str], object] | None = None,
    ) -> None:
        self.meter = meter
        self.limited = limited
        self._enabled = enabled
        self._changed = changed
        self._limiter: anyio.CapacityLimiter | None = None
        self._loop: LoopHandle | None = None
        self._unlimited = False
        self.functions: set[str] = set()

    def __repr__(self) -> str:
        return f"<stage {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.meter.name

    # --- functions

    def __call__(self, function: F) -> F:
        """Return ``function``, counted and timed: a plain or async function or method, or a generator of either kind.

        Of a generator each item is one; the time between two is not the stage's.

        Raises:
            ArgumentError: it is not callable.
        """
        if not callable(function):
            raise ArgumentError(
                f"stage {self.name!r} takes a function, got {type(function).__name__}; an iterable is what "
                "mon.monitor(...) takes"
            )
        if not self._enabled:
            return function
        self.functions.add(getattr(function, "__name__", ""))
        if self.limited:
            return cast("F", wrapped(self.meter, function, lambda: self.limiter))
        self._unlimited = self._unlimited or inspect.iscoroutinefunction(function)
        return cast("F", wrapped(self.meter, function, None))

    # --- by hand

    def task(self, nbytes: int = 0) -> Task:
        """Return a context manager for the work on one item: ``with mon.stage("copy").task(nbytes=n): ...``.

        Args:
            nbytes: bytes that it handles, for ``bytes_per_s``; ``Task.nbytes`` can be set inside as well.
        """
        return Task(self.meter if self._enabled else None, nbytes)

    def retry(self, number: int = 1) -> None:
        """Count that something was tried again."""
        self.meter.count_retries(number)

    def drop(self, reason: str = "", number: int = 1) -> None:
        """Count items that are left out, under a reason such as ``"404"``."""
        self.meter.count_drops(reason, number)

    # --- reaction

    def limit(self) -> None:
        """Have calls of its async functions wait for the ``limiter`` from now on.

        Raises:
            ArgumentError: it has decorated one already, whose calls do not.
        """
        if self._unlimited and not self.limited:
            raise ArgumentError(
                f"stage {self.name!r} has an async function already whose calls are not limited; say limited=True the "
                "first time that it is named"
            )
        self.limited = True

    @property
    def concurrency(self) -> int | None:
        """How many items it can do at once; None if nobody has said so."""
        return self.meter.concurrency

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """How many calls may run at once. For use on the event loop that the calls are made on.

        Calls of async functions take from it by themselves if the stage was made with ``limited=True``; for functions
        in threads, pass it on: ``anyio.to_thread.run_sync(decode, item, limiter=stage.limiter)``.
        """
        if self.meter.loop_track is None and in_event_loop():  # else it is known where the calls are made
            self._loop = LoopHandle()
        if self._limiter is None:
            self.meter.concurrency = self.meter.concurrency or 1
            self._limiter = anyio.CapacityLimiter(self.meter.concurrency)
        return self._limiter

    @property
    def adjustable(self) -> bool:
        """Whether its concurrency can be changed: whether it has a limiter that is used, or will be."""
        return self.limited or self._limiter is not None

    def set_concurrency(self, number: int, *, reason: str = "", author: str = "") -> None:
        """Let it do ``number`` items at once from now on. Any thread may call this; it does not wait.

        Those under way go on; with fewer than before, new calls wait until enough of them are done.

        Args:
            number: 1 or more.
            reason: why, for people.
            author: who wants it.

        Raises:
            ArgumentError: ``number`` is not an int above 0, or the stage has no limiter in use.
        """
        if type(number) is not int or number < 1:
            raise ArgumentError(f"concurrency must be an int above 0, got {number!r:.80}")
        if not self.adjustable:
            raise ArgumentError(
                f"stage {self.name!r} has no limiter: make it with limited=True, or run its calls under stage.limiter"
            )
        limiter, old = self.limiter, self.meter.concurrency or 1
        self.meter.concurrency = number

        def apply() -> None:
            limiter.total_tokens = number

        loop = self._loop if self.meter.loop_track is None else self.meter.loop_track.loop
        if loop is None or loop.is_here() or not loop.call_soon(apply):
            apply()
        if self._changed is not None and number != old:
            self._changed(self, old, number, reason, author)
