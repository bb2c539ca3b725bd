"""Counting what a worker process does, in its row of shared memory.

Cost: of a sample one count in a bucket; the rest is written once per batch, and once in a quarter of a second.
Whole: whoever reads sees a batch's numbers all, or none of them; see ``asynchub.pipeline.worker_rows``.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Sequence
from typing import Any

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.histogram import bucket_of
from asynchub.pipeline.worker_dumps import DumpFile
from asynchub.pipeline.worker_rows import (
    DATASET,
    DOING,
    DUMPS,
    FETCHING,
    PID,
    READINGS,
    TIMED,
    UNSEEN,
    VERSION,
    WAITED,
    WAITING,
    Part,
    doing,
)

__all__ = ("FLUSH_AFTER", "WorkerTally")

FLUSH_AFTER = SECOND // 4
"""Nanoseconds after which counts are written in the middle of a batch."""


class WorkerTally:
    """What a worker counts. Made in the main process, from which each worker gets a copy.

    Args:
        rows: a tensor in shared memory, of shape ``(workers + 1, ROW)``.
        dumps: where a worker writes its stack to when it is asked for it; None for nowhere.

    Attributes:
        state: what the worker does.
        since: when that began, or was written last.
        samples: nanoseconds that samples took which are finished and not written yet.
    """

    def __init__(self, rows: Any, dumps: DumpFile | None) -> None:
        self._rows = rows
        self._dumps = dumps
        self._row: Any = None
        self._reader: Any = None
        self._idle = self.state = WAITING
        self.since = 0
        self.samples: list[int] = []

    def begin(self, number: int, *, timed: bool) -> None:
        """Begin to count, in the process of worker ``number``; ``timed`` tells whether its dataset is timed."""
        table = self._rows.numpy()
        self._row = row = memoryview(table[number])
        self._reader = memoryview(table[-1])
        self._idle = WAITING if timed else UNSEEN
        row[PID], row[TIMED] = os.getpid(), timed
        if self._dumps is not None and hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, file=self._dumps.descriptor, all_threads=True)
            row[DUMPS] = 1
        self._move(self._idle, clock())

    @property
    def counts(self) -> bool:
        """Whether it has begun."""
        return self._row is not None

    def begins(self, state: int) -> int:
        """Say that it is at work now; return the moment. What it was at before is written."""
        now, row = clock(), self._row
        row[VERSION] += 1
        if self.state == FETCHING:
            self._write(DATASET, now, self.samples)
            self.samples.clear()
        elif self.state == WAITING:
            row[WAITED] += now - self.since
        self._move(state, now)
        row[VERSION] += 1
        return now

    def flush(self, now: int) -> int:
        """Write what is known of samples, in the middle of a batch; return when to do it again."""
        self._row[VERSION] += 1
        self._write(DATASET, now, self.samples)
        self.samples.clear()
        self._move(FETCHING, now)
        self._row[VERSION] += 1
        return now + FLUSH_AFTER

    def ended(self, part: Part, now: int, times: Sequence[int] = (), *, error: bool = False) -> None:
        """Write that its work is over: it waits.

        Args:
            part: of the row.
            now: the moment.
            times: nanoseconds that each finished item took.
            error: whether it ended with an exception.
        """
        row = self._row
        row[VERSION] += 1
        self._write(part, now, times)
        row[part.errors] += error
        self.samples.clear()
        self._move(self._idle, now)
        row[VERSION] += 1

    def batch_fetched(self, now: int, number: int) -> None:
        """Write that the dataset has fetched ``number`` samples at once, each of which took the same share."""
        row, took = self._row, now - self.since
        row[VERSION] += 1
        if number > 0:
            self._write(DATASET, now, (took // number,), number)
            row[DATASET.total] += took % number
        self._move(FETCHING, now)
        row[VERSION] += 1

    def _write(self, part: Part, now: int, times: Sequence[int], number: int = 1) -> None:
        row = self._row
        row[part.busy] += now - self.since
        if not times:
            return
        row[part.items] += number * len(times)
        row[part.total] += number * sum(times)
        row[part.last] = now
        reading, slowest = self._reader[READINGS], max(times)
        if row[part.slowest_of] != reading or slowest > row[part.slowest]:
            row[part.slowest], row[part.slowest_of] = slowest, reading
        buckets = part.buckets
        for time in times:
            shift = time.bit_length() - 5  # as in histogram.bucket_of, whose call would cost as much again
            row[buckets + ((shift << 4) + (time >> shift) if shift > 0 else bucket_of(time))] += number

    def _move(self, state: int, now: int) -> None:
        self.state, self.since = state, now
        self._row[DOING] = doing(state, now)
