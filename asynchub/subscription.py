"""What a subscriber reads, and all that it knows of the hub.

Order: a subscription yields events in the order of ``Event.seq``; first those that ``replay`` asked for, then the live
    ones, without a gap or a repeat.
Lag: it may be ``max_lag`` events behind; beyond that it loses what its ``overflow`` says.
Handled: an event counts as handled when the next one is asked for; a batch, when the next batch is.
Batches: immutable; their events are made when somebody looks at one, from any thread, once for all readers.
Closing: a closed subscription yields what it still holds, then ends.
Cancellation: a wait that is cancelled loses nothing.
Threads: one task reads at a time; ``close``, ``publish``, ``request`` and ``statistics`` may be called from any thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Self

from anyio.lowlevel import checkpoint

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.channels import Cursor, Overflow, Selection, SubscriptionStatistics
from asynchub.errors import LagExceededError, SubscriptionError
from asynchub.events import Event, EventsDropped
from asynchub.handling import BATCH, Handling
from asynchub.stretches import Stretch, sifted

__all__ = ("Subscription",)

SPELL = 0.0005
"""Seconds that a reader may read on before it lets the loop's other tasks run: each time costs as much as a batch."""


_clock = time.perf_counter


class _Batches:
    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        subscription = self._subscription
        if subscription._index < len(subscription._batch):
            return Stretch.of_events(subscription._rest_of_batch())
        batch = await subscription._next_batch()
        if batch is None:
            raise StopAsyncIteration
        return Stretch.of_events(batch) if isinstance(batch, list) else batch


class Subscription(Handling):
    """A cursor over the log of a hub: an async iterator of events.

    Made by ``MessageHub.subscribe`` and ``MessageHub.attach``. As a context manager it closes itself.

    Attributes:
        name: its name; among what is attached, unique in the hub.
        role: of what reads it; see ``SubscriptionStatistics``.
        failing: whether it was closed because an exception leaves the hub.
    """

    role = "observer"

    def __init__(
        self,
        bus: EventBus,
        publisher: Publisher,
        name: str,
        selection: Selection,
        *,
        max_lag: int,
        overflow: Overflow,
        past: Callable[[], Iterator[Event]] | None = None,
        past_seq: int | None = None,
        keep: Callable[[Event], bool] | None = None,
        again: Callable[[int, int], Iterator[Event]] | None = None,
    ) -> None:
        super().__init__(bus, publisher, name, Cursor(name, max_lag, overflow))
        self.errors = 0
        self.failing = False
        self._keep = keep
        self._again = again
        self._batch: list[Event] = []
        self._index = 0
        self._reading = False
        self._delivered = 0
        self._busy_seconds = 0.0
        self._handed_at: float | None = None
        self._others_ran = math.inf  # when it was handed the first batch since the loop's other tasks ran
        self._plain = keep is None and overflow != "latest"  # whether it gets every event of its selection
        self.last_seq = self.opened_seq = bus.out
        """``seq`` of the newest event handed out, or before which none was to be; and of the newest at its opening."""

        def begin() -> None:
            self.opened_seq, self.last_seq = bus.out, bus.out if past_seq is None else past_seq
            self._past = None if past is None else past()

        bus.add(self._cursor, selection, begin)

    # --- reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        index = self._index
        if index == len(self._batch):
            batch = await self._next_batch()
            if batch is None:
                raise StopAsyncIteration
            self._batch = batch if isinstance(batch, list) else batch.events()
            index = 0
        self._index = index + 1
        return self._batch[index]

    def batches(self) -> AsyncIterator[Sequence[Event]]:
        """Return an async iterator of batches of events: all that has come, 1 to 256 at a time."""
        return _Batches(self)

    async def _next_batch(self) -> list[Event] | Stretch | None:
        """Return the next events, or None at the end; call when the last batch is used up."""
        self._begin_reading()
        try:
            if _clock() - self._others_ran > SPELL:
                await checkpoint()
                self._others_ran = math.inf
            if not self._cursor.thread:
                self._cursor.thread = threading.get_ident()
            batch: list[Event] | Stretch | None = self._take_whole()
            if batch is None:
                batch = await self._awaited_batch()
            if batch is not None:
                self._handed_at = now = _clock()
                if now < self._others_ran:
                    self._others_ran = now
            return batch
        finally:
            self._reading = False

    async def _awaited_batch(self) -> list[Event] | Stretch | None:
        """Do so when no whole stretch is next."""
        station = None
        try:
            batch: list[Event] | Stretch = self._take()
            while not batch:
                if not await self._fetch():
                    if self._rest is not None:
                        return None
                    if self._others_ran < math.inf and self._bus.woken_by == self._cursor.thread:
                        await checkpoint()  # who publishes on this very loop may be about to go on
                        self._others_ran = math.inf
                    else:
                        self._others_ran = math.inf
                        if station is None:
                            station = self._bus.station()
                            self._cursor.thread = station.thread
                        await station.wait(self._something_to_do)
                batch = self._take_whole() or self._take()
        finally:
            if station is not None:
                station.leave()
        if station is not None:
            station.found()
        return batch

    async def _fetch(self) -> bool:
        """Get what is to be taken next from elsewhere than the log; False if nothing is."""
        return False

    def _rest_of_batch(self) -> list[Event]:
        """Return what is left of a batch of which single events were read before."""
        rest, self._batch, self._index = self._batch[self._index :], [], 0
        self.last_seq = rest[-1].seq if rest else self.last_seq
        return rest

    def _begin_reading(self) -> None:
        if self._reading:
            raise SubscriptionError(f"subscription {self.name!r} is being read by another task; subscribe once more")
        self._reading = True
        if self._handed_at is not None:
            self._busy_seconds += _clock() - self._handed_at
            self._handed_at = None
        self._batch, self._index = [], 0

    def _something_to_do(self) -> bool:
        return self._cursor.ready() or self._rest is not None or self._past is not None

    def ready(self) -> bool:
        """Tell whether asking for the next event would return at once; collects nothing."""
        return self._something_to_do() or self._index < len(self._batch) or bool(self._left) or self._error is not None

    def _take_whole(self) -> Stretch | None:
        """Do what ``_take`` does if, as nearly always, whole stretches are next and all that there is to do."""
        bus, cursor = self._bus, self._cursor
        with bus.collecting:
            if not self._plain or self._waiters or self._past is not None or self._left or self._error is not None:
                return None
            self._resting = True  # as by `_rested`
            cursor.handled = cursor.position - cursor.owed
            found = bus.take_whole(cursor, BATCH)
            if found is not None:
                self._resting = False
                self._delivered += found.size
                self.last_seq = found.last_seq
            return found

    def _take(self) -> list[Event]:
        """Take what there is, let go of what was handed out before, and tell those who wait for that."""
        with self._bus.collecting:
            self._rested()
            while True:
                events = self._take_held()
                if not events:
                    return events
                self.last_seq = events[-1].seq
                if self._keep is not None:
                    events = self._kept(events, self._keep)
                if events:
                    self._resting = False
                    self._delivered += len(events) - (type(events[0]) is EventsDropped)
                    return events
                self._rested()

    def _kept(self, events: list[Event], keep: Callable[[Event], bool]) -> list[Event]:
        """Return those that it is to get; when asking raises, that event counts as handled and the rest as not read."""
        kept, left, error = sifted(events, keep)
        if error is not None:
            self._left = left
            self.last_seq = events[-1 - len(left)].seq
            if not kept:
                raise error
            self._error = error
        return kept

    def _take_live(self) -> list[Event]:
        """Take what was published."""
        self._bus.collect()
        cursor = self._cursor
        if cursor.channel is None:
            return []
        limit = BATCH
        if self._waiters:
            cursor.channel.trim()
            limit = self._until_told()
        try:
            events = cursor.channel.take(cursor, limit)
        except LagExceededError:
            self.close()
            raise
        if events and cursor.overflow == "block":
            self._bus.made_room()
        return events

    def _take_held(self) -> list[Event]:
        """Take what is next: beside the log, of the past, after an error or when it was closed; else of the log."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._left:
            events, self._left = self._left, []
            return events
        if self._past is not None:
            events = list(islice(self._past, BATCH))
            if events:
                return events
            self._past = None
        return self._take_live() if self._rest is None else self._take_rest()

    def _take_rest(self) -> list[Event]:
        """Take what it was still to get when it was closed."""
        rest = self._rest or []
        limit = self._until_told() if self._waiters else BATCH
        events = rest[:limit]
        del rest[:limit]
        if not events and (failure := self._cursor.failure) is not None:
            self._cursor.failure = None
            raise failure
        return events

    def again(self, after: int, upto: int) -> Iterator[Event]:
        """Return an iterator over what it was handed with a ``seq`` above ``after`` and at most ``upto``, once more.

        It comes from the journal; without one from the histories, which know the newest value of an info only. Reads
        files, and waits for them: not for a loop's thread.

        Raises:
            SubscriptionError: it was opened with ``every``, which does not let the same events through twice.
            JournalError: they are not to be had at this moment.
        """
        if self._again is None:
            raise SubscriptionError(f"{self.name!r} cannot read again: no past was kept for it, or it has an every=")
        return self._again(after, upto)

    def unread(self, events: list[Event]) -> None:
        """Hand out ``events``, the rest of the last batch, once more."""
        self._batch, self._index = events, 0
        self._delivered -= len(events)

    def read_here(self) -> None:
        """Say that the calling thread's loop is the one that will read it, before it does."""
        self._cursor.thread = threading.get_ident()

    # --- living

    @property
    def closed(self) -> bool:
        """Whether it was closed; it may still hold events to yield."""
        return self._rest is not None

    def close(self) -> None:
        """End it: it yields what it still holds, then stops. Closing twice is fine."""
        with self._bus.collecting:
            if self._rest is None:
                self._rest = self._bus.remove(self._cursor)
                if self._resting:
                    self._rested()
        self._bus.hurry()

    def finish(self) -> None:
        """Close it and forget what it holds: nobody will read it."""
        self.close()
        with self._bus.collecting:
            if self._index < len(self._batch):  # broken off amid a batch: what it was not handed is still to come
                self.last_seq = self._batch[self._index - 1].seq if self._index else self._batch[0].seq - 1
            self._past = None
            self._rest, self._left, self._error = [], [], None
            self._cursor.owed, self._cursor.missed = 0, None
            self._batch, self._index = [], 0
            self._rested()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def statistics(self) -> SubscriptionStatistics:
        """Return how it is doing now."""
        with self._bus.collecting:
            self._bus.collect()
            return SubscriptionStatistics(
                name=self.name,
                lag=len(self._left) + len(self._rest or ()) + self._cursor.lag,
                delivered=self._delivered,
                dropped=self._cursor.dropped,
                errors=self.errors,
                busy_seconds=self._busy_seconds,
                max_lag=self._cursor.max_lag,
                overflow=self._cursor.overflow,
                closed=self._rest is not None,
                role=self.role,
            )
