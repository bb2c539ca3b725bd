"""What runs in a worker process of a DataLoader: its dataset and its collate function, timed.

Cost: one reading of the clock per sample; see ``asynchub.pipeline.worker_tally`` for the rest.
Transparent: the dataset stays an instance of its class, has the same attributes, and raises what it raises; copies of
    it are of its own class; what draws random numbers is not touched.
Limits: a dataset whose class cannot be changed (a list, say) is not timed, its collate function is. What a dataset asks
    itself for, while it makes a sample, is part of that sample.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Generator, Iterator, Sequence
from types import GeneratorType
from typing import Any, Self

from torch.utils.data import IterDataPipe, MapDataPipe, get_worker_info

from asynchub.pipeline.clock import clock
from asynchub.pipeline.worker_rows import COLLATE, COLLATING, DATASET, FETCHING
from asynchub.pipeline.worker_tally import FLUSH_AFTER, WorkerTally

__all__ = ("Collate", "WorkerInit", "time_dataset")

TRIFLE = 2_000
"""Nanoseconds: if samples of a batch took less each, on average, the next batch is timed as a whole."""


class WorkerInit:
    """The function that a worker calls first: the loader's own, if it has one; then counting begins.

    Args:
        tally: counts for the worker.
        function: the loader's own.
        iterable: whether the dataset is iterated over, not indexed.
        batched: whether the loader makes batches of samples, and not the dataset itself.
    """

    def __init__(
        self, tally: WorkerTally, function: Callable[[int], object] | None, *, iterable: bool, batched: bool
    ) -> None:
        self._tally = tally
        self._function = function
        self._iterable = iterable
        self._batched = batched

    def __call__(self, number: int) -> None:
        if self._function is not None:
            self._function(number)
        info = get_worker_info()
        timed = info is not None and time_dataset(
            info.dataset, self._tally, iterable=self._iterable, batched=self._batched
        )
        self._tally.begin(number, timed=timed)


class Collate:
    """The loader's collate function, timed.

    Args:
        tally: counts for the worker.
        function: the loader's own.
    """

    def __init__(self, tally: WorkerTally, function: Callable[[Any], Any]) -> None:
        self._tally = tally
        self._function = function

    def __call__(self, data: Any) -> Any:
        tally = self._tally
        if not tally.counts:
            return self._function(data)
        start = tally.begins(COLLATING)
        try:
            batch = self._function(data)
        except BaseException:
            tally.ended(COLLATE, clock(), error=True)
            raise
        now = clock()
        tally.ended(COLLATE, now, (now - start,))
        return batch


def time_dataset(dataset: Any, tally: WorkerTally, *, iterable: bool, batched: bool) -> bool:
    """Have a dataset timed: make it an instance of a subclass of its class. Return whether that can be done."""
    if isinstance(dataset, IterDataPipe | MapDataPipe):  # those keep account of who iterates over them
        return False
    own: Any = type(dataset)
    kind: Any = type(own)  # a class may be made by one of its own
    methods: dict[str, Any]
    if iterable:
        methods = {"__iter__": _iterated(tally, own)}
    elif not batched:
        methods = {"__getitem__": _item_by_item(tally, own)}
    elif fetch := getattr(dataset, "__getitems__", None):  # what torch's fetcher prefers, too
        methods = {"__getitems__": _whole_batches(tally, fetch)}
    else:
        methods = {"__getitems__": _samples(tally, own)}
    methods |= {
        "__slots__": (),  # else an object with slots could not become one of it
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "__reduce_ex__": _reduced_as(own),
    }
    try:
        dataset.__class__ = kind(own.__name__, (own,), methods)
    except Exception:  # of a class that is built in, is final, or refuses in a way of its own
        return False
    return True


def _samples(tally: WorkerTally, own: Any) -> Callable[[Any, Sequence[Any]], list[Any]]:
    one_by_one = True

    def __getitems__(self: Any, indices: Sequence[Any]) -> list[Any]:
        nonlocal one_by_one
        get = own.__getitem__
        begun = start = tally.begins(FETCHING)
        due = start + FLUSH_AFTER
        found: list[Any] = []
        append, measured = found.append, tally.samples.append
        try:
            if one_by_one:
                for index in indices:
                    append(get(self, index))
                    now = clock()
                    measured(now - start)
                    start = now
                    if now > due:
                        due = tally.flush(now)
            else:
                for index in indices:
                    append(get(self, index))
        except BaseException:
            tally.ended(DATASET, clock(), tally.samples, error=True)
            raise
        now = clock()
        if not one_by_one:
            tally.batch_fetched(now, len(found))
        one_by_one = now - begun >= TRIFLE * len(found)
        return found

    return __getitems__


def _whole_batches(tally: WorkerTally, fetch: Callable[[Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    def __getitems__(self: Any, indices: Sequence[Any]) -> Any:
        tally.begins(FETCHING)
        try:
            found = fetch(indices)
        except BaseException:
            tally.ended(DATASET, clock(), error=True)
            raise
        tally.batch_fetched(clock(), len(indices))
        return found

    return __getitems__


def _item_by_item(tally: WorkerTally, own: Any) -> Callable[[Any, Any], Any]:
    def __getitem__(self: Any, index: Any) -> Any:
        if tally.state == FETCHING:  # it asks itself for another sample, because this one is broken
            return own.__getitem__(self, index)
        start = tally.begins(FETCHING)
        try:
            found = own.__getitem__(self, index)
        except BaseException:
            tally.ended(DATASET, clock(), error=True)
            raise
        tally.samples.append(clock() - start)
        return found

    return __getitem__


def _iterated(tally: WorkerTally, own: Any) -> Callable[[Any], Iterator[Any]]:
    def __iter__(self: Any) -> Iterator[Any]:
        iterator = own.__iter__(self)
        return _generated(tally, iterator) if isinstance(iterator, GeneratorType) else _Samples(tally, iterator)

    return __iter__


def _generated(tally: WorkerTally, generator: Generator[Any, Any, Any]) -> Iterator[Any]:
    """Yield what a generator does, which costs less than ``_Samples``; like that, it has ended once it has raised."""
    measured = tally.samples.append
    start = tally.begins(FETCHING)
    due = start + FLUSH_AFTER
    try:
        for item in generator:
            now = clock()
            measured(now - start)
            if now > due:
                due = tally.flush(now)
            yield item
            start = now if tally.state == FETCHING else tally.begins(FETCHING)
    except GeneratorExit:
        raise
    except BaseException:
        tally.ended(DATASET, clock(), tally.samples, error=True)
        raise
    else:
        tally.ended(DATASET, clock(), tally.samples)
    finally:
        generator.close()


class _Samples(Iterator[Any]):
    """The iterator of a dataset; in all but its time what it stands for: it may go on once it has raised."""

    __slots__ = ("_due", "_iterator", "_measured", "_next", "_start", "_tally")

    def __init__(self, tally: WorkerTally, iterator: Iterator[Any]) -> None:
        self._tally = tally
        self._measured = tally.samples.append
        self._iterator = iterator
        self._next = iterator.__next__
        self._start = self._due = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        tally = self._tally
        if tally.state != FETCHING:
            self._start = tally.begins(FETCHING)
            self._due = self._start + FLUSH_AFTER
        try:
            item = self._next()
        except BaseException as error:
            tally.ended(DATASET, clock(), tally.samples, error=not isinstance(error, StopIteration))
            raise
        now = clock()
        self._measured(now - self._start)
        self._start = now
        if now > self._due:
            self._due = tally.flush(now)
        return item

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._iterator, name)


def _reduced_as(own: Any) -> Callable[[Any, Any], Any]:
    """Return a method that has an object copied and pickled as one of its class: the one made here has no address."""

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        timed = type(self)
        self.__class__ = own
        try:
            reduced = self.__reduce_ex__(protocol)
        finally:
            self.__class__ = timed
        if isinstance(reduced, tuple) and reduced[0] is copyreg.__newobj__:  # type: ignore[attr-defined]  # not in its stub
            return own.__new__, *reduced[1:]  # that other one wants it to be of the class that it says
        return reduced

    return __reduce_ex__
