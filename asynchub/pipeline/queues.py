"""What is between two stages: how full it is, and who waits there.

Sampled: depths are looked at ten times per interval, from the pipeline's own thread; a queue does nothing for it.
    One that raises when it is asked counts as gone; what it raises is logged once.
Measured: of channels, and of SPDL's queues, also how long each side waited.

Source:
    Little's law, L = X T: the mean time that an item spends in a queue is the mean depth divided by the throughput.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asynchub.errors import ArgumentError
from asynchub.pipeline.clock import clock
from asynchub.pipeline.tally import Meter

__all__ = ("QueueCounters", "QueueMeter", "Spans", "depth_reader", "queue_size")

logger = logging.getLogger("asynchub")


@dataclass(slots=True)
class QueueCounters:
    """What was seen of a queue so far.

    Attributes:
        looks: how often its depth was looked at.
        depths: sum of the depths seen.
        nonempty: looks at which there was something in it.
        full: looks at which there was no room in it.
        turns: times that it was seen empty after full, or full after empty.
        items: how many were taken from it; None if that is not counted.
        put_wait: nanoseconds that those who put in waited, together; None if that is not measured.
        get_wait: nanoseconds that those who took waited, together; None if that is not measured.
        occupied: nanoseconds in which there was something in it; None if that is not measured.
        depth: how many are in it now.
        capacity: how many it holds at most; None if there is no bound, or it is not known.
    """

    looks: int = 0
    depths: int = 0
    nonempty: int = 0
    full: int = 0
    turns: int = 0
    items: int | None = None
    put_wait: int | None = None
    get_wait: int | None = None
    occupied: int | None = None
    depth: int = 0
    capacity: int | None = None


class Spans:
    """How long several have waited, or worked, all together: those that still do included.

    One thread begins and ends; any may read.
    """

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = (0, 0, 0)
        """Time of those that have ended, how many have not, and the sum of when they began: in one, so read as one."""

    def begin(self) -> int:
        """Count one that begins now; return when that is."""
        now = clock()
        ended, number, starts = self._state
        self._state = (ended, number + 1, starts + now)
        return now

    def end(self, start: int) -> int:
        """Count that the one that began at ``start`` ends now; return when that is."""
        now = clock()
        ended, number, starts = self._state
        self._state = (ended + now - start, number - 1, starts - start)
        return now

    def so_far(self, now: int) -> int:
        """Return nanoseconds until ``now``."""
        ended, number, starts = self._state
        return ended + max(number * now - starts, 0)


class QueueMeter:
    """The figures of one queue.

    Args:
        name: of the queue.
        read: returns its depth and its capacity, or None if it is gone.
        after: the stage that puts in; None if it is not known.

    Attributes:
        after: the stage that puts in; None if it is not known.
        into: the stage that takes; None if it is not known.
        measure: returns what is measured of it, at a given time: items, put_wait, get_wait, occupied.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], tuple[int, int | None] | None],
        *,
        after: Meter | None = None,
        into: Meter | None = None,
        measure: Callable[[int], tuple[int | None, int | None, int | None, int | None]] | None = None,
    ) -> None:
        self.name = name
        self.after = after
        self.into = into
        self.measure = measure
        self._read = read
        self._seen = QueueCounters()
        self._extreme = ""
        self._failed = ""
        self._lock = threading.Lock()

    def _asked(self) -> tuple[int, int | None] | None:
        """Return its depth and its capacity; None if it is gone, or raises."""
        try:
            return self._read()
        except Exception as error:  # of code of others, which must not keep the rest from being looked at
            said = f"{type(error).__name__}: {error}"
            if said != self._failed:
                self._failed = said
                logger.exception("while looking at the queue %r", self.name)
            return None

    def look(self) -> None:
        """Look at its depth."""
        found = self._asked()
        if found is None:
            return
        depth, capacity = found
        with self._lock:
            seen = self._seen
            seen.looks += 1
            seen.depths += depth
            seen.nonempty += depth > 0
            seen.depth, seen.capacity = depth, capacity
            is_full = capacity is not None and capacity > 0 and depth >= capacity
            seen.full += is_full
            extreme = "full" if is_full else "" if depth else "empty"
            if extreme:
                seen.turns += self._extreme not in ("", extreme)
                self._extreme = extreme

    def depth(self) -> int:
        """Return how many are in it now; 0 if it is gone."""
        found = self._asked()
        return 0 if found is None else found[0]

    def counters(self, now: int) -> QueueCounters:
        """Return what was seen of it so far."""
        measured = (None, None, None, None) if self.measure is None else self.measure(now)
        with self._lock:
            seen = self._seen
            return QueueCounters(
                looks=seen.looks,
                depths=seen.depths,
                nonempty=seen.nonempty,
                full=seen.full,
                turns=seen.turns,
                items=measured[0],
                put_wait=measured[1],
                get_wait=measured[2],
                occupied=measured[3],
                depth=seen.depth,
                capacity=seen.capacity,
            )

    def forked(self) -> None:
        """Go on in a child process."""
        self._lock = threading.Lock()


def queue_size(queue: Any) -> int | None:
    """Return how many are in a queue of any library; None if it does not tell, or there is none."""
    try:
        return int(queue.qsize())
    except (AttributeError, NotImplementedError, OSError, ValueError):  # not on macOS for processes; or it is closed
        return None


def depth_reader(source: Any, capacity: int | None) -> Callable[[], tuple[int, int | None] | None]:
    """Return a function that returns the depth of a queue and how many it holds at most.

    Args:
        source: a function that returns a depth, or anyio's ``MemoryObjectStreamStatistics``; or a queue that has
            ``qsize``, and ``maxsize`` if it is bounded; or a memory object stream.
        capacity: how many it holds at most, if the source does not say.

    Raises:
        ArgumentError: ``source`` is none of these.
    """
    if hasattr(source, "qsize"):
        ask = source.qsize
        bound = getattr(source, "maxsize", 0)
        capacity = capacity if capacity is not None else bound if type(bound) is int and bound > 0 else None
    elif callable(getattr(source, "statistics", None)):
        ask = source.statistics
    elif callable(source):
        ask = source
    else:
        raise ArgumentError(
            f"a watched queue is one with qsize(), a memory object stream, or a function that returns a depth, got "
            f"{type(source).__name__}"
        )

    def read() -> tuple[int, int | None] | None:
        found = ask()
        if found is None:
            return None
        if hasattr(found, "current_buffer_used"):
            bound = found.max_buffer_size
            return found.current_buffer_used, capacity if bound == float("inf") else int(bound)
        return int(found), capacity

    return read
