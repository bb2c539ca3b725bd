"""The events of one selection, and cursors over them.

A channel holds what was collected for one selection of events; any number of cursors share it, each at a position of
its own and with a lag policy of its own.

Threads: none of this locks; ``EventBus`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, cast

from asynchub.errors import LagExceededError
from asynchub.events import Event, EventsDropped
from asynchub.patterns import matcher

__all__ = ("Channel", "Cursor", "Overflow", "Selection")

Overflow = Literal["drop_oldest", "latest", "block", "raise"]
"""What a reader that falls behind its ``max_lag`` loses.

``"drop_oldest"``: the oldest events, with an ``EventsDropped`` in their place. ``"latest"``: all but the newest of each
key, always. ``"block"``: nothing; the publisher waits. ``"raise"``: the subscription, with a ``LagExceededError``.
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a reader wants: those whose key matches a pattern, and those of a kind.

    Attributes:
        patterns: key patterns; see ``asynchub.patterns``.
        kinds: event classes; their subclasses are wanted too.
    """

    patterns: frozenset[str]
    kinds: frozenset[type[Event]]

    @classmethod
    def of(cls, wanted: Iterable[str | type[Event]]) -> Selection:
        """Return the selection of patterns and event classes, mixed."""
        wanted = tuple(wanted)
        kinds = frozenset(one for one in wanted if isinstance(one, type) and issubclass(one, Event))
        return cls(frozenset(cast("str", one) for one in wanted if one not in kinds), kinds)

    def test(self) -> Callable[[str, type[Event]], bool]:
        """Return a function that tells whether events of a key and kind are selected.

        Raises:
            PatternError: a pattern is malformed.
        """
        matches = matcher(self.patterns)
        kinds = tuple(self.kinds)
        if not kinds:
            return lambda key, kind: matches(key)
        return lambda key, kind: matches(key) or issubclass(kind, kinds)


class Cursor:
    """A position in a channel, with what happens when it falls behind.

    Attributes:
        name: of the reader, for messages.
        max_lag: how many events it may be behind.
        overflow: what happens beyond: ``"drop_oldest"``, ``"latest"``, ``"block"`` or ``"raise"``.
        position: index, in its channel, of the next event it takes.
        handled: index up to which its events have been handled.
        dropped: events lost so far.
        thread: identifier of the thread of the loop it is read on, once that is known.
        failure: why it ended with events unread, until its reader was told.
    """

    __slots__ = (
        "channel",
        "dropped",
        "failure",
        "handled",
        "max_lag",
        "missed",
        "name",
        "newest",
        "overflow",
        "position",
        "thread",
    )

    def __init__(self, name: str, max_lag: int, overflow: Overflow) -> None:
        self.name = name
        self.max_lag = max_lag
        self.overflow = overflow
        self.position = 0
        self.handled = 0
        self.dropped = 0
        self.missed: EventsDropped | None = None
        self.newest: dict[tuple[type[Event], str], Event] = {}
        self.thread: int | None = None
        self.failure: LagExceededError | None = None
        self.channel: Channel | None = None  # None once it was taken off

    @property
    def lag(self) -> int:
        """How many collected events it has not taken."""
        channel = self.channel
        return 0 if channel is None else channel.end - self.position + len(self.newest)

    def ready(self) -> bool:
        """Tell whether ``take`` would return something."""
        channel = self.channel
        return channel is not None and (self.position < channel.base + len(channel.events) or bool(self.newest))


class Channel:
    """The events of one selection, collected and not yet taken by all of its cursors."""

    __slots__ = ("base", "cursors", "events", "test")

    def __init__(self, test: Callable[[str, type[Event]], bool]) -> None:
        self.test = test
        self.events: list[Event] = []
        self.base = 0
        self.cursors: list[Cursor] = []

    @property
    def end(self) -> int:
        return self.base + len(self.events)

    def skip(self, cursor: Cursor, position: int) -> None:
        """Move ``cursor`` forward past events that it will not get, as its ``overflow`` says."""
        lost = self.events[cursor.position - self.base : position - self.base]
        if cursor.overflow == "latest":
            before = len(cursor.newest)
            for event in lost:
                cursor.newest.pop((type(event), event.key), None)  # the newest also comes last
                cursor.newest[type(event), event.key] = event
            cursor.dropped += len(lost) - (len(cursor.newest) - before)
        else:
            earlier = cursor.missed.missed if cursor.missed else 0
            last = lost[-1]
            cursor.missed = EventsDropped(seq=last.seq, time=last.time, step=last.step, missed=earlier + len(lost))
            cursor.dropped += len(lost)
        cursor.position = position

    def append_new(self, events: Iterable[Event]) -> None:
        """Append those of ``events`` that are not here yet."""
        last = self.events[-1].seq if self.events else -1
        self.events.extend(event for event in events if event.seq > last)

    def trim(self) -> None:
        """Let go of what every cursor has taken, and of what is beyond their ``max_lag``."""
        end = self.end
        low = end
        for cursor in self.cursors:
            oldest = end - cursor.max_lag
            if cursor.position < oldest and cursor.overflow not in ("block", "raise"):
                self.skip(cursor, oldest)
            elif cursor.overflow == "raise" and cursor.position < oldest - cursor.max_lag:
                continue  # it will raise when it next takes; hold no more for it
            low = min(low, cursor.position)
        if low - self.base >= max(len(self.events) // 2, 1):  # deleting costs what remains: amortise it
            del self.events[: low - self.base]
            self.base = low

    def take(self, cursor: Cursor, limit: int) -> list[Event]:
        """Return the next events of ``cursor``, at most ``limit``, an ``EventsDropped`` in the place of lost ones.

        Raises:
            LagExceededError: it fell behind and its ``overflow`` is ``"raise"``; it goes on from the newest.
        """
        end = self.base + len(self.events)
        lag = end - cursor.position
        if not lag and cursor.missed is None and not cursor.newest:
            return []
        if lag > cursor.max_lag and cursor.overflow == "raise":
            cursor.position = end
            raise LagExceededError(cursor.name, lag, cursor.max_lag)
        if lag > cursor.max_lag and cursor.overflow == "drop_oldest":
            self.skip(cursor, end - cursor.max_lag)
        if cursor.overflow == "latest":
            self.skip(cursor, end)
            newest, cursor.newest = list(cursor.newest.values()), {}
            return newest
        start = cursor.position - self.base
        batch = self.events[start : start + limit]
        cursor.position += len(batch)
        if cursor.missed is not None:
            batch.insert(0, cursor.missed)
            cursor.missed = None
        return batch
