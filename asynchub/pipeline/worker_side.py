"""What runs in a worker process of a DataLoader: it times the dataset and the collate function.

Cost: per sample one reading of the clock and one count in a bucket; the rest once per batch.
Transparent: the dataset stays an instance of its class, has the same attributes, and raises what it raises; what draws
    random numbers is not touched.
Limits: a dataset whose class cannot be changed (a list, say) is not timed, its collate function is. A call that a dataset
    makes of itself is part of the sample that it was made for.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from torch.utils.data import IterDataPipe, MapDataPipe, get_worker_info

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.histogram import BUCKETS, bucket_of
from asynchub.pipeline.worker_dumps import DumpFile
from asynchub.pipeline.worker_rows import (
    COLLATE,
    COLLATING,
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

__all__ = ("Collate", "WorkerInit", "WorkerSide")

FLUSH_AFTER = SECOND // 4
"""Nanoseconds after which counts are written in the middle of a batch."""
TRIFLE = 2_000
"""Nanoseconds: samples of a batch that took less each on average are not timed one by one in the next."""


class WorkerSide:
    """Counts for one worker, in its row.

    Made in the main process, from which each worker gets its copy.

    Args:
        rows: a tensor in shared memory, of shape ``(workers + 1, ROW)``.
        dumps: where a worker writes its stack to when it is asked for it; None for nowhere.
        iterable: whether the dataset is iterated over, not indexed.
        batched: whether the loader makes batches of samples, and not the dataset itself.
    """

    def __init__(self, rows: Any, dumps: DumpFile | None, *, iterable: bool, batched: bool) -> None:
        self._rows = rows
        self._dumps = dumps
        self._iterable = iterable
        self._batched = batched
        self._row: Any = None
        self._idle = WAITING
        self.fine = True

    def begin(self, number: int) -> None:
        """Begin to count, in the process of a worker."""
        table = self._rows.numpy()
        self._row = row = memoryview(table[number])
        self._reader = memoryview(table[-1])
        self._since = clock()
        self._state = WAITING
        row[PID] = os.getpid()
        if self._dumps is not None and hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, file=self._dumps.descriptor, all_threads=True)
            row[DUMPS] = 1
        if _timed(self):
            row[TIMED] = 1
        else:
            self._idle = UNSEEN
        self._move(self._idle, self._since)

    def begins(self, state: int) -> int:
        """Say that it is at work on a batch; return when that began; 0 if it does not count."""
        row = self._row
        if row is None:
            return 0
        now = clock()
        row[VERSION] += 1
        if self._state == WAITING:
            row[WAITED] += now - self._since
        self._move(state, now)
        row[VERSION] += 1
        return now

    def ended(self, part: Part, now: int, times: Sequence[int], *, error: bool = False, after: int | None = None) -> None:
        """Write what was done since ``begins``, or since this was called last.

        Args:
            part: of the row.
            now: the moment.
            times: nanoseconds that each finished item took.
            error: whether it ended with an exception.
            after: what it does from now on; by default it waits.
        """
        row, reading = self._row, self._reader[READINGS]
        row[VERSION] += 1
        row[part.busy] += now - self._since
        row[part.errors] += error
        if times:
            row[part.items] += len(times)
            row[part.total] += sum(times)
            row[part.last] = now
            slowest = max(times)
            if row[part.slowest_of] != reading or slowest > row[part.slowest]:
                row[part.slowest], row[part.slowest_of] = slowest, reading
            buckets = part.buckets
            for time in times:
                shift = time.bit_length() - 5  # as in histogram.bucket_of, whose call would cost as much again
                row[buckets + ((shift << 4) + (time >> shift) if shift > 0 else bucket_of(time))] += 1
        self._move(self._idle if after is None else after, now)
        row[VERSION] += 1

    def batch_ended(self, now: int, number: int, *, error: bool = False) -> None:
        """Write that the dataset itself handled a batch of ``number`` samples: each took the same share of the time."""
        row, reading = self._row, self._reader[READINGS]
        row[VERSION] += 1
        took = now - self._since
        row[DATASET.busy] += took
        row[DATASET.errors] += error
        if number:
            each = took // number
            row[DATASET.items] += number
            row[DATASET.total] += took
            row[DATASET.last] = now
            if row[DATASET.slowest_of] != reading or each > row[DATASET.slowest]:
                row[DATASET.slowest], row[DATASET.slowest_of] = each, reading
            row[DATASET.buckets + min(bucket_of(each), BUCKETS - 1)] += number
        self._move(self._idle, now)
        row[VERSION] += 1

    @property
    def since(self) -> int:
        """When the state that it is in began."""
        return self._since

    def _move(self, state: int, now: int) -> None:
        self._state, self._since = state, now
        self._row[DOING] = doing(state, now)


class WorkerInit:
    """The function that a worker calls first: the loader's own, if it has one, then ``WorkerSide.begin``."""

    def __init__(self, side: WorkerSide, function: Callable[[int], object] | None) -> None:
        self._side = side
        self._function = function

    def __call__(self, number: int) -> None:
        if self._function is not None:
            self._function(number)
        self._side.begin(number)


class Collate:
    """The loader's collate function, timed."""

    def __init__(self, side: WorkerSide, function: Callable[[Any], Any]) -> None:
        self._side = side
        self._function = function

    def __call__(self, data: Any) -> Any:
        side = self._side
        start = side.begins(COLLATING)
        if not start:
            return self._function(data)
        try:
            batch = self._function(data)
        except BaseException:
            side.ended(COLLATE, clock(), (), error=True)
            raise
        now = clock()
        side.ended(COLLATE, now, (now - start,))
        return batch


# --- the dataset


def _timed(side: WorkerSide) -> bool:
    """Have the dataset of this worker timed; return whether that can be done."""
    info = get_worker_info()
    dataset = None if info is None else info.dataset
    if dataset is None or isinstance(dataset, IterDataPipe | MapDataPipe):  # those check who is iterated over
        return False
    own = type(dataset)
    if side._iterable:
        methods: dict[str, Any] = {"__iter__": _iterated(side, own)}
    elif not side._batched:
        methods = {"__getitem__": _item_by_item(side, own)}
    elif handles := getattr(dataset, "__getitems__", None):  # the test of torch's own fetcher
        methods = {"__getitems__": _whole_batches(side, handles)}
    else:
        methods = {"__getitems__": _samples(side, own)}
    methods |= {
        "__slots__": (),
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "__reduce_ex__": _reduced_as(own),
    }
    try:
        dataset.__class__ = type(own)(own.__name__, (own,), methods)
    except Exception:  # of a class that is built in, that is final, or that refuses in a way of its own
        return False
    return True


def _samples(side: WorkerSide, own: Any) -> Callable[[Any, Sequence[Any]], list[Any]]:
    def __getitems__(self: Any, indices: Sequence[Any]) -> list[Any]:
        get = own.__getitem__
        start = side.begins(FETCHING)
        found: list[Any] = []
        times: list[int] = []
        append, measured = found.append, times.append
        due = start + FLUSH_AFTER
        try:
            if side.fine:
                for index in indices:
                    append(get(self, index))
                    now = clock()
                    measured(now - start)
                    start = now
                    if now > due:
                        side.ended(DATASET, now, times, after=FETCHING)
                        times.clear()
                        due = now + FLUSH_AFTER
            else:
                for index in indices:
                    append(get(self, index))
        except BaseException:
            side.ended(DATASET, clock(), times, error=True)
            raise
        now = clock()
        number = len(found)
        if side.fine:
            side.fine = sum(times) >= TRIFLE * len(times)
            side.ended(DATASET, now, times)
        else:
            side.fine = now - side.since >= TRIFLE * number
            side.batch_ended(now, number)
        return found

    return __getitems__


def _whole_batches(side: WorkerSide, handles: Callable[[Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    def __getitems__(self: Any, indices: Sequence[Any]) -> Any:
        side.begins(FETCHING)
        try:
            found = handles(indices)
        except BaseException:
            side.batch_ended(clock(), 0, error=True)
            raise
        side.batch_ended(clock(), len(indices))
        return found

    return __getitems__


def _item_by_item(side: WorkerSide, own: Any) -> Callable[[Any, Any], Any]:
    nested = False

    def __getitem__(self: Any, index: Any) -> Any:
        nonlocal nested
        if nested:  # a dataset that asks itself for another sample, because this one is broken
            return own.__getitem__(self, index)
        nested = True
        start = side.begins(FETCHING)
        try:
            found = own.__getitem__(self, index)
        except BaseException:
            side.ended(DATASET, clock(), (), error=True)
            raise
        finally:
            nested = False
        now = clock()
        side.ended(DATASET, now, (now - start,))
        return found

    return __getitem__


def _iterated(side: WorkerSide, own: Any) -> Callable[[Any], Iterator[Any]]:
    def __iter__(self: Any) -> Iterator[Any]:
        return _Samples(side, own.__iter__(self))

    return __iter__


class _Samples(Iterator[Any]):
    """The iterator of a dataset; in all but its time what it stands for."""

    def __init__(self, side: WorkerSide, iterator: Iterator[Any]) -> None:
        self._side = side
        self._iterator = iterator
        self._next = iterator.__next__

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        side = self._side
        start = side.begins(FETCHING)
        try:
            item = self._next()
        except StopIteration:
            side.ended(DATASET, clock(), ())
            raise
        except BaseException:
            side.ended(DATASET, clock(), (), error=True)
            raise
        now = clock()
        side.ended(DATASET, now, (now - start,))
        return item

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._iterator, name)


def _reduced_as(own: type) -> Callable[[Any, Any], Any]:
    """Return a method that has an object copied and pickled as one of its own class: that here is known nowhere else."""

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        timed = type(self)
        self.__class__ = own
        try:
            return self.__reduce_ex__(protocol)
        finally:
            self.__class__ = timed

    return __reduce_ex__
