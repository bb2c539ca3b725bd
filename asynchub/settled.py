"""What a control subscriber reads: a subscription that is given its events at settle points.

A settle point gives a subscriber its turn: it offers it what was published so far, and resumes it, until the subscriber
has handled all of that and asks for more. What it publishes itself meanwhile is for its next turn.

Threads: one thread settles at a time; see ``asynchub.subscription`` for the rest.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Generator
from time import perf_counter as _clock
from typing import Any, Self

from asynchub.channels import Channel
from asynchub.errors import LagExceededError
from asynchub.events import Event
from asynchub.subscription import BATCH, Subscription

__all__ = ("PARKED", "SettledSubscription")

PARKED = object()
"""What a control subscriber's coroutine yields when it asks for an event that is not there yet."""


@types.coroutine
def _park() -> Generator[object, None, None]:
    yield PARKED


class _Turns:
    def __init__(self, subscription: SettledSubscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        turn = await self._subscription._next_turn()
        if turn is None:
            raise StopAsyncIteration
        return turn


class SettledSubscription(Subscription):
    """A subscription whose reader waits, parked, for its turn; arguments as of ``Subscription``.

    Attributes:
        more: whether the turn may hold more than what was offered last.
    """

    role = "control"

    def __init__(self, *args: Any, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self.more = False
        self._limit = 0  # position up to which the turn goes
        self._offered: list[Event] = []
        self._each = False  # whether its reader has every turn, one without events too,
        self._turned = False  # and whether it has begun to
        self._plain = self._keep is None and self._cursor.overflow != "latest"

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
            if self._offered:  # an interrupt ended its last turn before it began
                self._limit = channel.end
                self.more = True
                return True
            if channel.stretches:
                start, newest = channel.stretches[-1]
                if (
                    start == cursor.position
                    and self._plain
                    and self._past is None
                    and self._error is None
                    and cursor.missed is None
                    and self._index == len(self._batch)
                    and newest.size <= cursor.max_lag
                ):  # as nearly always: there is the newest stretch, and nothing else
                    self._resting = False
                    self._offered = newest.events()[:]
                    self._limit = cursor.position = start + newest.size
                    self._delivered += newest.size
                    self.last_seq = newest.last_seq
                    self.more = False
                    return True
            self._limit = channel.end
            return (self.ready() and self.offer()) or self._each

    def offer(self) -> bool:
        """Offer what is next in this turn; tell whether there is anything for the reader to do."""
        if self._offered or self._index < len(self._batch):
            return True
        try:
            self._offered = self._take()
        except Exception as error:  # it is the reader that is to see it
            self._error = error
        self.more = bool(self._offered) or self._error is not None
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

    async def _next_batch(self) -> list[Event] | None:
        self._begin_reading()
        try:
            while not self._offered:
                if self._error is not None or self._rest is not None:
                    self._offered = self._take()
                    if self._offered:
                        break
                    return None
                self._resting = True
                self._cursor.handled = self._cursor.position
                if self._waiters:
                    with self._bus.collecting:
                        self._rested()
                await _park()
        finally:
            self._reading = False
        batch, self._offered = self._offered, []
        self._resting = False
        self._handed_at = _clock()
        return batch

    def turns(self) -> AsyncIterator[list[Event]]:
        """Return an async iterator over turns: all events of each, at times none. Each settle point has one or more.

        For who has something to do at settle points whether or not there was an event.
        """
        self._each = True
        return _Turns(self)

    async def _next_turn(self) -> list[Event] | None:
        """Return the events of the next turn, or None at the end."""
        self._begin_reading()
        try:
            if self._turned and self._rest is None:
                self._resting = True  # all of it as in `_next_batch`, which runs too often to call a method for it
                self._cursor.handled = self._cursor.position
                if self._waiters:
                    with self._bus.collecting:
                        self._rested()
                await _park()
            self._turned = True  # the first one has begun already
            events = self._whole_turn()
        finally:
            self._reading = False
        if not events and self._rest is not None:
            return None
        self._resting = not events
        self._handed_at = _clock()
        return events

    def _whole_turn(self) -> list[Event]:
        events: list[Event] = []
        while True:
            if not self._offered and (self._rest is not None or self._error is not None or self.more):
                self.more = False
                self._offered = self._take()
                self.more = bool(self._offered)
            if not self._offered:
                return events
            events += self._offered
            self._offered = []

    def when_handled(self, position: int, call: Callable[[], None]) -> None:
        """Call ``call`` once, between two batches; see ``Subscription.when_handled``."""
        with self._bus.collecting:
            resting = self._resting
            super().when_handled(position, call)
            if not resting and self._resting:  # it was parked meanwhile, which takes no lock
                self._rested()
