"""A ``torch.utils.data.DataLoader``, watched: what its dataset and its collate function take, in each of its workers.

How: while the loader makes an iterator, its ``collate_fn`` and ``worker_init_fn`` are ones that call its own; before
    and after, the loader is what it was. In a worker, the dataset becomes an instance of a subclass of its class.
Transparent: batches, their order, the random numbers behind them and exceptions are those of the loader. It is copied
    and pickled as without; what it was pickled to, another process, is not watched.
Shared memory: 15.5 KiB for each worker, in a tensor of torch's. That has no name where torch passes on descriptors (its
    default on Linux), goes along to a process however that is started (an anonymous mapping only goes to forks), and
    the kernel takes it back with the last process, also if one was killed. ``multiprocessing.shared_memory`` has a
    name, which stays behind with who is killed, or is cleared away too early by who only used it.
Threads: workers have none for it, and no lock; the pipeline's thread reads. No worker is ever ended.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from asynchub.errors import ArgumentError
from asynchub.pipeline.calls import StagedFunction
from asynchub.pipeline.loader_meters import LoaderMeter, loader_meters
from asynchub.pipeline.loader_rows import Generation, Rows
from asynchub.pipeline.loader_workers import LoaderWorkers
from asynchub.pipeline.parts import Parts
from asynchub.pipeline.queues import QueueMeter
from asynchub.pipeline.worker_dumps import DumpFile
from asynchub.pipeline.worker_rows import ROW
from asynchub.pipeline.worker_tally import WorkerTally

try:
    import torch
    from torch.utils.data import DataLoader, IterableDataset
except ImportError as error:
    raise ImportError("mon.dataloader needs torch: python -m pip install torch") from error

from asynchub.pipeline.loader_inline import inline_dataset
from asynchub.pipeline.worker_side import Collate, WorkerInit

__all__ = ("Watcher", "watch_loader")


class Watcher(Protocol):
    """Who watches: what is needed here of ``asynchub.pipeline.monitor.Pipeline``, which imports this module.

    Attributes:
        parts: what it watches.
        dump_workers: whether a worker process that stalls is asked for its stack.
        interval: seconds between two reports.
        window: seconds that the figures of a report are of.
    """

    parts: Parts
    dump_workers: bool
    interval: float
    window: float


def watch_loader(pipeline: Watcher, loader: DataLoader[Any], name: str) -> DataLoader[Any]:
    """Watch a loader; return it. One that is watched already is watched once.

    Args:
        pipeline: of whose parts it becomes one.
        loader: the loader. If its persistent workers run already, it stays as it is, and a warning says so.
        name: of its stages: ``loader`` gives ``loader.dataset`` and ``loader.collate``. Loaders of one name, such as
            new ones for each epoch, are one to it: their counts add up.

    Raises:
        ArgumentError: it is not a ``DataLoader``.
    """
    if not isinstance(loader, DataLoader):
        raise ArgumentError(f"loader must be a torch.utils.data.DataLoader, got {type(loader).__name__}")
    before = vars(loader).get("_get_iterator")
    if isinstance(before, _Iterators):
        if before.is_of(pipeline, name):
            return loader
        make = before.make  # another pipeline, or another name, takes over
    else:
        make = before
    why = ""
    if loader.persistent_workers and loader.num_workers and getattr(loader, "_iterator", None) is not None:
        why = "its persistent workers run already; watch it before its first iteration"
    elif not callable(getattr(loader, "_get_iterator", None)):
        why = "this version of torch makes iterators in another way"
    if why:
        warnings.warn(f"the loader {name!r} is not watched: {why}", stacklevel=3)
        return loader
    vars(loader)["_get_iterator"] = _Iterators(pipeline, loader, name, make)
    return loader


class _Iterators:
    """Makes the iterators of a loader, in the place of its method ``_get_iterator``.

    Which is the one place where an iterator can be seen that is not persistent; the loader itself is not held.

    Args:
        pipeline: of which the loader is a part.
        loader: the loader.
        name: of its stages.
        make: makes an iterator; None for the method of the loader's class.
    """

    def __init__(
        self, pipeline: Watcher, loader: DataLoader[Any], name: str, make: Callable[[], Any] | None = None
    ) -> None:
        self.make = make
        self._loader = weakref.ref(loader)
        self._name = name
        self._parts = weakref.ref(pipeline.parts)
        dataset, collate = (pipeline.parts.stages.get(f"{name}.{part}") for part in ("dataset", "collate"))
        if isinstance(dataset, LoaderMeter) and isinstance(collate, LoaderMeter):  # a new loader for each epoch
            self._dataset, self._collate, self._rows = dataset, collate, dataset.rows
        else:
            self._rows = Rows()
            self._dataset, self._collate = loader_meters(name, self._rows)
            self._add(pipeline)
        self._with_dumps = pipeline.dump_workers and hasattr(faulthandler, "register")  # not on Windows
        self._lock = threading.RLock()
        self._serve(loader.num_workers)

    def _add(self, pipeline: Watcher) -> None:
        workers = LoaderWorkers(self._name, self._rows, max(round(pipeline.window / pipeline.interval), 1))
        pipeline.parts.add_stage(self._dataset)
        pipeline.parts.add_stage(self._collate)
        pipeline.parts.add_queue(QueueMeter(f"{self._name}.ready", workers.ready, after=self._collate))
        pipeline.parts.workers.append(workers)

    def is_of(self, pipeline: Watcher, name: str) -> bool:
        """Whether it watches for a pipeline, under a name."""
        return self._parts() is pipeline.parts and self._name == name

    def __call__(self) -> Any:
        loader = self._loader()
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, DataLoader) and caller is not loader:  # a shallow copy, which has this attribute as well
            return type(caller)._get_iterator(caller)
        if loader is None:
            raise ReferenceError("the loader is gone of which an iterator is wanted")
        with self._lock:
            return self._with_workers(loader) if loader.num_workers else self._inline(loader)

    def _made(self, loader: DataLoader[Any], changed: dict[str, Any]) -> Any:
        """Return an iterator that is made while the loader has other attributes."""
        attributes = vars(loader)
        before = {key: attributes[key] for key in changed if key in attributes}
        attributes.update({key: changed[key] for key in before})  # a loader that has them elsewhere keeps them
        try:
            return type(loader)._get_iterator(loader) if self.make is None else self.make()
        finally:
            attributes.update(before)

    def _inline(self, loader: DataLoader[Any]) -> Any:
        self._serve(0)
        dataset = inline_dataset(loader.dataset, self._dataset, **_kind(loader))
        return self._made(loader, {"dataset": dataset, "collate_fn": StagedFunction(self._collate, loader.collate_fn)})

    def _with_workers(self, loader: DataLoader[Any]) -> Any:
        workers = loader.num_workers
        self._serve(workers)
        rows = torch.zeros((workers + 1, ROW), dtype=torch.int64)
        rows.share_memory_()  # type: ignore[no-untyped-call]
        dumps = DumpFile() if self._with_dumps else None
        tally = WorkerTally(rows, dumps)
        generation = Generation(rows, dumps)
        changed = {
            "collate_fn": Collate(tally, loader.collate_fn),
            "worker_init_fn": WorkerInit(tally, loader.worker_init_fn, **_kind(loader)),
        }
        self._rows.add(generation)
        try:
            iterator = self._made(loader, changed)
        except BaseException:
            generation.end()
            raise
        generation.started(iterator)
        return iterator

    def _serve(self, workers: int) -> None:
        for meter in (self._dataset, self._collate):
            meter.serve(workers, f"{self._name} workers")

    def __reduce__(self) -> Any:
        """Be pickled, and copied deeply, as the method of the loader that goes along."""
        return getattr, (self._loader(), "_get_iterator")


def _kind(loader: DataLoader[Any]) -> dict[str, bool]:
    """Return how the loader gets its samples."""
    return {
        "iterable": isinstance(loader.dataset, IterableDataset),
        "batched": loader.batch_sampler is not None,
    }
