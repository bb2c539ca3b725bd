"""Where in shared memory a worker process writes what it has done: one row of 64-bit integers for each worker.

Single writer: a worker writes to its own row, and nobody else does; the process that reads has a row of its own, the
    last, in which it counts its readings. So there is no lock, no queue and no thread in a worker.
Whole: ``VERSION`` is odd while a worker writes. A reader that sees it odd, or changed, looks again, a few times: a
    worker that was killed while it wrote leaves it odd for ever.
Time: nanoseconds of ``time.perf_counter_ns``, on Linux one clock for all processes.
Never less: counts only grow, as long as the iteration lasts that the rows were made for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asynchub.pipeline.histogram import BUCKETS

__all__ = (
    "BATCHES",
    "COLLATE",
    "COLLATING",
    "DATASET",
    "DOING",
    "DUMPS",
    "FETCHING",
    "PID",
    "READINGS",
    "ROW",
    "SAMPLES",
    "STATES",
    "TIMED",
    "UNSEEN",
    "VERSION",
    "WAITED",
    "WAITING",
    "Part",
    "Row",
    "buckets",
    "doing",
    "done",
    "read_row",
)

Row = NDArray[np.int64]
"""Numbers of one worker, of shape ``(ROW,)``."""

VERSION, PID, DOING, WAITED, TIMED, DUMPS, READINGS = range(7)
"""``DOING``: what the worker does, and since when, in one number. ``WAITED``: time that it waited for orders.
``TIMED``: 1 if its dataset is timed. ``DUMPS``: 1 if it writes its stack when it is sent ``SIGUSR1``. ``READINGS``, in
the reader's row: how often it has read."""


class Part(NamedTuple):
    """Where the numbers of one of the two stages of a worker stand.

    Attributes:
        items: finished: samples of the dataset, batches of the collate function.
        errors: calls that raised.
        busy: time at work, that of finished items and of others.
        total: time that finished items took.
        last: when the last was finished.
        slowest: time that the slowest took, of those finished since reading number ``slowest_of``.
        slowest_of: number of a reading.
        buckets: of the first bucket; the others follow.
    """

    items: int
    errors: int
    busy: int
    total: int
    last: int
    slowest: int
    slowest_of: int
    buckets: int


DATASET = Part(8, 9, 10, 11, 12, 13, 14, 32)
COLLATE = Part(16, 17, 18, 19, 20, 21, 22, 32 + BUCKETS)
SAMPLES, BATCHES = DATASET.items, COLLATE.items
ROW = 64 + 2 * BUCKETS
"""Numbers in a row: 15.5 KiB, whole cache lines, so that no worker writes to one of another's."""

STARTING, WAITING, FETCHING, COLLATING, UNSEEN = range(5)
STATES = ("starting", "waiting", "dataset", "collate", "not measured", "ended")
"""What a worker does, in words; the last is only known from outside."""
_BITS = 3


def buckets(row: Row, part: Part) -> Row:
    """Return how many items took how long, of shape ``(960,)``: a view of a row."""
    return row[part.buckets : part.buckets + BUCKETS]


def doing(state: int, since: int) -> int:
    """Return a state and since when in one number, which is written in one go."""
    return since << _BITS | state


def done(number: int) -> tuple[int, int]:
    """Return the state, and since when; the moment is 0 for a worker that has not begun."""
    return number & (1 << _BITS) - 1, number >> _BITS


def read_row(row: Row) -> Row:
    """Return a copy of a row that its worker did not write to meanwhile."""
    copy = row.copy()
    for _ in range(20):
        version = int(copy[VERSION])
        if not version & 1 and int(row[VERSION]) == version:
            break
        copy = row.copy()
    return copy
