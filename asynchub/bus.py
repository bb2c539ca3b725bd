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
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from weakref import ref

from asynchub.channels import Channel, Cursor, Selection
from asynchub.errors import ArgumentError, DeadlockError, LagExceededError, WaitTimeoutError
from asynchub.events import ENTRY, Event, ScalarUpdated
from asynchub.filing import Run
from asynchub.intake import CHORES, Intake
from asynchub.loops import Latch, LoopHandle, Station
from asynchub.stretches import LONGEST, Stretch
from asynchub.taps import Tap

__all__ = ("EventBus",)

BLOCK_TIMEOUT = 60.0
"""Seconds a publisher waits for a reader with ``overflow="block"`` before it gives up."""


class _Routes(dict[tuple[str, type[Event]], tuple[Channel, ...]]):
    """Where events of a key and kind go; found once for each."""

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        super().__init__()
        self._channels = channels

    def __missing__(self, of: tuple[str, type[Event]]) -> tuple[Channel, ...]:
        found = tuple(channel for channel in self._channels if channel.test(*of))
        self[of] = found
        return found


class EventBus(Intake):
    """The shared log.

    Attributes:
        channels: one for each distinct selection that somebody reads.
        blocking: cursors for which a publisher waits.
        patient: cursors whose readers catch up from the tap; always another list.
        housekeeping: called by a publisher, without ``lock``, every ``CHORES`` events or more often.
        changed: called under ``lock`` when what anybody reads has changed.
        collecting: held while events are sorted into channels and taken from them.

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
        self._by_selection: dict[Selection, Channel] = {}
        self.channels: tuple[Channel, ...] = ()
        self._selective = False
        self._routes = _Routes(())
        self.blocking: list[Cursor] = []
        self.patient: list[ref[Cursor]] = []
        self._room = Latch()
        super().renew()

    # --- publishing

    def wants(self, key: str, kind: type[Event] = ScalarUpdated) -> bool:
        """Tell whether anybody reads events of that key and kind."""
        return bool(self._routes[key, kind])

    def _put(self, run: Run) -> None:
        super()._put(run)
        items, routes = run[1], self._routes
        if not self._selective:
            wanted = bool(self.channels)
        elif len(items) == ENTRY:
            wanted = bool(routes[items[0].key, ScalarUpdated])
        else:
            wanted = any(routes[cell.key, ScalarUpdated] for cell in set(items[::ENTRY]))
        if wanted and (not self.log or self.log[-1] is not run):
            self.log.append(run)
            self.logged += len(items) // ENTRY

    def look_again(self) -> None:
        """Set when a publisher has to ``attend`` next: at once while somebody waits to be woken."""
        super().look_again()
        if self._armed:
            self.alarm = self.limit = 0
        self._due = (self.alarm, self.chores, self.limit)
        if self.eager:
            self.alarm = self.chores = self.limit = 0

    def attend(self) -> None:
        """Do what a publisher must now and then: wake sleeping readers; collect when the log is full; serve the tap."""
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
        self.tapped = self.seq
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
                self._sort(again)
            finally:
                self._sorting = False
            self._taken = []
            for channel in self.channels:
                if channel.end - channel.base > channel.least_lag:
                    channel.trim()

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

    def _sort(self, again: bool) -> None:
        routes = self._routes
        stretches: Iterable[Stretch]
        for item in self._taken:
            if type(item) is not tuple:
                channels, stretches = routes[item.key, type(item)], (Stretch.of_event(item),)
            else:
                first, items = item
                if not self._selective:
                    channels = self.channels
                elif len(items) == ENTRY:
                    channels = routes[items[0].key, ScalarUpdated]
                else:
                    ways = {routes[cell.key, ScalarUpdated] for cell in set(items[::ENTRY])}
                    channels = ways.pop()
                    if ways:
                        self._sort_apart(item, again)
                        continue
                size = len(items) // ENTRY
                seqs = range(first, first + size)
                stretches = (Stretch(seqs, items),) if size <= LONGEST else Stretch.of_entries(seqs, items)
            for stretch in stretches:
                for channel in channels:
                    if not again or channel.last_seq < stretch.last_seq:
                        channel.append(stretch)

    def _sort_apart(self, run: Run, again: bool) -> None:
        """Append entries to the channels that want them, not all the same; what nobody wants is left out."""
        first, items = run
        routes = self._routes
        cells = items[::ENTRY]
        unwanted = {cell for cell in set(cells) if not routes[cell.key, ScalarUpdated]}
        wanted = [index for index, cell in enumerate(cells) if cell not in unwanted]
        if unwanted:
            items = [item for index in wanted for item in items[index * ENTRY : (index + 1) * ENTRY]]
        for stretch in Stretch.of_entries([first + index for index in wanted], items):
            for channel, part in self._parts(stretch):
                if not again or channel.last_seq < part.last_seq:
                    channel.append(part)

    def _parts(self, stretch: Stretch) -> Iterator[tuple[Channel, Stretch]]:
        """Yield what of a stretch each channel wants."""
        cells = stretch.cells()
        routes = {cell: self._routes[cell.key, ScalarUpdated] for cell in set(cells)}
        for channel in dict.fromkeys(itertools.chain.from_iterable(routes.values())):
            foreign = {cell for cell, channels in routes.items() if channel not in channels}
            if foreign:
                yield channel, stretch.part([index for index, cell in enumerate(cells) if cell not in foreign])
            else:
                yield channel, stretch

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
            channel = self._by_selection.setdefault(selection, Channel(test))
            channel.read_by([*channel.cursors, cursor])
            cursor.channel = channel
            cursor.position = cursor.handled = channel.end
            self._selections_changed()

    def remove(self, cursor: Cursor) -> list[Event]:
        """Take ``cursor`` off its channel; return what it still had to get."""
        with self.collecting:
            channel = cursor.channel
            if channel is None:
                return []
            with self.still():
                rest = self._rest(cursor, channel)
                channel.read_by([one for one in channel.cursors if one is not cursor])
                cursor.channel = None
                for selection in [one for one, of in self._by_selection.items() if not of.cursors]:
                    del self._by_selection[selection]
                self._selections_changed()
            return rest

    def _rest(self, cursor: Cursor, channel: Channel) -> list[Event]:
        rest: list[Event] = []
        while cursor.ready():
            try:
                rest += channel.take(cursor, channel.end - channel.base + 1)
            except LagExceededError as error:
                cursor.failure = error
        return rest

    def _selections_changed(self) -> None:
        by_selection = self._by_selection
        self.channels = tuple(by_selection.values())
        self._selective = not all("**" in selection.patterns for selection in by_selection)
        self._routes = _Routes(self.channels)
        self.blocking = [c for channel in self.channels for c in channel.cursors if c.overflow == "block"]
        self.changed()
