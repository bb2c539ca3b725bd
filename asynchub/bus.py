"""The bounded shared log of a hub's events.

Publishing leaves an entry (``asynchub.intake``) and does nothing else: what a publish costs depends neither on the
number of readers nor on how far they are. Readers ``collect``: they take what was published, make the events, once, and
sort them into one channel for each distinct selection.

Order: every channel holds its events in the order of ``Event.seq``.
Bounds: the log holds about ``capacity`` events, a channel the largest ``max_lag`` of its cursors. A cursor left behind
    loses what its ``overflow`` says, and counts it.
Waking: a reader that waits is woken by the first publish after it went to sleep; after it found events it sleeps
    ``latency`` seconds while publishers only append, unless the publisher lives on the reader's own loop.
Threads: everything here may be called from any thread. ``collecting`` is taken before ``filing``, and that before
    ``lock``; ``lock`` is held for moments.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal
from weakref import ref

from asynchub.channels import Channel, Cursor, Selection
from asynchub.errors import ArgumentError, DeadlockError, LagExceededError, WaitTimeoutError
from asynchub.events import ENTRY, Event
from asynchub.filing import Run
from asynchub.intake import CHORES, Intake
from asynchub.loops import Latch, LoopHandle
from asynchub.routing import Routing
from asynchub.stations import Station, station_here
from asynchub.stretches import Stretch, whole_stretches
from asynchub.taps import Tap

__all__ = ("EventBus",)

BLOCK_TIMEOUT = 60.0
"""Seconds a publisher waits for a reader with ``overflow="block"`` before it gives up."""


class EventBus(Routing, Intake):
    """The shared log.

    Attributes:
        patient: cursors whose readers catch up from the tap; always another list.
        housekeeping: called by a publisher, without ``lock``, every ``CHORES`` events or more often.
        changed: called under ``lock`` when what anybody reads has changed.
        collecting: held while events are sorted into channels and taken from them.
        woken_by: identifier of the thread whose publish last woke readers; 0 if none did.

    Args:
        latency: seconds a reader lets events gather before it looks again.
        capacity: events held before the publisher itself collects.

    Raises:
        ArgumentError: ``latency`` is not a number of 0 or more, or ``capacity`` not an int above 0.
    """

    def __init__(self, latency: float = 0.02, capacity: int = 65_536) -> None:
        if not isinstance(latency, int | float) or not latency >= 0:
            raise ArgumentError(f"latency must be seconds, 0 or more, got {latency!r:.80}")
        if not isinstance(capacity, int) or capacity < 1:
            raise ArgumentError(f"capacity must be an int above 0, got {capacity!r:.80}")
        self.latency = latency
        self.changed: Callable[[], None] = lambda: None
        self.housekeeping: Callable[[], None] = self.tidy
        super().__init__(capacity)

    def renew(self) -> None:
        """Forget every reader and make new locks, as a forked child must."""
        self.collecting = threading.RLock()
        self._taken: list[Any] = []
        self._sorting = False
        self._armed: list[Station] = []
        self._stations: dict[Any, Station] = {}
        self._station: Station | None = None  # the one that was asked for last
        self.woken_by = 0
        self.forget_routes()
        self.patient: list[ref[Cursor]] = []
        self._room = Latch()
        super().renew()

    # --- publishing

    def _hand_on(self, item: Run | Event) -> None:
        super()._hand_on(item)
        log = self.log
        if log and log[-1] is item:
            return
        if isinstance(item, Event):
            if self.wants(item.key, type(item)):
                log.append(item)
                self.logged += 1
        elif self.wants_any(item[1]):
            log.append(item)
            self.logged += len(item[1]) // ENTRY

    def look_again(self) -> None:
        """Set when a publisher has to ``attend`` next: at once while somebody waits to be woken."""
        super().look_again()
        if self._armed and (self.log or not self.held):  # else whoever brings what is held wakes them
            self.alarm = self.limit = 0
        self._due = (self.alarm, self.chores, self.limit)
        if self.eager:
            self.alarm = self.chores = self.limit = 0

    def attend(self) -> None:
        """Do what a publisher must now and then: wake sleeping readers; collect when the log is full; serve the tap."""
        if self.held:
            with self.lock:
                self.number()
                self.pass_on()
                self.look_again()
        if self.eager:
            with self.lock:  # nearly always, one publisher's entries are all there is
                done = False
                if not (self.busy or self.untapped or self._cut) and self.eager is True:
                    entries, tapped = self.entries, self.tapped
                    new = entries[(tapped - self.seq) * ENTRY :]
                    if len(new) == ENTRY and tapped >= self.seq:
                        size = len(entries)
                        try:
                            self.busy = True  # see `fill`
                            done = self.tap_put(tapped + 1, new)
                        finally:
                            self.busy = False
                        if done:
                            self.tapped = tapped + 1
                            alarm, chores, _ = self._due
                            done = len(entries) == size and (size < alarm or (size < chores and not new[0].wanted))
            if done or not self._serve_tap():
                return
        with self.lock:
            if self.busy:
                return
            self.number()
            stations: list[Station] = []
            if self.log:
                stations, self._armed = self._armed, []
            once, self.once = self.once, None
            due = self.seq - self.filed >= CHORES
            self.look_again()
        for station in stations:
            self.woken_by = threading.get_ident()
            station.kick()
        self.do_deferred()
        if due:
            self.housekeeping()
        if once is not None:
            once()
        if self.logged >= self.capacity:
            self.collect()

    def _serve_tap(self) -> bool:
        """Have the tap make safe what was published; tell whether there is anything else to attend to."""
        tap = self.tap
        while tap is not None:
            with self.lock:
                entries = self.entries
                if self.fill():
                    alarm, chores, limit = self._due
                    size = len(entries)
                    due = self.seq >= limit if not size else size >= chores
                    due = due or (size >= alarm and any(cell.wanted for cell in entries[::ENTRY]))
                    break
            if self.lock._is_owned():  # type: ignore[attr-defined]  # a signal handler: whom it broke into goes on
                return False
            if not tap.make_room():
                return True
        else:
            return True
        if not self.lock._is_owned():  # type: ignore[attr-defined]
            tap.acknowledge()
        return due

    def tap_with(self, tap: Tap | None, eager: bool | Literal["patient"] = False) -> None:
        """Have ``tap``, or nobody, take what is published from now on; with ``lock`` held, all before numbered."""
        self.tap, self.eager = tap, eager
        self.tapped = self.out
        self.untapped.clear()
        if tap is not None:
            self.tap_put = tap.put
        self.look_again()

    def make_room(self) -> None:
        """Wait until every reader with ``overflow="block"`` has room for one more event.

        Raises:
            DeadlockError: such a reader lives on the loop of this very thread, and has no room.
            WaitTimeoutError: it made none for ``BLOCK_TIMEOUT``.
        """
        deadline = time.monotonic() + BLOCK_TIMEOUT
        while True:
            room = self._room = Latch() if self._room.is_set else self._room
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
            room.wait(0.1)

    def made_room(self) -> None:
        """Say that a reader with ``overflow="block"`` has taken events."""
        self._room.set()

    def arm(self, station: Station) -> bool:
        """Have the next publish kick ``station``; False if there is something already."""
        with self.lock:
            if station not in self._armed:
                self._armed.append(station)
            self.look_again()
            self.number()  # after saying so: what is left from here on finds the alarm set
            if not self.log:
                return True
            self._armed.remove(station)
            self.look_again()
            return False

    def may_not_wait(self) -> bool:
        """Tell whether this thread is one that what is held waits for, or keeps others from collecting."""
        return super().may_not_wait() or self.collecting._is_owned()  # type: ignore[attr-defined]

    # --- reading

    def station(self) -> Station:
        """Return the station of the running event loop."""
        station = self._station
        if station is None or not station.is_here():
            loop = LoopHandle().native
            station = self._stations.get(loop)
            if station is None:
                station = self._stations[loop] = station_here(self)
            self._station = station
        return station

    def hurry(self) -> None:
        """Have every waiting reader look now."""
        for loop, station in list(self._stations.items()):
            if not station.hurry() or _has_ended(loop):
                self._stations.pop(loop, None)
                self._station = None

    def collect(self) -> None:
        """Move what was published into the channels. Cheap when there is nothing new."""
        if not self.entries and not self.log and not self._taken:
            return
        with self.collecting:
            if self._sorting:  # a signal handler or a finalizer broke into it
                return
            again = bool(self._taken)  # an interrupt broke off the last call: finish it, without repeating a part
            if not again:
                with self.lock:
                    if self.busy:
                        return
                    self.number()
                    self._taken, self.log = self.log, []
                    self.logged = 0
            for channel in self.channels:
                if channel.stretches:
                    channel.trim()
            try:
                self._sorting = True
                self.sort(self._taken, again)
            finally:
                self._sorting = False
            self._taken = []
            for channel in self.channels:
                if channel.end - channel.base > channel.least_lag:
                    channel.trim()

    def take_whole(self, cursor: Cursor, limit: int) -> Stretch | None:
        """Collect, and take what ``cursor`` is to get next, as it lies: whole stretches, ``limit`` events at most.

        None, and nothing is taken, if there is nothing, or if it has lost something, or is amid a stretch. With
        ``collecting`` held; not for ``overflow="latest"``.
        """
        channel = cursor.channel
        if channel is None:
            return None
        if self.entries or self.log or self._taken:
            self.collect()
        stretches, position = channel.stretches, cursor.position
        if not stretches or cursor.missed is not None or cursor.owed or channel.end - position > cursor.max_lag:
            return None
        start, found = stretches[0]
        size = found.size
        if start != position or not limit < 2 * size <= 2 * limit:  # else it fills a batch, as those of many events do
            several = whole_stretches(stretches, position, limit)
            if several is None:
                return None
            found, size = several, several.size
        cursor.position = position + size
        if 4 * size >= limit:  # so much is let go of as soon as all have taken it
            channel.trim()
        if cursor.overflow == "block":
            self.made_room()
        return found

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep state and log as they are, all published before collected and filed; publishers go on meanwhile."""
        with self.collecting:
            self.collect()
            with self.filing, self.lock:
                self.collect()  # what little came meanwhile
                self.file()
                busy, self.busy = self.busy, True
                try:
                    yield
                finally:
                    self.busy = busy

    @contextlib.contextmanager
    def drained_still(self, before: Any = None) -> Iterator[None]:
        """Do what ``still`` does when nothing is held: wait until all values from devices are there.

        Args:
            before: a lock that is to be held as well, and is taken before those of this log.
        """
        amid = self.may_not_wait()
        with self.gate():
            while True:
                self.drain()
                with before or contextlib.nullcontext(), self.still():
                    if not self.held or amid:
                        yield
                        return

    def add(self, cursor: Cursor, selection: Selection, meanwhile: Callable[[], None]) -> None:
        """Put ``cursor`` at the end of the channel of ``selection``.

        Args:
            cursor: a new cursor.
            selection: what it reads.
            meanwhile: called with the record as it was at the cursor's place.

        Raises:
            PatternError: a pattern is malformed.
        """
        test = selection.test()
        with self.still():
            meanwhile()
            self.join(cursor, selection, Channel(test))
            self.changed()

    def remove(self, cursor: Cursor) -> list[Event]:
        """Take ``cursor`` off its channel; return what it still had to get."""
        with self.collecting:
            channel = cursor.channel
            if channel is None:
                return []
            with self.still():
                rest = self._rest(cursor, channel)
                self.part_from(cursor, channel)
                self.changed()
            return rest

    def _rest(self, cursor: Cursor, channel: Channel) -> list[Event]:
        rest: list[Event] = []
        while cursor.ready():
            try:
                rest += channel.take(cursor, channel.end - channel.base + 1)
            except LagExceededError as error:
                cursor.failure = error
        return rest


def _has_ended(loop: Any) -> bool:
    """Tell whether an asyncio loop or a trio run is over, also one of this very thread."""
    if hasattr(loop, "is_closed"):
        return bool(loop.is_closed())
    try:
        loop.run_sync_soon(bool)  # anything
    except RuntimeError:
        return True
    return False
