"""Functions of a stage, wrapped so that each call is counted and timed.

Transparent: a wrapped function is called, raises, is cancelled, described and pickled as without; where it was pickled
    to, another process, nothing is counted.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from types import MethodType, TracebackType
from typing import Any, Self

from asynchub.pipeline.clock import clock
from asynchub.pipeline.pulling import AsyncPull, Pull
from asynchub.pipeline.standins import same
from asynchub.pipeline.stepping import Stepped
from asynchub.pipeline.tally import Meter, Tally
from asynchub.pipeline.tracks import Track, task_track

__all__ = ("StagedFunction", "Task", "staged_async", "wrapped")

LONG = 200_000
"""Nanoseconds: of a function whose last call took longer, each call is stepped; of others, one of ``SAMPLED``."""
SAMPLED = 17  # a prime: what a stage does in each 8th or 16th call only, as one that makes batches, is met as often


def wrapped(
    meter: Meter, function: Callable[..., Any], turn: Callable[[], AbstractAsyncContextManager[Any]] | None
) -> Any:
    """Return a function, plain or async, or a generator of either kind, counted and timed.

    Args:
        meter: of the stage.
        function: the function.
        turn: returns what a call of an async function is made inside of; None for nothing.
    """
    inner = _unwrapped(function)
    code = getattr(inner, "__code__", None)
    if inspect.isasyncgenfunction(inner):
        wrapper: Any = _staged_async_generator(meter, function)
    elif inspect.iscoroutinefunction(inner) or (code and code.co_flags & inspect.CO_ITERABLE_COROUTINE):
        wrapper = staged_async(meter, function, turn)
    elif inspect.isgeneratorfunction(inner):
        wrapper = _staged_generator(meter, function)
    else:
        return StagedFunction(meter, function)
    return functools.wraps(function)(wrapper)


def staged_async(
    meter: Meter, function: Callable[..., Any], turn: Callable[[], AbstractAsyncContextManager[Any]] | None = None
) -> Callable[..., Any]:
    """Return an async function, counted and timed; see ``wrapped``."""
    local = meter.local

    async def staged(*args: Any, **kwargs: Any) -> Any:
        async with turn():  # type: ignore[misc]  # only where there is one
            return await measured(*args, **kwargs)

    async def measured(*args: Any, **kwargs: Any) -> Any:
        try:
            tally = local.tally
        except AttributeError:
            tally = meter.tally()
        current_task, track = tally.track.current_task, task_track()
        if current_task is None or track is None or track.task is not current_task() or not meter.loop_track:
            track = meter.task_track(tally)
        coroutine = function(*args, **kwargs)  # raises here what wrong arguments raise
        outer, nested_before = track.meter, track.nested
        track.meter, track.nested = meter, 0
        tally.calls = number = tally.calls + 1
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

    return measured if turn is None else staged


def _staged_generator(meter: Meter, function: Callable[..., Any]) -> Callable[..., Any]:
    def staged(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        items = function(*args, **kwargs)
        try:
            return (yield from Pull(meter, iter(items)))
        finally:
            if hasattr(items, "close"):
                items.close()

    return staged


def _staged_async_generator(meter: Meter, function: Callable[..., Any]) -> Callable[..., Any]:
    async def staged(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        items = function(*args, **kwargs)
        pull = AsyncPull(meter, aiter(items))
        try:
            item = await anext(pull)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:  # thrown in by who iterates
                    item = await pull.athrow(error)
                else:
                    item = await (anext(pull) if sent is None else pull.asend(sent))
        except StopAsyncIteration:
            return
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()

    return staged


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
        return name if found is self else (same, (self._function,))


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
            self._track = track = meter.task_track(tally)
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
