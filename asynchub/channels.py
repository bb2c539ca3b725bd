"""The events of one selection, and cursors over them.

A channel holds what was collected for one selection of events; any number of cursors share it, each at a position of
its own and with a lag policy of its own.

Threads: none of this locks; ``EventBus`` does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, cast

from asynchub.errors import LagExceededError
from asynchub.events import Event, EventsDropped
from asynchub.patterns import matcher
from asynchub.stretches import Stretch

__all__ = ("Channel", "Cursor", "Missed", "Overflow", "Selection", "SubscriptionStatistics")

Overflow = Literal["drop_oldest", "latest", "block", "raise", "catch_up"]
"""What a reader that falls behind its ``max_lag`` loses.

``"drop_oldest"``: the oldest events, with an ``EventsDropped`` in their place. ``"latest"``: all but the newest of each
key, always. ``"block"``: nothing; the publisher waits. ``"raise"``: the subscription, with a ``LagExceededError``.
``"catch_up"``: nothing; it reads from the journal what it has missed, and without one it is ``"drop_oldest"``.
"""


LARGE = 64
"""Events that are let go of as soon as all have taken them; fewer, when the next are collected."""


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


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """How a subscription is doing.

    Attributes:
        name: its name.
        lag: events published and not yet handed out.
        delivered: events handed out.
        dropped: events lost because it fell behind, or replaced by newer ones (``overflow="latest"``).
        errors: how often its subscriber raised.
        busy_seconds: time between handing out events and the next ask, summed; awaits included.
        max_lag: how many events it may be behind.
        overflow: what happens beyond.
        closed: whether it was closed.
        role: what reads it: an ``"observer"``, whatever it is, ``"control"`` or a ``"tap"``.
    """

    name: str
    lag: int
    delivered: int
    dropped: int
    errors: int
    busy_seconds: float
    max_lag: int
    overflow: Overflow
    closed: bool
    role: str = "observer"


@dataclass(slots=True)
class Missed:
    """Events that went by a reader.

    Attributes:
        after: ``seq`` of an event before the first of them.
        last: the last of them, as an ``EventsDropped``: ``missed`` is how many they are.
    """

    after: int
    last: EventsDropped


class Cursor:
    """A position in a channel, with what happens when it falls behind.

    Attributes:
        name: of the reader, for messages.
        max_lag: how many events it may be behind.
        overflow: what happens beyond; see ``Overflow``.
        position: index, in its channel, of the next event it takes from there.
        handled: index up to which its events have been handled.
        dropped: events lost so far.
        missed: what went by and is to be made up for, before anything else: by saying so, or from the journal.
        owed: how many events before ``position`` it still gets, from the journal.
        owed_after: ``seq`` of an event before the first of those.
        thread: identifier of the thread of the loop it is read on, once that is known.
        failure: why it ended with events unread, until its reader was told.
    """

    __slots__ = (
        "__weakref__",
        "channel",
        "dropped",
        "failure",
        "handled",
        "max_lag",
        "missed",
        "name",
        "newest",
        "overflow",
        "owed",
        "owed_after",
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
        self.missed: Missed | None = None
        self.owed = self.owed_after = 0
        self.newest: dict[tuple[type[Event], str], Event] = {}
        self.thread: int | None = None
        self.failure: LagExceededError | None = None
        self.channel: Channel | None = None  # None once it was taken off

    @property
    def lag(self) -> int:
        """How many collected events it has not taken."""
        channel = self.channel
        return self.owed + (0 if channel is None else channel.end - self.position + len(self.newest))

    def ready(self) -> bool:
        """Tell whether ``take`` would return something."""
        channel = self.channel
        return channel is not None and (self.position < channel.end or bool(self.newest))


class Channel:
    """The events of one selection, collected and not yet taken by all of its cursors.

    Attributes:
        stretches: the events, each stretch with the position of its first.
        base: position of the first event held.
        cursors: who reads them.
        least_lag: the smallest ``max_lag`` of theirs.
        test: whether events of a key and kind belong here.
        gone: ``seq`` of the last event that is not held any more.
    """

    __slots__ = ("base", "cursors", "gone", "least_lag", "stretches", "test")

    def __init__(self, test: Callable[[str, type[Event]], bool]) -> None:
        self.test = test
        self.stretches: list[tuple[int, Stretch]] = []
        self.base = 0
        self.gone = -1
        self.cursors: list[Cursor] = []
        self.least_lag = 0

    def read_by(self, cursors: list[Cursor]) -> None:
        """Set who reads this."""
        self.cursors = cursors
        self.least_lag = min((cursor.max_lag for cursor in cursors), default=0)

    @property
    def end(self) -> int:
        """Position after the last event held."""
        if not self.stretches:
            return self.base
        start, stretch = self.stretches[-1]
        return start + stretch.size

    @property
    def last_seq(self) -> int:
        """``seq`` of the last event that was collected."""
        return self.stretches[-1][1].last_seq if self.stretches else self.gone

    def append(self, stretch: Stretch) -> None:
        """Append events, newer than all that are here."""
        self.stretches.append((self.end, stretch))

    def between(self, start: int, stop: int) -> list[Event]:
        """Return the events at the positions ``start`` up to ``stop``."""
        if start >= stop:
            return []
        stretches = self.stretches
        index = 0
        if len(stretches) > 1 and stretches[1][0] <= start:
            index = bisect_right(stretches, start, key=_position) - 1
        first, stretch = stretches[index]
        events = stretch.events()[start - first : stop - first]
        while len(events) < stop - start:
            index += 1
            first, stretch = stretches[index]
            events += stretch.events()[: stop - first]
        return events

    def skip(self, cursor: Cursor, position: int) -> None:
        """Move ``cursor`` forward past events that it will not get, as its ``overflow`` says."""
        lost = position - cursor.position
        if cursor.overflow == "latest":
            before = len(cursor.newest)
            for event in self.between(cursor.position, position):
                cursor.newest.pop((type(event), event.key), None)  # the newest also comes last
                cursor.newest[type(event), event.key] = event
            cursor.dropped += lost - (len(cursor.newest) - before)
        else:
            earlier = cursor.missed.last.missed if cursor.missed else 0
            after = (
                cursor.missed.after if cursor.missed else self.between(cursor.position, cursor.position + 1)[0].seq - 1
            )
            last = self.between(position - 1, position)[0]
            gone = EventsDropped(seq=last.seq, time=last.time, step=last.step, missed=earlier + lost)
            cursor.missed = Missed(after, gone)
            if cursor.overflow == "drop_oldest":
                cursor.dropped += lost
            else:
                if not cursor.owed:
                    cursor.owed_after = after
                cursor.owed += lost
        cursor.position = position

    def left_behind(self, cursor: Cursor) -> bool:
        """Tell whether events went by ``cursor`` that it has to get from elsewhere before it takes more."""
        oldest = self.end - cursor.max_lag
        if cursor.position < oldest:
            self.skip(cursor, oldest)
        return cursor.missed is not None

    def trim(self) -> None:
        """Let go of what every cursor has taken, and of what is beyond their ``max_lag``."""
        low = end = self.end
        for cursor in self.cursors:
            position = cursor.position
            if position < low:
                low = position
        if end - low > self.least_lag:
            low = min([self._kept_for(cursor, end) for cursor in self.cursors], default=end)
        self._let_go(low)

    def _kept_for(self, cursor: Cursor, end: int) -> int:
        """Return the position from which on events are held for ``cursor``; move it there if it is too far behind."""
        oldest = end - cursor.max_lag
        if cursor.position < oldest:
            if cursor.overflow not in ("block", "raise"):
                self.skip(cursor, oldest)
            elif cursor.overflow == "raise" and cursor.position < oldest - cursor.max_lag:
                return end  # it will raise when it next takes; hold no more for it
        return cursor.position

    def _let_go(self, low: int) -> None:
        """Let go of the stretches that end before position ``low``."""
        stretches = self.stretches
        if not stretches:
            return
        count = 0
        start, stretch = stretches[0]
        if len(stretches) == 1 or low < stretches[1][0]:
            count = 1 if start + stretch.size <= low else 0
        else:
            count = bisect_right(stretches, low, key=_position)
            start, stretch = stretches[count - 1]
            if start + stretch.size > low:
                count -= 1
                start, stretch = stretches[count - 1]
        if count:
            self.gone = stretch.last_seq
            self.base = start + stretch.size
            del stretches[:count]

    def take(self, cursor: Cursor, limit: int) -> list[Event]:
        """Return the next events of ``cursor``, at most ``limit``, an ``EventsDropped`` in the place of lost ones.

        Raises:
            LagExceededError: it fell behind and its ``overflow`` is ``"raise"``; it goes on from the newest.
        """
        end = self.end
        lag = end - cursor.position
        if not lag and cursor.missed is None and not cursor.newest:
            return []
        if lag > cursor.max_lag:
            if cursor.overflow == "raise":
                cursor.position = end
                raise LagExceededError(cursor.name, lag, cursor.max_lag)
            if cursor.overflow == "drop_oldest":
                self.skip(cursor, end - cursor.max_lag)
        if cursor.overflow == "latest":
            if lag:
                self.skip(cursor, end)
            newest, cursor.newest = list(cursor.newest.values()), {}
            return newest
        start = cursor.position
        stop = min(start + limit, end)
        batch = self.between(start, stop)
        cursor.position = stop
        if cursor.missed is not None and cursor.overflow == "drop_oldest":
            batch.insert(0, cursor.missed.last)
            cursor.missed = None
        if len(batch) >= LARGE:
            self._let_go(min([one.position for one in self.cursors]))
        return batch


def _position(item: tuple[int, Stretch]) -> int:
    return item[0]
