"""A subscription that, fallen behind, goes on from the journal: it loses nothing, and holds no memory for that.

What went by it is read in a worker thread, from the files, and handed out as if it had been there: each event once, in
the order of ``seq``. What the journal has not got, since it was attached later, say, or never, is lost, and an
``EventsDropped`` behind the others says so.

Form: events come as a journal keeps them. A value that could not be stored is its ``repr``; an event of the program's
    own class is one only if the hub's registry has that class.
Waiting: while a disk refuses, the journal holds what it cannot write, and this reader waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any
from weakref import ref

import anyio
import anyio.to_thread

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.channels import Missed, Selection
from asynchub.events import Event
from asynchub.handling import BATCH
from asynchub.subscription import Subscription
from asynchub.taps import Tap

__all__ = ("CatchingSubscription",)

logger = logging.getLogger("asynchub")
AGAIN = 0.1
"""Seconds between two looks for what a journal cannot write now."""


class _Fetched:
    """What one stretch of missed events is made up of, read piece by piece.

    Args:
        tap: whence; None if there is nothing.
        missed: the stretch.
        test: which events of it are wanted.
    """

    def __init__(self, tap: Tap | None, missed: Missed, test: Callable[[str, type[Event]], bool]) -> None:
        self.missed = missed
        self.owed = missed.last.missed
        self.over = False
        self._pieces: Iterator[Iterator[Event] | None] = iter(())
        if tap is not None:
            self._pieces = tap.read_back(missed.after, missed.last.seq, test)
        self._events: Iterator[Event] = iter(())
        self._lock = threading.Lock()  # a task that is cancelled may leave its thread reading

    def fetch(self) -> bool:
        """Read the next piece; False if it is not to be had now."""
        with self._lock:
            if self.over:
                return True
            try:
                piece = next(self._pieces)
            except StopIteration:
                self.over = True
            except Exception:
                logger.exception("the journal could not be read")
                self.over = True
            else:
                if piece is None:
                    return False
                self._events = chain(self._events, piece)
            return True

    def take(self, limit: int) -> list[Event]:
        """Return the next events; nothing if more has to be fetched, or it is over."""
        with self._lock:
            events = list(islice(self._events, min(limit, self.owed)))
            self.owed -= len(events)
            return events


class CatchingSubscription(Subscription):
    """A subscription with ``overflow="catch_up"``; see ``Subscription``."""

    def __init__(self, bus: EventBus, publisher: Publisher, name: str, selection: Selection, **terms: Any) -> None:
        self._test = selection.test()
        self._fetched: _Fetched | None = None
        super().__init__(bus, publisher, name, selection, **terms)
        with bus.collecting:
            bus.patient = [*(one for one in bus.patient if one() is not None), ref(self._cursor)]

    def _something_to_do(self) -> bool:
        return self._cursor.owed > 0 or super()._something_to_do()

    def ready(self) -> bool:
        """Tell whether asking for the next event would return without waiting for a publisher."""
        return self._cursor.owed > 0 or super().ready()

    async def _fetch(self) -> bool:
        """Get what is next from the journal; False if nothing is to come from there."""
        with self._bus.collecting:
            if self._fetched is None:
                missed, self._cursor.missed = self._cursor.missed, None
                if missed is None:
                    return False
                self._fetched = _Fetched(self._bus.tap, missed, self._test)
            fetched = self._fetched
        if not await anyio.to_thread.run_sync(fetched.fetch):
            await anyio.sleep(AGAIN)
        return True

    def _take_live(self) -> list[Event]:
        self._bus.collect()
        channel = self._cursor.channel
        if self._cursor.owed or (channel is not None and channel.left_behind(self._cursor)):
            return self._take_fetched()
        return super()._take_live()

    def _take_rest(self) -> list[Event]:
        return self._take_fetched() if self._cursor.owed else super()._take_rest()

    def _take_fetched(self) -> list[Event]:
        """Take what was read; nothing if that is to be done first."""
        fetched, cursor = self._fetched, self._cursor
        if fetched is None:
            return []
        before = fetched.owed
        events = fetched.take(self._until_told() if self._waiters else BATCH)
        if not events and fetched.over:  # the journal has not got the rest
            events = [replace(fetched.missed.last, missed=before)]
            cursor.dropped += before
            fetched.owed = 0
        if events:
            cursor.owed -= before - fetched.owed
            cursor.owed_after = events[-1].seq
            if not fetched.owed:
                self._fetched = None
        return events

    def finish(self) -> None:
        """Close it and forget what it holds; see ``Subscription.finish``."""
        with self._bus.collecting:
            super().finish()
            self._fetched = None
