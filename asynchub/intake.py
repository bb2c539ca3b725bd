"""Where publishers leave what they publish, and where it gets its place in the log.

A scalar is left in one list, in one step that nothing can break into, without a lock: ``entries``. Whoever needs to
know the order (a reader, a history, another kind of event) numbers the entries first. Numbered entries go two ways:
into ``log``, for readers, if anybody reads one of them, and into ``unfiled``, for the histories.

Order: entries have their ``seq`` in the order in which they were left.
Atomicity: what is left is published. Numbering and filing may be broken off by an exception in any line, and are taken
    up where they were, without losing or repeating an entry.
Threads: any thread may leave entries, number and file. ``filing`` is taken before ``lock``, never after it, and
    ``lock`` is held for moments.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from asynchub.events import ENTRY, Event
from asynchub.filing import Depot, Run, file_each
from asynchub.history import HistoryBuffer
from asynchub.holding import Holding, first_seq
from asynchub.taps import Tap

__all__ = ("CHORES", "Intake")

logger = logging.getLogger("asynchub")
CHORES = 1024
"""Events at which a publisher brings the histories up to date."""
OFTEN = 256
"""Entries at which it numbers them."""


class Intake(Holding):
    """What was published, before and after it got its ``seq``.

    Attributes:
        entries: scalars that have no ``seq`` yet: ``cell, time, step, value, count``, again and again. A publisher
            appends all of an update in one step; always the same list.
        lock: held while entries are numbered, and while a change of another kind is made.
        filing: held while entries are handed to histories.
        seq: ``seq`` of the newest numbered event.
        filed: ``seq`` up to which entries have been packed, or handed to their histories.
        log: runs of entries and other events, in order, that no reader has collected yet.
        logged: how many events are in ``log``, about.
        unfiled: runs of entries for the histories.
        busy: set, under ``lock``, while entries are numbered or a change is under way. Who finds it set, although the
            lock was free to take, is a signal handler or a finalizer that broke into that in its own thread, and must
            ``defer`` its own change.
        alarm: a publisher of something wanted that finds so many items in ``entries`` calls ``attend``.
        chores: the same for a publisher of something that nobody reads.
        limit: who finds ``seq`` here or further calls ``attend``, or has the next publisher do so.
        once: called once, by the publisher, at the next ``attend``.
        tap: who acts inside of each publish, or None.
        eager: whether it is asked in each publish; ``"patient"`` if a publish waits for it, too.
        tapped: ``seq`` that the newest event has, or will have, that it has put.
        untapped: what it has not taken yet: runs of entries and other events, in order.

    Args:
        capacity: events held for readers before a publisher sorts them itself.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.seq = self.filed = 0
        self.entries: list[Any] = []
        self.unfiled: deque[Run] = deque()
        self._depot = Depot()
        self._packed = False  # whether something is in it
        self._cut: Run | None = None
        self._begun = False  # whether runs were begun to be filed, and are still in `unfiled`
        self.renew()

    def renew(self) -> None:
        """Make new locks and forget who reads, as a forked child must; what was published stays for the histories."""
        self.lock = threading.RLock()
        self.filing = threading.RLock()
        self.busy = self._filing = False
        self.log: list[Any] = []
        self.logged = 0
        self.tap: Tap | None = None
        self.eager: bool | Literal["patient"] = False
        self.tapped = 0
        self.untapped: deque[Run | Event] = deque()
        self.once: Callable[[], None] | None = None
        self._deferred: deque[Callable[[], object]] = deque()
        self.renew_held()
        self.look_again()

    # --- numbering

    def number(self) -> None:
        """Give every entry its ``seq``; call with ``lock`` held. Does nothing amid a change of this very thread."""
        entries = self.entries
        if self.busy or not (entries or self._cut or self._passing):
            return
        try:
            self.busy = True
            self._finish_passing()
            if not (entries or self._cut):
                return
            cut = self._cut
            if cut is None:
                cut = self._cut = (self.seq + 1, entries[:])
            first, items = cut
            self._put(cut)
            if entries and entries[1] is items[1]:  # the times of two updates are two objects
                del entries[: len(items)]
            self.seq = first + len(items) // ENTRY - 1
            self._cut = None
        finally:
            self.busy = False
        if self.seq >= self.limit:
            self.alarm = self.chores = 0

    def put(self, items: list[Any]) -> None:
        """Publish entries at once, as part of a change; call with ``lock`` held and ``busy`` set."""
        self._put((self.seq + 1, items))
        self.seq += len(items) // ENTRY

    def _put(self, run: Run) -> None:
        """Append a run to what it has to go to, once."""
        held = self.held
        if not held:
            self._hand_on(run)
        elif held[-1] is not run:
            held.append(run)

    def _hand_on(self, item: Run | Event) -> None:
        if type(item) is tuple and (not self.unfiled or self.unfiled[-1] is not item):
            self.unfiled.append(item)
        if self.tap is not None and (not self.untapped or self.untapped[-1] is not item):
            self.untapped.append(item)

    def take_back(self) -> None:
        """Forget whatever a change that was broken off has appended: all beyond ``seq``."""
        while self.held and first_seq(self.held[-1]) > self.seq:
            self.held.pop()
        while self.log and first_seq(self.log[-1]) > self.seq:
            self.log.pop()
        while self.unfiled and self.unfiled[-1][0] > self.seq:
            self.unfiled.pop()
        while self.untapped and first_seq(self.untapped[-1]) > self.seq:
            self.untapped.pop()

    # --- the tap

    def fill(self) -> bool:
        """Have the tap take all that is numbered, and put what is not; False if it has no room. With ``lock`` held."""
        tap = self.tap
        if tap is None or self.busy:
            return True
        if self._cut is not None or self._passing is not None:
            self.number()
        room = False
        try:
            self.busy = True  # a signal handler may break into this, and an object publish when it is stored
            room = self._fill(tap, self.untapped)
        finally:
            self.busy = False
        return room

    def _fill(self, tap: Tap, untapped: deque[Run | Event]) -> bool:
        out = self.out
        while untapped and first_seq(untapped[0]) <= out:
            if not tap.take(untapped[0]):
                return False
            untapped.popleft()
        self.tapped = max(self.tapped, out)
        if self.held:
            return True
        while items := self.entries[(self.tapped - self.seq) * ENTRY :]:
            if not tap.put(self.tapped + 1, items):
                return False
            self.tapped += len(items) // ENTRY
        return True

    # --- filing

    def feed(self, wait: bool) -> None:
        """Hand all that was published to the histories; with ``wait``, also what waits for values from devices."""
        if wait and self.held:
            self.drain()
        self.file()

    def pending_of(self, history: HistoryBuffer) -> int:
        """Return how many entries of a history are held."""
        with self.lock:
            self.number()
            cells = [cell for item in self.held if type(item) is tuple for cell in item[1][::ENTRY]]
        return sum(cell.buffer is history for cell in cells)

    def file(self) -> None:
        """Hand all that was published to the histories it belongs to. Cheap when there is nothing new."""
        if self.entries or self.unfiled or self._packed:
            self._file(self._hand_out)

    def tidy(self) -> None:
        """Have what was published take little room; hand it to the histories when it is very much."""
        self._file(self._pack)

    def _file(self, way: Callable[[Sequence[Run], bool], None]) -> None:
        with self.filing:
            if self._filing:  # a signal handler or a finalizer broke into it
                return
            try:
                self._filing = True
                with self.lock:
                    self.number()
                    out, unfiled = self.out, self.unfiled
                runs = [run for run in list(unfiled) if run[0] <= out]  # others append meanwhile
                again, self._begun = self._begun, True
                way(runs, again)
                self.filed = out
                for _ in runs:
                    unfiled.popleft()
                self._begun = False
            finally:
                self._filing = False

    def _pack(self, runs: Sequence[Run], again: bool) -> None:
        depot = self._depot
        if again:
            runs = [run for run in runs if run[0] > depot.last_seq]
        if runs and (again or not depot.pack(runs)):
            self._hand_out(runs, again)
        if depot.full:
            depot.hand_out()
        self._packed = depot.last_seq >= 0

    def _hand_out(self, runs: Sequence[Run], again: bool) -> None:
        depot = self._depot
        if again:
            runs = [run for run in runs if run[0] > depot.last_seq]
        depot.hand_out()
        self._packed = False
        file_each(runs, again)

    # --- what comes up now and then

    def look_again(self) -> None:
        """Set when a publisher has to ``attend`` next."""
        due = max(self.filed + CHORES - self.seq, CHORES // 4)
        self.limit = self.seq + min(due, max(self.capacity - self.logged, 1))
        self.alarm = self.chores = ENTRY * min(self.limit - self.seq, OFTEN)
        if self._deferred or self.once is not None:
            self.alarm = self.chores = self.limit = 0

    def defer(self, update: Callable[[], object]) -> None:
        """Have ``update`` called when the change that this thread is amid is done; call with ``lock`` held."""
        self._deferred.append(update)
        self.look_again()

    def do_deferred(self) -> None:
        """Make the changes that had to wait."""
        while self._deferred:
            try:
                update = self._deferred.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                update()
            except Exception:
                logger.exception("an update from a signal handler or a finalizer failed")
