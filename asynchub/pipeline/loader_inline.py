"""A loader without workers: its dataset and its collate function work in the consumer's own task."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import IterDataPipe, MapDataPipe

from asynchub.pipeline.calls import StagedFunction
from asynchub.pipeline.clock import clock
from asynchub.pipeline.pulling import Pull
from asynchub.pipeline.tally import Meter
from asynchub.pipeline.tracks import Track

__all__ = ("inline_dataset",)

TRIFLE = 2_000
"""Nanoseconds: if samples of a batch took less each, on average, the next batch is timed as a whole."""


def inline_dataset(dataset: Any, meter: Meter, *, iterable: bool, batched: bool) -> Any:
    """Return what torch's fetcher can take for the dataset, timed as a stage; the dataset itself if it is a datapipe.

    Args:
        dataset: the dataset.
        meter: of the stage.
        iterable: whether it is iterated over, not indexed.
        batched: whether the loader makes batches of samples, and not the dataset itself.
    """
    if isinstance(dataset, IterDataPipe | MapDataPipe):  # torch looks into those
        return dataset
    if iterable:
        return _Iterated(dataset, meter)
    return _Batched(dataset, meter) if batched else _Indexed(dataset, meter)


class _Standin:
    """Stands for a dataset."""

    def __init__(self, dataset: Any, meter: Meter) -> None:
        self._dataset = dataset
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        if name in ("_dataset", "_meter"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __str__(self) -> str:
        return str(self._dataset)


class _Iterated(_Standin):
    def __iter__(self) -> Iterator[Any]:
        return Pull(self._meter, iter(self._dataset))


class _Indexed(_Standin):
    def __init__(self, dataset: Any, meter: Meter) -> None:
        super().__init__(dataset, meter)
        self._get = StagedFunction(meter, operator.getitem)

    def __getitem__(self, index: Any) -> Any:
        return self._get(self._dataset, index)


class _Batched(_Standin):
    """Hands over whole batches: those that the dataset makes, or of its samples one by one."""

    def __init__(self, dataset: Any, meter: Meter) -> None:
        super().__init__(dataset, meter)
        fetch = getattr(dataset, "__getitems__", None)
        self._fetch: Callable[[Sequence[Any]], Any] | None = fetch or None
        self._one_by_one = True
        self._local = meter.local

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        meter, dataset = self._meter, self._dataset
        try:
            tally = self._local.tally
        except AttributeError:
            tally = meter.tally()
        track: Track = tally.track
        if tally.track.current_task is not None:
            track = tally.track.of_task()
        outer, nested_before, since_before = track.meter, track.nested, tally.since
        track.meter, track.nested = meter, 0
        begun = start = tally.since = clock()
        try:
            if self._fetch is not None:
                found = self._fetch(indices)
            elif self._one_by_one:
                record, found = tally.record, []
                append = found.append
                for index in indices:
                    append(dataset[index])
                    now = clock()
                    record(now - start)
                    start = tally.since = now
            else:
                found = [dataset[index] for index in indices]
        except BaseException as error:
            tally.busy += clock() - start
            tally.errors += isinstance(error, Exception)
            raise
        finally:
            end = tally.last = clock()
            tally.since = since_before
            if track.nested:
                tally.nested += track.nested
            track.meter, track.nested, track.last = outer, nested_before + end - begun, meter
            if outer is not meter.parent:
                meter.parent = outer
        number = len(indices)
        if start == begun and number:
            tally.durations.extend(array("q", ((end - begun) // number,)) * number)
        self._one_by_one = end - begun >= TRIFLE * number
        if end > tally.due:
            tally.drain()
        return found
