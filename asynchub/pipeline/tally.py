"""Counting what a stage does, in its own threads, at the least cost.

Exact: each thread counts for itself, and whoever reads adds up: ``x += 1`` from several threads would lose counts.
Threads: a thread writes to its own tally only; any thread may read. A thread that has ended leaves its counts behind.
Time: nanoseconds of ``time.perf_counter_ns``.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asynchub.loops import LoopHandle
from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.histogram import BUCKETS, Counts, empty, indices
from asynchub.pipeline.tracks import ThreadTrack, Track, thread_track

__all__ = ("Counters", "Meter", "Tally")

DRAIN_AFTER = SECOND // 4
"""Nanoseconds after which a thread sorts its durations into buckets itself: nobody else may be there to do it."""


@dataclass(slots=True)
class Counters:
    """What a stage has done since it began, and what it does at this moment. Times are in nanoseconds.

    Attributes:
        items: how many it has finished.
        errors: how many calls ended with an exception.
        retries: how many times something was tried again.
        drops: how many items it has left out.
        nbytes: bytes that it has said to have handled.
        busy: time that it was at work, of all servers together, calls of functions that are under way included.
        starved: time that it waited for input, of all servers together; None if that is not measured.
        blocked: time that it waited to hand on what it had finished; None if that is not measured.
        on_loop: time that it held an event loop.
        outside: time that its calls took as seen from outside, waiting for a thread of a pool included; of
            ``outside_items`` calls.
        total: time that the finished items took.
        latencies: how long the finished items took, of shape ``(960,)``; see ``asynchub.pipeline.histogram``.
        slowest: time that the slowest took that was finished since the last reading.
        under_way: time that calls which are under way have taken so far.
        in_flight: how many those are.
        servers: how many worked at once, at most, since the last reading.
        offered: time of all servers together since the first reading, at work or not; None if it was not told how many
            there are.
        last: when it finished its last item; 0 if it has finished none.
        oldest: since when the oldest of the calls has been under way; 0 if there is none.
    """

    items: int = 0
    errors: int = 0
    retries: int = 0
    drops: int = 0
    nbytes: int = 0
    busy: int = 0
    starved: int | None = None
    blocked: int | None = None
    on_loop: int = 0
    outside: int = 0
    outside_items: int = 0
    total: int = 0
    latencies: Counts = field(default_factory=empty)
    slowest: int = 0
    under_way: int = 0
    in_flight: int = 0
    servers: int = 0
    offered: int | None = None
    last: int = 0
    oldest: int = 0


class Tally:
    """What one thread has counted of one stage.

    Attributes:
        drained: finished items that are sorted into buckets.
        due: when those that are not are to be, at the latest.
        errors: calls that ended with an exception.
        busy: time of calls that did not return; that of the others is that of the items, less ``nested``.
        nested: time of other stages in the calls of functions.
        starved: time that it waited for what it iterates over.
        blocked: time between two of its calls.
        on_loop: time that it held the event loop.
        nbytes: bytes.
        since: when the call that is under way began; 0 if none is. Of plain functions.
        open: of each call of an async function that is under way, by a number: when it began, and the coroutine.
        calls: how many calls of async functions there were.
        peak: how many of them were under way at once, at most, since the last reading.
        last: when the last item was finished.
        durations: of finished items, not sorted into buckets yet.
        record: appends one.
        track: of its thread.
        long: whether the last call of an async function took its time.
    """

    __slots__ = (
        "_items_before",
        "_lock",
        "_thread",
        "blocked",
        "busy",
        "calls",
        "drained",
        "due",
        "durations",
        "errors",
        "ident",
        "last",
        "latencies",
        "long",
        "nbytes",
        "nested",
        "on_loop",
        "open",
        "peak",
        "record",
        "since",
        "slowest",
        "starved",
        "total",
        "track",
    )

    def __init__(self) -> None:
        self.drained = self.errors = self.nbytes = self.nested = 0
        self.due = clock() + DRAIN_AFTER
        self.busy = self.starved = self.blocked = self.on_loop = 0
        self.since = self.last = self.calls = self.peak = 0
        self.open: dict[int, tuple[int, Any]] = {}
        self.durations = array("q")
        self.record = self.durations.append
        self.latencies = empty()
        self.total = self.slowest = 0
        self.long = False
        self.track = thread_track()
        self.ident = threading.get_ident()
        self._thread = weakref.ref(threading.current_thread())
        self._lock = threading.Lock()
        self._items_before = 0

    @property
    def items(self) -> int:
        """Finished items."""
        return self.drained + len(self.durations)

    def drain(self, *, wait: bool = False) -> None:
        """Sort what was measured into buckets. Any thread may call this, while its own goes on measuring.

        Args:
            wait: whether to wait if another thread is at it.
        """
        if not self._lock.acquire(blocking=wait):
            return
        try:
            self.due = clock() + DRAIN_AFTER
            durations = self.durations
            number = len(durations)
            if not number:
                return
            taken = np.frombuffer(durations[:number], np.int64)
            del durations[:number]  # the thread only appends, and no slice of an array lets it in between
            self.latencies += np.bincount(indices(taken), minlength=BUCKETS)
            self.total += int(taken.sum())
            self.drained += number
            self.slowest = max(self.slowest, int(taken.max()))
        finally:
            self._lock.release()

    def forked(self) -> None:
        """Go on in a child process, whose other threads are gone."""
        self._lock = threading.Lock()
        self.ident = threading.get_ident()
        self._thread = weakref.ref(threading.current_thread())

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        thread = self._thread()
        return thread is None or not thread.is_alive()

    def add_to(self, counters: Counters, now: int) -> None:
        """Add what it has counted to ``counters``."""
        self.drain(wait=True)
        counters.items += self.drained
        counters.errors += self.errors
        counters.nbytes += self.nbytes
        counters.on_loop += self.on_loop
        counters.total += self.total
        counters.latencies += self.latencies
        counters.slowest, self.slowest = max(counters.slowest, self.slowest), 0
        counters.last = max(counters.last, self.last)
        busy, since = self.busy + self.total - self.nested, self.since
        under_way = [start for start, _ in list(self.open.values())]
        if since:
            under_way.append(since)
        so_far = sum(max(now - start, 0) for start in under_way)
        counters.busy += busy + so_far
        counters.under_way += so_far
        counters.in_flight += len(under_way)
        if under_way:
            counters.oldest = min([*under_way, counters.oldest or now])
        active = self.drained + self.errors != self._items_before or bool(under_way)
        self._items_before = self.drained + self.errors
        counters.servers += max(self.peak, 1) if active else 0
        self.peak = len(self.open)


class Meter:
    """The counts of one stage.

    Args:
        name: of the stage.
        concurrency: how many items it can do at once; None for as many as it was seen doing.
        see_loop: called, in its thread, with each event loop that its async functions run on.

    Attributes:
        parent: the stage in whose calls its own took place, in the same task; None if there is none.
        waits: whether its own time is spent waiting for other threads or processes, not working.
        loop_track: of the thread in which its async functions are called.
        pulls: whether it is an iterator, which waits in the calls of what it iterates over.
    """

    def __init__(
        self,
        name: str,
        concurrency: int | None = None,
        see_loop: Callable[[LoopHandle], object] = lambda loop: None,
    ) -> None:
        self.name = name
        self._see_loop = see_loop
        self.concurrency = concurrency
        self.parent: Meter | None = None
        self.waits = False
        self.loop_track: ThreadTrack | None = None
        self.outside = self.outside_items = 0
        self.starving: list[Callable[[int], int]] = []
        """Functions that return, at a given moment, how long it has waited for input so far."""
        self.blocking: list[Callable[[int], int]] = []
        """Functions that return how long it has waited to hand on items so far."""
        self.group = ""
        """Name of the servers that it shares with other stages; empty if it has its own."""
        self.pulls = False
        self._iterators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._tallies: list[Tally] = []
        self.local = threading.local()
        """Has the ``tally`` of each thread, once ``tally()`` was called in it."""
        self._offered = self._offered_until = 0
        self._retries = 0
        self._drops: dict[str, int] = {}
        self._lock = threading.Lock()

    def tally(self) -> Tally:
        """Return the tally of the calling thread."""
        try:
            return self.local.tally  # type: ignore[no-any-return]
        except AttributeError:
            tally = self.local.tally = Tally()
            with self._lock:
                self._tallies.append(tally)
            return tally

    def task_track(self, tally: Tally) -> Track:
        """Return the track of the running task, and take note of its event loop; ``tally`` is that of the thread."""
        track, before = tally.track, tally.track.loop
        found = track.of_task()
        if track.loop is not before or self.loop_track is None:
            self.loop_track = track
            if track.loop is not None:
                self._see_loop(track.loop)
        return found

    def pulled_by(self, iterator: Any) -> None:
        """Say that it is an iterator, which waits in the calls of what it iterates over, and between its own.

        Args:
            iterator: it has ``since``, when its call that is under way began, 0 if none is; ``ident``, of the thread;
                and ``waits_for``, the coroutine, or None.
        """
        self.pulls = True
        with self._lock:
            self._iterators.add(iterator)

    def count_retries(self, number: int) -> None:
        """Count what was tried again."""
        with self._lock:
            self._retries += number

    def count_drops(self, reason: str, number: int) -> None:
        """Count items that were left out."""
        with self._lock:
            self._drops[reason] = self._drops.get(reason, 0) + number

    @property
    def dropped(self) -> dict[str, int]:
        """How many items were left out, by the reason for it."""
        with self._lock:
            return dict(self._drops)

    def under_way(self) -> list[tuple[int, int, Any]]:
        """Return of each call under way since when, the identifier of its thread, and its coroutine, or None."""
        found: list[tuple[int, int, Any]] = []
        for tally in self._tallies.copy():
            if since := tally.since:
                found.append((since, tally.ident, None))
            found += [(start, tally.ident, coroutine) for start, coroutine in list(tally.open.values())]
        found += [(one.since, one.ident, one.waits_for) for one in self._pulling() if one.since]
        return sorted(found, key=lambda call: call[0])

    def _pulling(self) -> list[Any]:
        """Return the iterators that are alive."""
        with self._lock:
            return list(self._iterators)

    def latencies(self) -> Counts:
        """Return how long finished items took, of shape ``(960,)``."""
        counts = empty()
        with self._lock:
            for tally in self._tallies:
                tally.drain(wait=True)
                counts += tally.latencies
        return counts

    def counters(self, now: int) -> Counters:
        """Return what it has counted so far."""
        with self._lock:
            self._retire()
            counters = Counters(retries=self._retries, drops=sum(self._drops.values()))
            if self.concurrency is not None:
                self._offered += self.concurrency * (now - (self._offered_until or now))
                self._offered_until, counters.offered = now, self._offered
            for tally in self._tallies:
                tally.add_to(counters, now)
            for since in [one.since for one in self._iterators]:
                if since:  # how much of that is its own shows when the call ends
                    counters.in_flight += 1
                    counters.under_way += max(now - since, 0)
                    counters.oldest = min(since, counters.oldest or since)
            if self.pulls:
                counters.starved = sum(tally.starved for tally in self._tallies)
                if self.waits:
                    counters.starved += counters.total
                    counters.busy -= counters.total
                counters.blocked = sum(tally.blocked for tally in self._tallies)
        counters.outside, counters.outside_items = self.outside, self.outside_items
        if self.starving:
            counters.starved = (counters.starved or 0) + sum(waited(now) for waited in self.starving)
        if self.blocking:
            counters.blocked = (counters.blocked or 0) + sum(waited(now) for waited in self.blocking)
        return counters

    def _retire(self) -> None:
        """Put the tallies of threads that have ended into one."""
        ended = [tally for tally in self._tallies if tally.ended]
        if len(ended) < 2:
            return
        first, *others = ended
        first.drain(wait=True)
        for tally in others:
            tally.drain(wait=True)
            for name in ("drained", "nested", "errors", "nbytes", "busy", "starved", "blocked", "on_loop", "total"):
                setattr(first, name, getattr(first, name) + getattr(tally, name))
            first.latencies += tally.latencies
            first.slowest = max(first.slowest, tally.slowest)
            first.last = max(first.last, tally.last)
            first._items_before += tally._items_before
            self._tallies.remove(tally)

    def forked(self) -> None:
        """Go on in a child process."""
        self._lock = threading.Lock()
        for tally in self._tallies:
            tally.forked()
