"""The bounded shared log of a hub's events.

Publishing appends to ``EventBus.entries`` under ``EventBus.lock`` and does nothing else: what a publish costs depends
neither on the number of readers nor on how far they are. Readers ``collect``: they take what was appended, make the
events, once, and sort them into one channel for each distinct selection.

Order: every channel holds its events in the order of ``Event.seq``.
Bounds: the log holds ``capacity`` entries, a channel the largest ``max_lag`` of its cursors. A cursor left behind loses
    what its ``overflow`` says, and counts it.
Waking: a reader that waits is woken by the first publish after it went to sleep; after it found events it sleeps
    ``latency`` seconds while publishers only append, unless the publisher lives on the reader's own loop.
Threads: everything here may be called from any thread. ``collecting`` is taken before ``lock``, never after it, and
    ``lock`` is held for moments.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from asynchub.channels import Channel, Cursor, Selection
from asynchub.errors import ArgumentError, DeadlockError, LagExceededError, WaitTimeoutError
from asynchub.events import Event, ScalarUpdated, scalar_updated, scalars_updated
from asynchub.loops import LoopHandle, Station

__all__ = ("EventBus",)

logger = logging.getLogger("asynchub")
CHORES = 1024
"""Events between two looks of a publisher at what has piled up."""
BLOCK_TIMEOUT = 60.0
"""Seconds a publisher waits for a reader with ``overflow="block"`` before it gives up."""


class _Routes(dict[tuple[str, type[Event]], tuple[list[Event], ...]]):
    """Where events of a key and kind go; found once for each."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        super().__init__()
        self._channels = tuple(channels)

    def __missing__(self, of: tuple[str, type[Event]]) -> tuple[list[Event], ...]:
        found = tuple(channel.events for channel in self._channels if channel.test(*of))
        self[of] = found
        return found


class EventBus:
    """The shared log.

    Attributes:
        lock: held by a publisher for the moment in which state and log change.
        seq: ``seq`` of the newest event.
        entries: events published and not yet collected: tuples ``(seq, time, step, key, value, count)`` of scalars,
            and other events as they are.
        channels: one for each distinct selection that somebody reads.
        blocking: cursors for which a publisher waits.
        housekeeping: called by a publisher, without ``lock``, every ``CHORES`` events or more often.
        once: called once, by the publisher, at the next ``attend``.
        changed: called under ``lock`` when what anybody reads has changed.
        busy: set while an update is under way, under ``lock``. Who finds it set, although the lock was free to take, is
            a signal handler or a finalizer that broke into an update of its own thread, and must ``defer`` its own.
        alarm: a publisher of something wanted whose ``seq`` reaches this calls ``attend`` after it let go of ``lock``.
        chores: the same for a publisher of something that nobody reads.

    Args:
        latency: seconds a reader lets events gather before it looks again.
        capacity: entries held before the publisher itself collects.

    Raises:
        ArgumentError: ``latency`` is not a number of 0 or more, or ``capacity`` not an int above 0.
    """

    def __init__(self, latency: float = 0.02, capacity: int = 65_536) -> None:
        if not isinstance(latency, int | float) or not latency >= 0:
            raise ArgumentError(f"latency must be seconds, 0 or more, got {latency!r:.80}")
        if not isinstance(capacity, int) or capacity < 1:
            raise ArgumentError(f"capacity must be an int above 0, got {capacity!r:.80}")
        self.latency = latency
        self.capacity = capacity
        self.changed: Callable[[], None] = lambda: None
        self.housekeeping: Callable[[], None] = lambda: None
        self.seq = 0
        self.reset()

    def reset(self) -> None:
        """Forget every reader and make new locks, as a forked child must."""
        self.lock = threading.RLock()
        self.collecting = threading.RLock()
        self.entries: list[Any] = []
        self.busy = False
        self.chores = self.seq + CHORES
        self.alarm = min(self.chores, self.seq + self.capacity)
        self._deferred: deque[Callable[[], object]] = deque()
        self._taken: list[Any] = []
        self._sorting = False
        self._armed: list[Station] = []
        self._stations: dict[Any, Station] = {}
        self._by_selection: dict[Selection, Channel] = {}
        self.channels: tuple[Channel, ...] = ()
        self._everything: list[Channel] = []
        self._selective: list[Channel] = []
        self._routes = _Routes(())
        self._wanted: dict[tuple[str, type[Event]], bool] = {}
        self.blocking: list[Cursor] = []
        self.once: Callable[[], None] | None = None
        self._room = threading.Event()

    # --- publishing

    def wants(self, key: str, kind: type[Event] = ScalarUpdated) -> bool:
        """Tell whether anybody reads events of that key and kind."""
        wanted = self._wanted.get((key, kind))
        if wanted is None:
            wanted = self._wanted[key, kind] = any(channel.test(key, kind) for channel in self.channels)
        return wanted

    def attend(self) -> None:
        """Do what a publisher must now and then: wake sleeping readers; collect when the log is full."""
        with self.lock:
            stations: list[Station] = []
            if self.entries:
                stations, self._armed = self._armed, []
            full = len(self.entries) >= self.capacity
            once, self.once = self.once, None
            due = self.seq >= self.chores
            if due or not self.chores:
                self.chores = self.seq + CHORES
            self.alarm = min(self.chores, self.seq + max(self.capacity - len(self.entries), 1))
            if self._armed:
                self.alarm = 0
        for station in stations:
            station.kick()
        while self._deferred:
            self._do_deferred()
        if due:
            self.housekeeping()
        if once is not None:
            once()
        if full:
            self.collect()

    def defer(self, update: Callable[[], object]) -> None:
        """Have ``update`` called when the update that this thread is amid is done; call with ``lock`` held."""
        self._deferred.append(update)
        self.alarm = self.chores = 0

    def _do_deferred(self) -> None:
        try:
            update = self._deferred.popleft()
        except IndexError:  # another thread was faster
            return
        try:
            update()
        except Exception:
            logger.exception("an update from a signal handler or a finalizer failed")

    def make_room(self) -> None:
        """Wait until every reader with ``overflow="block"`` has room for one more event.

        Raises:
            DeadlockError: such a reader lives on the loop of this very thread, and has no room.
            WaitTimeoutError: it made none for ``BLOCK_TIMEOUT``.
        """
        deadline = time.monotonic() + BLOCK_TIMEOUT
        while True:
            self._room.clear()
            self.collect()
            full = [cursor for cursor in self.blocking if cursor.lag >= cursor.max_lag]
            if not full:
                return
            name = full[0].name
            if any(cursor.thread == threading.get_ident() for cursor in full):
                raise DeadlockError(
                    f"subscription {name!r} has overflow='block' and no room, and is read by this very thread; "
                    "publish from another thread, or choose another overflow"
                )
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"subscription {name!r} made no room for {BLOCK_TIMEOUT} s; is it being read?")
            self._room.wait(0.1)

    def made_room(self) -> None:
        """Say that a reader with ``overflow="block"`` has taken events."""
        self._room.set()

    def arm(self, station: Station) -> bool:
        """Have the next publish kick ``station``; False if there is something already."""
        with self.lock:
            if self.entries:
                return False
            if station not in self._armed:
                self._armed.append(station)
            self.alarm = 0
            return True

    # --- reading

    def station(self) -> Station:
        """Return the station of the running event loop."""
        loop = LoopHandle().native
        station = self._stations.get(loop)
        if station is None:
            station = self._stations[loop] = Station(self.latency, self.arm, self.collect)
        return station

    def hurry(self) -> None:
        """Have every waiting reader look now."""
        for loop, station in list(self._stations.items()):
            if not station.hurry():  # the loop has ended
                self._stations.pop(loop, None)

    def collect(self) -> None:
        """Move what was published into the channels. Cheap when there is nothing new."""
        if not self.entries and not self._taken:
            return
        with self.collecting:
            if self._sorting:  # a signal handler or a finalizer broke into it
                return
            again = bool(self._taken)  # an interrupt broke off the last call: finish it, without repeating a part
            if not again:
                with self.lock:
                    self._taken, self.entries = self.entries, []
            self._sort(again)
            self._taken = []
            for channel in self.channels:
                channel.trim()

    def _sort(self, again: bool) -> None:
        self._sorting = True
        try:
            self._sort_taken(again)
        finally:
            self._sorting = False

    def _sort_taken(self, again: bool) -> None:
        taken = self._taken
        if {*map(type, taken)} == {tuple}:
            events = scalars_updated(taken)
        else:
            events = [scalar_updated(*entry) if type(entry) is tuple else entry for entry in taken]
        everything, selective = self._everything, self._selective
        if len(selective) == 1 and not everything:  # what nobody wants is not logged: all of it is for this one
            everything, selective = selective, []
        for channel in everything:
            if again:
                channel.append_new(events)
            else:
                channel.events.extend(events)
        if selective:
            routes = self._routes
            for event in events:
                for target in routes[event.key, type(event)]:
                    if not again or not target or target[-1].seq < event.seq:
                        target.append(event)

    def add(self, cursor: Cursor, selection: Selection, meanwhile: Callable[[], None]) -> None:
        """Put ``cursor`` at the end of the channel of ``selection``.

        Args:
            cursor: a new cursor.
            selection: what it reads.
            meanwhile: called while nothing can be published, with all that was published before the cursor's place.

        Raises:
            PatternError: a pattern is malformed.
        """
        test = selection.test()
        with self.collecting:
            self.collect()
            with self.lock:
                self.collect()  # what little came meanwhile
                meanwhile()
                channel = self._by_selection.setdefault(selection, Channel(test))
                channel.cursors.append(cursor)
                cursor.channel = channel
                cursor.position = cursor.handled = channel.end
                self._selections_changed()

    def remove(self, cursor: Cursor) -> list[Event]:
        """Take ``cursor`` off its channel; return what it still had to get."""
        with self.collecting:
            channel = cursor.channel
            if channel is None:
                return []
            self.collect()
            with self.lock:
                self.collect()  # what little came meanwhile
                rest = self._rest(cursor, channel)
                channel.cursors.remove(cursor)
                cursor.channel = None
                for selection in [one for one, of in self._by_selection.items() if not of.cursors]:
                    del self._by_selection[selection]
                self._selections_changed()
            return rest

    def _rest(self, cursor: Cursor, channel: Channel) -> list[Event]:
        rest: list[Event] = []
        while cursor.ready():
            try:
                rest += channel.take(cursor, len(channel.events) + 1)
            except LagExceededError as error:
                cursor.failure = error
        return rest

    def _selections_changed(self) -> None:
        by_selection = self._by_selection
        self.channels = tuple(by_selection.values())
        self._wanted = {}
        self._everything = [channel for selection, channel in by_selection.items() if "**" in selection.patterns]
        self._selective = [channel for selection, channel in by_selection.items() if "**" not in selection.patterns]
        self._routes = _Routes(self._selective)
        self.blocking = [c for channel in self.channels for c in channel.cursors if c.overflow == "block"]
        self.changed()
