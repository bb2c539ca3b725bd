"""A stage of a pipeline: what is done to each item, timed inside of the function that does it.

Time: from the first line of the function to its last. What passes before a thread of a pool takes the call, or before
    an event loop comes round to it, is not the stage's.
Counts: a call that returns is an item; one that raises an ``Exception`` is an error; one that is cancelled is neither.
    All three were busy.
Transparent: a decorated function is called, raises, is cancelled, described and pickled as without; where it was
    pickled to, another process, nothing is counted.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from types import MethodType, TracebackType
from typing import Any, Self, TypeVar, cast

import anyio

from asynchub.errors import ArgumentError
from asynchub.loops import LoopHandle, in_event_loop
from asynchub.pipeline.clock import clock
from asynchub.pipeline.pulling import AsyncPull, Pull
from asynchub.pipeline.stepping import Stepped
from asynchub.pipeline.tally import Meter, Tally
from asynchub.pipeline.tracks import Track, task_track

__all__ = ("Stage", "StagedFunction", "Task")

F = TypeVar("F", bound=Callable[..., Any])
LONG = 200_000
"""Nanoseconds: of a function whose last call took longer, each call is stepped; of others, one of ``SAMPLED``."""
SAMPLED = 17  # a prime: what a stage does in each 8th or 16th call only, as one that makes batches, is met as often


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
        inner = _unwrapped(function)
        if inspect.isasyncgenfunction(inner):
            wrapper: Any = self._generator_async(function)
        elif inspect.iscoroutinefunction(inner):
            wrapper = self._function_async(function)
        elif inspect.isgeneratorfunction(inner):
            wrapper = self._generator(function)
        else:
            return cast("F", StagedFunction(self.meter, function))
        return cast("F", functools.wraps(function)(wrapper))

    def _function_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        meter, local = self.meter, self.meter.local

        async def staged(*args: Any, **kwargs: Any) -> Any:
            if self.limited:
                async with self.limiter:
                    return await measured(*args, **kwargs)
            return await measured(*args, **kwargs)

        async def measured(*args: Any, **kwargs: Any) -> Any:
            try:
                tally = local.tally
            except AttributeError:
                tally = meter.tally()
            current_task, track = tally.track.current_task, task_track()
            if current_task is None or track is None or track.task is not current_task() or not meter.loop_track:
                track = meter.task_track(tally)
            outer, nested_before = track.meter, track.nested
            track.meter, track.nested = meter, 0
            tally.calls = number = tally.calls + 1
            coroutine = function(*args, **kwargs)
            stepped: Any = coroutine
            if tally.long or not number % SAMPLED:
                stepped = Stepped(coroutine, tally, 1 if tally.long else SAMPLED)
            start = clock()
            opened = tally.open
            opened[number] = (start, coroutine)
            if len(opened) > tally.peak:
                tally.peak = len(opened)
            try:
                result = await stepped
            except BaseException as error:
                opened.pop(number, None)
                _failed(meter, tally, track, start, outer, nested_before, error)
                raise
            end = tally.last = clock()
            opened.pop(number, None)
            took = end - start
            tally.long = took > LONG
            nested, track.nested = track.nested, nested_before + took
            track.meter, track.last = outer, meter
            if outer is not meter.parent:
                meter.parent = outer
            if nested:
                tally.nested += nested
            tally.record(took)
            if end > tally.due:
                tally.drain()
            return result

        return staged if self.limited else measured

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def staged(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
            items = function(*args, **kwargs)
            try:
                yield from Pull(self.meter, iter(items))
            finally:
                if hasattr(items, "close"):
                    items.close()

        return staged

    def _generator_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def staged(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            items = function(*args, **kwargs)
            try:
                async for item in AsyncPull(self.meter, aiter(items)):
                    yield item
            finally:
                if hasattr(items, "aclose"):
                    await items.aclose()

        return staged

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


class StagedFunction:
    """A plain function of a stage. It passes for the function: described and pickled as that, and bound to objects.

    Args:
        meter: of the stage.
        function: the function.
    """

    def __init__(self, meter: Meter, function: Callable[..., Any]) -> None:
        self._meter = meter
        self._function = function
        self._local = meter.local
        functools.update_wrapper(self, function)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        meter = self._meter
        try:
            tally = self._local.tally
        except AttributeError:
            tally = meter.tally()
        track: Track = tally.track
        if tally.track.current_task is not None:
            track = tally.track.of_task()
        outer, nested_before, since_before = track.meter, track.nested, tally.since
        track.meter, track.nested = meter, 0
        start = tally.since = clock()
        try:
            result = self._function(*args, **kwargs)
        except BaseException as error:
            tally.since = since_before
            _failed(meter, tally, track, start, outer, nested_before, error)
            raise
        end = tally.last = clock()
        tally.since = since_before
        took = end - start
        nested, track.nested = track.nested, nested_before + took
        track.meter, track.last = outer, meter
        if outer is not meter.parent:
            meter.parent = outer
        if nested:
            tally.nested += nested
        tally.record(took)
        if end > tally.due:
            tally.drain()
        return result

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._function, name)

    def __reduce__(self) -> Any:
        """Pickle as a name that this object can be found under, else as the function itself."""
        name, module = getattr(self, "__qualname__", ""), sys.modules.get(getattr(self, "__module__", ""))
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else (_same, (self._function,))


def _same(function: Any) -> Any:
    return function


class Task:
    """The work on one item, as a context manager; for one use.

    Attributes:
        nbytes: bytes that it handles.
    """

    __slots__ = ("_before", "_meter", "_number", "_start", "_tally", "_track", "nbytes")

    def __init__(self, meter: Meter | None, nbytes: int) -> None:
        self._meter = meter
        self.nbytes = nbytes

    def __enter__(self) -> Self:
        meter = self._meter
        if meter is not None:
            self._tally = tally = meter.tally()
            track: Track = tally.track
            self._track = track = track if tally.track.current_task is None else tally.track.of_task()
            self._before = (track.meter, track.nested)
            track.meter, track.nested = meter, 0
            tally.calls = self._number = tally.calls + 1
            self._start = clock()
            tally.open[self._number] = (self._start, None)  # others may be open in this thread, in other tasks
            tally.peak = max(tally.peak, len(tally.open))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        meter = self._meter
        if meter is None:
            return
        tally, track = self._tally, self._track
        outer, nested_before = self._before
        tally.open.pop(self._number, None)
        tally.nbytes += self.nbytes
        if error is not None:
            _failed(meter, tally, track, self._start, outer, nested_before, error)
            return
        end = tally.last = clock()
        took = end - self._start
        nested, track.nested = track.nested, nested_before + took
        track.meter, track.last = outer, meter
        if outer is not meter.parent:
            meter.parent = outer
        if nested:
            tally.nested += nested
        tally.record(took)
        if end > tally.due:
            tally.drain()


def _failed(
    meter: Meter,
    tally: Tally,
    track: Track,
    start: int,
    outer: Meter | None,
    nested_before: int,
    error: BaseException,
) -> None:
    """Count a call that did not return."""
    took = clock() - start
    nested, track.nested = track.nested, nested_before + took
    track.meter, track.last = outer, meter
    tally.busy += took - nested
    if isinstance(error, Exception):
        tally.errors += 1


def _unwrapped(function: Any) -> Any:
    """Return what tells of which kind a function is."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return getattr(function, "__call__", function)  # noqa: B004  # of which kind it is
