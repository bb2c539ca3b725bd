"""Iterators of which each item is timed: chains of generators, nodes, and whatever else is asked for its next item.

Each item's time is the iterator's own: what iterators that it asks in turn take of it, in the same task, is theirs. The
rest is known as well: it was starved while it waited for those, and blocked while nobody asked it.

Transparent: exceptions, the end, ``close`` and ``aclose`` are those of what is iterated over; nothing runs ahead of who
asks, and nothing is held but the iterator itself.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from asynchub.pipeline.clock import clock
from asynchub.pipeline.standins import AsyncStandin, Standin
from asynchub.pipeline.tally import Meter, Tally
from asynchub.pipeline.tracks import Track

__all__ = ("AsyncMonitored", "AsyncPull", "Monitored", "Pull")


class Pull(Iterator[Any]):
    """An iterator, timed item by item.

    Args:
        meter: of the stage.
        iterator: what is iterated over.
        use: an object that is held until the iteration has ended.
    """

    __slots__ = (
        "__weakref__",
        "_left",
        "_local",
        "_meter",
        "_next",
        "_use",
        "ident",
        "iterator",
        "since",
        "waits_for",
    )

    def __init__(self, meter: Meter, iterator: Iterator[Any], use: object = None) -> None:
        self.iterator = iterator
        self.since = self.ident = 0
        self.waits_for: Any = None
        meter.pulled_by(self)
        self._meter = meter
        self._next = iterator.__next__
        self._local = meter.local
        self._left = 0
        self._use = use

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        # everything stands in one place: a call of a helper would cost a tenth of all
        meter = self._meter
        try:
            tally = self._local.tally
        except AttributeError:
            tally = meter.tally()
        track = tally.track
        if track.current_task is not None:
            track = track.of_task()
        outer, nested_before = track.meter, track.nested
        track.meter, track.nested = meter, 0
        self.ident = tally.ident
        start = self.since = clock()
        if self._left:
            tally.blocked += start - self._left
        try:
            item = self._next()
        except BaseException as error:
            self.since = 0
            _failed(meter, tally, track, start, outer, nested_before, error, StopIteration)
            self._left, self._use = 0, None
            raise
        self._left = end = tally.last = clock()
        self.since = 0
        took = end - start
        nested, track.nested = track.nested, nested_before + took
        track.meter, track.last = outer, meter
        if outer is not meter.parent:
            meter.parent = outer
        if nested:
            tally.starved += nested
        tally.record(took - nested)
        if end > tally.due:
            tally.drain()
        return item

    def send(self, value: Any) -> Any:
        """Send a value to a generator; what it yields next is an item like others."""
        before, self._next = self._next, functools.partial(self.iterator.send, value)  # type: ignore[attr-defined]
        try:
            return self.__next__()
        finally:
            self._next = before

    def __getattr__(self, name: str) -> Any:
        """Return what the iterator has: ``close`` and ``throw`` of a generator."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.iterator, name)


class AsyncPull(AsyncIterator[Any]):
    """An async iterator, timed item by item.

    Args:
        meter: of the stage.
        iterator: what is iterated over.
        use: an object that is held until the iteration has ended.
    """

    __slots__ = (
        "__weakref__",
        "_left",
        "_meter",
        "_next",
        "_tally",
        "_track",
        "_use",
        "ident",
        "iterator",
        "since",
        "waits_for",
    )

    def __init__(self, meter: Meter, iterator: AsyncIterator[Any], use: object = None) -> None:
        self.iterator = iterator
        self.since = self.ident = 0
        self.waits_for: Any = None
        self._tally: Any = None
        self._track = Track()  # of no task: the first call looks for the right one
        meter.pulled_by(self)
        self._meter = meter
        self._next = iterator.__anext__
        self._left = 0
        self._use = use

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        meter, tally, track = self._meter, self._tally, self._track
        if track.task is None or (find := tally.track.current_task) is None or track.task is not find():
            tally = self._tally = meter.tally()
            track = self._track = meter.task_track(tally)
            self.ident = tally.ident
        outer, nested_before = track.meter, track.nested
        track.meter, track.nested = meter, 0
        start = self.since = clock()
        if self._left:
            tally.blocked += start - self._left
        try:
            self.waits_for = waits_for = self._next()
            item = await waits_for
        except BaseException as error:
            self.since = 0
            _failed(meter, tally, track, start, outer, nested_before, error, StopAsyncIteration)
            self._left, self._use = 0, None
            raise
        self._left = end = tally.last = clock()
        self.since = 0
        took = end - start
        nested, track.nested = track.nested, nested_before + took
        track.meter, track.last = outer, meter
        if outer is not meter.parent:
            meter.parent = outer
        if nested:
            tally.starved += nested
        tally.record(took - nested)
        if end > tally.due:
            tally.drain()
        return item

    async def asend(self, value: Any) -> Any:
        """Send a value to an async generator; what it yields next is an item like others."""
        before, self._next = self._next, functools.partial(self.iterator.asend, value)  # type: ignore[attr-defined]
        try:
            return await self.__anext__()
        finally:
            self._next = before

    def __getattr__(self, name: str) -> Any:
        """Return what the iterator has: ``aclose`` and ``athrow`` of a generator."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.iterator, name)


def _failed(
    meter: Meter,
    tally: Tally,
    track: Track,
    start: int,
    outer: Meter | None,
    nested_before: int,
    error: BaseException,
    end: type[BaseException],
) -> None:
    """Count a call that has no item."""
    took = clock() - start
    nested, track.nested = track.nested, nested_before + took
    track.meter = outer
    tally.starved += took if meter.waits else nested
    if not meter.waits:
        tally.busy += took - nested
    if isinstance(error, Exception) and not isinstance(error, end):
        tally.errors += 1


class Monitored(Standin):
    """An iterable of which each iteration is timed; in all else it is what it stands for.

    Args:
        meter: of the stage.
        iterable: what is iterated over.
    """

    def __init__(self, meter: Meter, iterable: Any) -> None:
        super().__init__(iterable)
        self._meter = meter

    def __iter__(self) -> Pull:
        return Pull(self._meter, iter(self._iterable))


class AsyncMonitored(AsyncStandin):
    """An async iterable of which each iteration is timed; in all else it is what it stands for.

    Args:
        meter: of the stage.
        iterable: what is iterated over.
    """

    def __init__(self, meter: Meter, iterable: Any) -> None:
        super().__init__(iterable)
        self._meter = meter

    def __aiter__(self) -> AsyncPull:
        return AsyncPull(self._meter, aiter(self._iterable))
