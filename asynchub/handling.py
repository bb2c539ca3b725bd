"""What of its events a subscription's reader has handled, and who is told when it has handled all.

Threads: all but the reader's own steps may be called from any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from asynchub.answering import Answering, Publisher
from asynchub.bus import EventBus
from asynchub.channels import Cursor
from asynchub.events import Event

__all__ = ("BATCH", "Handling")

BATCH = 256
"""Events in a batch at most."""


class Handling(Answering):
    """A cursor, what its reader was to be handed beside the log, and who waits until it has handled all.

    Args:
        bus: the log.
        publisher: where the reader's own events go.
        name: its name.
        cursor: its place in the log.
    """

    def __init__(self, bus: EventBus, publisher: Publisher, name: str, cursor: Cursor) -> None:
        super().__init__(name, publisher)
        self._bus = bus
        self._cursor = cursor
        self._past: Iterator[Event] | None = None
        self._rest: list[Event] | None = None  # what a closed subscription still has to yield
        self._left: list[Event] = []  # what came after an event for which the predicate raised
        self._error: Exception | None = None  # what it raised, if other events are to be handed out before
        self._resting = True
        self._waiters: list[tuple[int, Callable[[], None]]] = []

    def _rested(self) -> None:
        if self._left or self._error is not None:
            return
        self._resting = True
        self._cursor.handled = self._cursor.position - self._cursor.owed - len(self._rest or ())
        waiters, self._waiters = self._waiters, []
        for position, call in waiters:
            self.when_handled(position, call)

    def _until_told(self) -> int:
        """Tell those whose moment has come; return how many events may be handed out before that of another."""
        self._rested()
        handled = self._cursor.handled
        return min([BATCH, *(position - handled for position, _ in self._waiters if position > handled)])

    def end_position(self) -> int:
        """Return the position that this subscription reaches when it has handled all that was published so far."""
        with self._bus.collecting:
            self._bus.collect()
            return self._cursor.channel.end if self._cursor.channel is not None else self._cursor.position

    def mark(self) -> int:
        """Return ``end_position``; what was published before it and after it is not handed out as one."""
        with self._bus.collecting:
            position, cursor = self.end_position(), self._cursor
            if cursor.overflow == "latest" and cursor.channel is not None and cursor.ready():
                self._past = chain(self._past or (), cursor.channel.take(cursor, BATCH))
            return position

    def when_handled(self, position: int, call: Callable[[], None]) -> None:
        """Call ``call`` once, between two batches, when all before ``position`` was handled or reading has ended.

        No batch goes beyond ``position``, so nothing newer was handled then, unless that was so already. It runs in the
        reader's thread, or at once in this one if its moment has come.
        """
        with self._bus.collecting:
            drained = self._rest is not None and not (self._rest or self._past is not None or self._cursor.owed)
            caught_up = self._past is None and self._cursor.handled >= position
            if self._resting and (position <= 0 or drained or caught_up):
                call()
            else:
                self._waiters.append((position, call))

    @property
    def awaited(self) -> bool:
        """Whether somebody waits until all is handled: ``flush`` or ``save``."""
        return bool(self._waiters)
