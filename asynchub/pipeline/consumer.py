"""Who takes the batches: how long it waits for each, and how long it is busy with it.

Waiting is the time in which it asks for the next batch. Busy is the time from a batch to the next asking, in the same
iteration. What a program does between two epochs, after it has left the loop, and inside of ``pause()``, is neither.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from asynchub.loops import LoopHandle
from asynchub.pipeline.clock import clock
from asynchub.pipeline.histogram import Counts, empty
from asynchub.pipeline.standins import AsyncStandin, Standin
from asynchub.pipeline.tally import Meter, Tally
from asynchub.pipeline.tracks import Track

__all__ = ("AsyncConsumed", "Consumed", "Consumer", "ConsumerCounters")


@dataclass(slots=True)
class ConsumerCounters:
    """What the consumer has done so far. Times are in nanoseconds.

    Attributes:
        items: batches that it got.
        wait: time that it waited for them, what is under way included.
        busy: time that it was busy with them.
        waits: how long it waited for each, of shape ``(960,)``.
        total_wait: sum of those.
        slowest: longest wait since the last reading.
        first: when it asked for the first; 0 if it has not yet.
        first_item: when it got the first; 0 if it has none.
        last: when it got the last; 0 if it has none.
        waiting: since when it waits; 0 if it does not.
    """

    items: int = 0
    wait: int = 0
    busy: int = 0
    waits: Counts = field(default_factory=empty)
    total_wait: int = 0
    slowest: int = 0
    first: int = 0
    first_item: int = 0
    last: int = 0
    waiting: int = 0


class Consumer:
    """What the consumer has done, however often it iterates. Any number of threads may, at the same time.

    Args:
        name: of the consumer, for people.
        see_loop: called, in its thread, with each event loop that it runs on.
    """

    def __init__(self, name: str, see_loop: Callable[[LoopHandle], object]) -> None:
        self.name = name
        self.meter = Meter(name, see_loop=see_loop)
        self.meter.waits = True
        self.first = self.first_item = 0
        self.paused = 0
        """Nanoseconds that it was paused so far."""
        self._paused_since = 0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count as the consumer's work: an evaluation, a checkpoint."""
        start = clock()
        outermost, self._paused_since = not self._paused_since, self._paused_since or start
        try:
            yield
        finally:
            if outermost:
                self.paused += clock() - self._paused_since
                self._paused_since = 0

    @property
    def waiting(self) -> bool:
        """Whether it waits for an item now."""
        return bool(self.meter.under_way())

    def asks(self, tally: Tally, left: int, paused: int) -> int:
        """Count that it asks for an item; return when.

        Args:
            tally: of its thread.
            left: when it got the one before; 0 for the first.
            paused: for how long it had been paused then.
        """
        start = clock()
        if left:
            tally.busy += max(start - left - (self.paused - paused), 0)
        elif not self.first:
            self.first = start
        return start

    def got(self, tally: Tally, track: Track, start: int, before: tuple[Meter | None, int]) -> int:
        """Count that it got an item; return when.

        Args:
            tally: of its thread.
            track: of its task or thread.
            start: when it asked.
            before: what the track had then.
        """
        end = tally.last = clock()
        took = end - start
        track.meter, track.nested = before[0], before[1] + took
        track.last = self.meter
        if not self.first_item:
            self.first_item = end
        tally.record(took)
        if end > tally.due:
            tally.drain()
        return end

    def ended(
        self, tally: Tally, track: Track, start: int, before: tuple[Meter | None, int], error: BaseException
    ) -> None:
        """Count that there was none; see ``got``."""
        took = clock() - start
        track.meter, track.nested = before[0], before[1] + took
        tally.starved += took
        if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
            tally.errors += 1

    def counters(self, now: int) -> ConsumerCounters:
        """Return what it has done so far."""
        counted = self.meter.counters(now)
        return ConsumerCounters(
            items=counted.items,
            wait=(counted.starved or 0) + counted.under_way,
            busy=counted.busy,
            waits=counted.latencies,
            total_wait=counted.total,
            slowest=counted.slowest,
            first=self.first,
            first_item=self.first_item,
            last=counted.last,
            waiting=counted.oldest,
        )


class Consumed(Standin):
    """An iterable whose taker is measured; in all else it is what it stands for."""

    def __init__(self, consumer: Consumer, iterable: Any) -> None:
        super().__init__(iterable)
        self._consumer = consumer

    def __iter__(self) -> _Consuming:
        return _Consuming(self._consumer, self._iterable)


class _Consuming(Iterator[Any]):
    """One iteration. What is iterated over is asked for its iterator when the first item is wanted."""

    __slots__ = (
        "__weakref__",
        "_consumer",
        "_iterable",
        "_iterator",
        "_left",
        "_paused",
        "ident",
        "since",
        "waits_for",
    )

    def __init__(self, consumer: Consumer, iterable: Any) -> None:
        self._consumer = consumer
        self._iterable = iterable
        self._iterator: Iterator[Any] | None = None
        self._left = self._paused = 0
        self.since = self.ident = 0
        self.waits_for = None
        consumer.meter.pulled_by(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        consumer = self._consumer
        tally = consumer.meter.tally()
        track: Track = tally.track if tally.track.current_task is None else tally.track.of_task()
        before = (track.meter, track.nested)
        track.meter, track.nested = consumer.meter, 0
        self.ident = tally.ident
        start = self.since = consumer.asks(tally, self._left, self._paused)
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)  # of a DataLoader: starts its workers
            item = next(self._iterator)
        except BaseException as error:
            self.since = 0
            consumer.ended(tally, track, start, before, error)
            self._left = 0
            raise
        self._left = consumer.got(tally, track, start, before)
        self.since = 0
        self._paused = consumer.paused
        return item

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._iterator is None:
            raise AttributeError(name)
        return getattr(self._iterator, name)


class AsyncConsumed(AsyncStandin):
    """An async iterable whose taker is measured; in all else it is what it stands for."""

    def __init__(self, consumer: Consumer, iterable: Any) -> None:
        super().__init__(iterable)
        self._consumer = consumer

    def __aiter__(self) -> _AsyncConsuming:
        return _AsyncConsuming(self._consumer, aiter(self._iterable))


class _AsyncConsuming(AsyncIterator[Any]):
    """One iteration."""

    __slots__ = ("__weakref__", "_consumer", "_iterator", "_left", "_paused", "ident", "since", "waits_for")

    def __init__(self, consumer: Consumer, iterator: AsyncIterator[Any]) -> None:
        self._consumer = consumer
        self._iterator = iterator
        self._left = self._paused = 0
        self.since = self.ident = 0
        self.waits_for = iterator
        consumer.meter.pulled_by(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        consumer = self._consumer
        tally = consumer.meter.tally()
        track = consumer.meter.task_track(tally)
        before = (track.meter, track.nested)
        track.meter, track.nested = consumer.meter, 0
        self.ident = tally.ident
        start = self.since = consumer.asks(tally, self._left, self._paused)
        try:
            item = await anext(self._iterator)
        except BaseException as error:
            self.since = 0
            consumer.ended(tally, track, start, before, error)
            self._left = 0
            raise
        self._left = consumer.got(tally, track, start, before)
        self.since = 0
        self._paused = consumer.paused
        return item

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._iterator, name)
