"""What a control subscriber reads: a subscription that is given its events at settle points.

A settle point gives a subscriber its turn: it offers it what was published so far, and resumes it, until the subscriber
has handled all of that and asks for more. What it publishes itself meanwhile is for its next turn.

Threads: one thread settles at a time; see ``asynchub.subscription`` for the rest.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Self

from asynchub.channels import Channel, SubscriptionStatistics
from asynchub.errors import LagExceededError
from asynchub.events import Event
from asynchub.handling import BATCH
from asynchub.stretches import Stretch
from asynchub.subscription import Subscription

__all__ = ("PARKED", "SettledSubscription")

PARKED = object()
"""What a control subscriber's coroutine yields when it asks for an event that is not there yet."""


_NONE: list[Event] = []
"""No events; never changed."""


class _Batches:
    def __init__(self, subscription: SettledSubscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Sequence[Event]]:
        return self._subscription.__anext__(whole=True)


class _Turns:
    def __init__(self, subscription: SettledSubscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[list[Event]]:
        return self._subscription.next_turn()


class SettledSubscription(Subscription):
    """A subscription whose reader waits, parked, for its turn; arguments as of ``Subscription``.

    Attributes:
        more: whether the turn may hold more than what was offered last.
        busy_seconds: what its turns took; whoever gives them counts.
    """

    role = "control"
    _heeds = False  # whether a subclass is to hear of each ask

    def __init__(self, *args: Any, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self.more = False
        self._whole = False  # whether its reader takes batches
        self._limit = 0  # position up to which the turn goes
        self._offered: Sequence[Event] = _NONE
        self._each = False  # whether its reader has every turn, one without events too,
        self._turned = False  # and whether it has begun to
        self.busy_seconds = 0.0

    def __init_subclass__(cls) -> None:
        cls._heeds = cls._begin_reading is not Subscription._begin_reading

    @property
    def channel(self) -> Channel | None:
        """Where its events come from; None once it is closed."""
        return self._cursor.channel

    def begin_turn(self) -> bool:
        """Offer what was collected so far; tell whether there is anything for the reader to do."""
        cursor = self._cursor
        channel = cursor.channel
        if channel is None:  # closed: there is the rest, or the end
            return True
        with self._bus.collecting:
            if self._offered is not _NONE:  # an interrupt ended its last turn before it began
                self._limit = channel.end
                self.more = True
                return True
            if (
                self._reading  # parked, with all handled
                and self._plain
                and self._past is None
                and self._error is None
                and cursor.missed is None
                and not self.more
            ):  # as nearly always: there is the newest stretch, or nothing
                stretches = channel.stretches
                position = cursor.position
                if stretches:
                    start, newest = stretches[-1]
                    size = newest.size
                    if position == start and size <= cursor.max_lag:
                        events = newest if self._whole else newest.events()
                        self._resting = False
                        self._offered, cursor.position = events, start + size
                        self.last_seq, self._delivered = newest.last_seq, self._delivered + size
                        return True
                    if position == start + size:
                        return self._each
                elif position == channel.base:
                    return self._each
            self._limit = channel.end
            return (self.ready() and self.offer()) or self._each

    def offer(self) -> bool:
        """Offer what is next in this turn; tell whether there is anything for the reader to do."""
        if self._offered is not _NONE or self._index < len(self._batch):
            return True
        try:
            self._offered = self._take() or _NONE
        except Exception as error:  # it is the reader that is to see it
            self._error = error
        self.more = self._offered is not _NONE or self._error is not None
        return self.more or self._rest is not None

    def _take_live(self) -> list[Event]:
        cursor = self._cursor
        limit = min(BATCH, self._limit - cursor.position)
        if cursor.channel is None or (limit <= 0 and not cursor.newest):
            return []
        try:
            return cursor.channel.take(cursor, limit)
        except LagExceededError:
            self.close()
            raise

    @types.coroutine
    def __anext__(self, whole: bool = False) -> Generator[object, None, Any]:
        """Return the next event; with ``whole``, all that are there. Parks in this one frame: each costs every turn."""
        index, batch = self._index, self._batch
        if index == len(batch):
            if self._reading or self._heeds:
                self._begin_reading()
            self._reading = True
            self._batch, self._index, index = _NONE, 0, 0
            try:
                while (offered := self._offered) is _NONE:
                    if self._rest is not None or self._error is not None:
                        offered = self._take()
                        if not offered:
                            raise StopAsyncIteration
                        break
                    self._resting = True
                    cursor = self._cursor
                    cursor.handled = cursor.position
                    if self._waiters:
                        self._tell_waiters()
                    yield PARKED
            finally:
                self._reading = False
            self._offered = _NONE
            self._resting = False
            if whole:
                return Stretch.of_events(offered) if isinstance(offered, list) else offered
            self._batch = batch = offered if isinstance(offered, list) else list(offered)
        elif whole:
            return Stretch.of_events(self._rest_of_batch())
        self._index = index + 1
        return batch[index]

    def _tell_waiters(self) -> None:
        with self._bus.collecting:
            self._rested()

    def batches(self) -> AsyncIterator[Sequence[Event]]:
        """Return an async iterator of batches; see ``Subscription.batches``."""
        self._whole = True
        return _Batches(self)

    def turns(self) -> AsyncIterator[list[Event]]:
        """Return an async iterator over turns: all events of each, at times none. Each settle point has one or more.

        For who has something to do at settle points whether or not there was an event.
        """
        self._each = True
        return _Turns(self)

    @types.coroutine
    def next_turn(self) -> Generator[object, None, list[Event]]:
        """Return the events of the next turn; at the end raise ``StopAsyncIteration``."""
        self._begin_reading()
        try:
            if self._turned and self._rest is None:
                self._resting = True
                self._cursor.handled = self._cursor.position
                if self._waiters:
                    self._tell_waiters()
                yield PARKED
            self._turned = True  # the first one has begun already
            events = self._whole_turn()
        finally:
            self._reading = False
        if not events and self._rest is not None:
            raise StopAsyncIteration
        self._resting = not events
        return events

    def _whole_turn(self) -> list[Event]:
        events: list[Event] = []
        while True:
            if self._offered is _NONE and (self._rest is not None or self._error is not None or self.more):
                self.more = False
                self._offered = self._take() or _NONE
                self.more = self._offered is not _NONE
            if self._offered is _NONE:
                return events
            events += self._offered
            self._offered = _NONE

    def statistics(self) -> SubscriptionStatistics:
        """Return how it is doing now."""
        return replace(super().statistics(), busy_seconds=self.busy_seconds)

    def when_handled(self, position: int, call: Callable[[], None]) -> None:
        """Call ``call`` once, between two batches; see ``Subscription.when_handled``."""
        with self._bus.collecting:
            resting = self._resting
            super().when_handled(position, call)
            if not resting and self._resting:  # it was parked meanwhile, which takes no lock
                self._rested()
