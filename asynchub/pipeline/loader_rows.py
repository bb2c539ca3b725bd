"""What all workers of a loader have done, read from their rows: of this iteration, and of those before.

Restarts: an iteration has rows of its own. When its workers have ended, what they did is added to what was done before,
    and the rows are given back: two iterations at once do not share a row, and no count goes back.
Threads: any thread may read.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import numpy as np

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.histogram import empty
from asynchub.pipeline.worker_dumps import DumpFile
from asynchub.pipeline.worker_rows import (
    COLLATE,
    COLLATING,
    DATASET,
    DOING,
    FETCHING,
    READINGS,
    ROW,
    STATES,
    WAITED,
    WAITING,
    Part,
    Row,
    buckets,
    done,
    read_row,
)

__all__ = ("Generation", "Rows", "Sums", "WorkerRow")

GONE_FOR = 5 * SECOND
"""Nanoseconds after the end of an iteration from which its workers have ended, whatever they seem."""
WORK = {FETCHING: DATASET, COLLATING: COLLATE}


class WorkerRow:
    """What one worker has done.

    Args:
        number: of the worker.
        numbers: a copy of its row.
        now: the moment.
        ended: when it was seen to have ended; 0 if it has not.

    Attributes:
        number: of the worker.
        numbers: as in ``asynchub.pipeline.worker_rows``; times at work and of waiting include what is under way.
        at: the part that it is at work on; None if it is not.
        state: what it does, in a word.
        since: since when.
        age: nanoseconds that it has done that.
    """

    __slots__ = ("age", "at", "number", "numbers", "since", "state")

    def __init__(self, number: int, numbers: Row, now: int, ended: int) -> None:
        self.number = number
        self.numbers = numbers
        state, self.since = done(int(numbers[DOING]))
        self.age = max((ended or now) - self.since, 0) if self.since else 0
        at = WORK.get(state)
        if at is not None:
            numbers[at.busy] += self.age
        elif state == WAITING:
            numbers[WAITED] += self.age
        self.at = None if ended else at
        self.state = STATES[-1] if ended else STATES[state]
        if ended:
            self.since, self.age = ended, now - ended


class Generation:
    """The workers of one iteration over a loader; persistent ones of all iterations.

    Args:
        rows: a tensor in shared memory, of shape ``(workers + 1, ROW)``.
        dumps: where the workers write their stacks to; None for nowhere.

    Attributes:
        dumps: where the workers write their stacks to; None for nowhere.
    """

    def __init__(self, rows: Any, dumps: DumpFile | None) -> None:
        self.dumps = dumps
        self._table: Any = rows.numpy()  # which holds the tensor
        self._processes: list[Any] = []
        self._iterator: weakref.ref[Any] | None = None
        self._ended: dict[int, int] = {}
        self._gone = 0

    def started(self, iterator: Any) -> None:
        """Say that its workers run, for an iterator of torch."""
        self._iterator = weakref.ref(iterator)
        self._processes = list(getattr(iterator, "_workers", ()))  # private: without it, ends are seen later

    def end(self) -> None:
        """Say that it is over, whatever its workers do."""
        now = clock()
        self._ended |= {number: now for number in range(self.size) if number not in self._ended}

    @property
    def iterator(self) -> Any:
        """The iterator; None if it is gone, or has shut down."""
        iterator = None if self._iterator is None else self._iterator()
        return None if getattr(iterator, "_shutdown", False) else iterator  # private: without it, until it is gone

    def process(self, number: int) -> Any:
        """Return the process of a worker; None if it is not known."""
        return self._processes[number] if number < len(self._processes) else None

    @property
    def size(self) -> int:
        """How many workers it has."""
        return len(self._table) - 1

    @property
    def over(self) -> bool:
        """Whether all its workers have ended."""
        return len(self._ended) == self.size

    def read(self, now: int) -> list[WorkerRow]:
        """Take note of workers that have ended; return what each has done."""
        self._see_ends(now)
        return self.look(now)

    def look(self, now: int = 0) -> list[WorkerRow]:
        """Return what each worker has done; with its age if ``now`` is given."""
        ended = self._ended
        return [
            WorkerRow(number, read_row(self._table[number]), now, ended.get(number, 0)) for number in range(self.size)
        ]

    def latencies(self, part: Part) -> Row:
        """Return how long finished items took, of shape ``(960,)``."""
        counts = empty()
        for row in self._table[:-1]:
            counts += buckets(read_row(row), part)
        return counts

    def slowest(self, part: Part) -> int:
        """Return the nanoseconds that the slowest item took of those finished since ``next_reading``."""
        rows = self._table[:-1]
        fresh = rows[:, part.slowest_of] == self._table[-1, READINGS]
        return int(rows[fresh, part.slowest].max(initial=0))

    def next_reading(self) -> None:
        """Have workers look for the slowest items anew."""
        self._table[-1, READINGS] += 1

    def _see_ends(self, now: int) -> None:
        """Take note of workers that have ended.

        Their ends are looked at from outside: ``Process.is_alive`` would fetch an exit status in this thread that the
        program's own thread waits for.
        """
        if self._iterator is None or self.over:
            return
        left = {process.sentinel: number for number, process in enumerate(self._processes) if number not in self._ended}
        try:
            for sentinel in connection.wait(list(left), timeout=0):
                self._ended[left[sentinel]] = now
        except (OSError, ValueError):  # torch closes them at this moment
            self._gone = self._gone or now
        if self.iterator is None:
            self._gone = self._gone or now
            if not self._processes or now - self._gone > GONE_FOR:
                self.end()


@dataclass(slots=True)
class Sums:
    """What all workers have done, added up.

    Attributes:
        numbers: the sums, as in ``asynchub.pipeline.worker_rows``.
        slowest: of each part the nanoseconds that the slowest item took, of those finished since the last reading.
        last: of each part when the last item was finished; 0 if none was.
        rows: those that were read.
    """

    numbers: Row = field(default_factory=lambda: np.zeros(ROW, np.int64))
    slowest: dict[Part, int] = field(default_factory=lambda: {DATASET: 0, COLLATE: 0})
    last: dict[Part, int] = field(default_factory=lambda: {DATASET: 0, COLLATE: 0})
    rows: list[WorkerRow] = field(default_factory=list)

    def add(self, rows: list[WorkerRow]) -> None:
        """Add what workers have done."""
        for row in rows:
            self.numbers += row.numbers
            for part in self.last:
                self.last[part] = max(self.last[part], int(row.numbers[part.last]))
        self.rows += rows


class Rows:
    """All workers of a loader, of all iterations so far."""

    def __init__(self) -> None:
        self._generations: list[Generation] = []
        self._before = Sums()
        self._sums = Sums()
        self._at = -1
        self._lock = threading.Lock()

    def add(self, generation: Generation) -> None:
        """Add the workers of an iteration that begins."""
        with self._lock:
            self._generations.append(generation)
            self._at = -1

    def live(self) -> list[Generation]:
        """Return the iterations that are not over, the newest first."""
        with self._lock:
            return self._generations[::-1]

    def sums(self, now: int) -> Sums:
        """Return what all workers have done; the same object as long as ``now`` is the same."""
        with self._lock:
            if now == self._at:
                return self._sums
            before = self._before
            self._at, self._sums = now, Sums(before.numbers.copy(), last=before.last.copy())
            for generation in self._generations.copy():
                rows = generation.read(now)
                self._sums.add(rows)
                for part in self._sums.slowest:
                    self._sums.slowest[part] = max(self._sums.slowest[part], generation.slowest(part))
                generation.next_reading()
                if generation.over:
                    self._generations.remove(generation)
                    before.add(rows)
                    before.rows.clear()
            return self._sums

    def latencies(self, part: Part) -> Row:
        """Return how long finished items took, of shape ``(960,)``."""
        with self._lock:
            found = buckets(self._before.numbers, part).copy()
            for generation in self._generations:
                found += generation.latencies(part)
            return found

    def end(self) -> None:
        """Read no more of what workers do."""
        for generation in self.live():
            generation.end()

    def forked(self) -> None:
        """Forget all: this is a child process, whose workers these are not."""
        self._lock = threading.Lock()
        self._generations, self._at = [], -1
