"""Nodes of ``torchdata.nodes``, each timed as a stage.

Transparent: the node stays what it is, of its own class; ``state_dict``, ``reset`` and ``Loader`` see no difference.
    Only its ``next`` is timed: what a ``reset`` takes, which starts threads, is not the time of an item.
Time: a node that works where it is asked is timed there, less what the watched nodes take that it asks. A
    ``ParallelMapper`` with threads is timed inside of its map function, in those threads. A node that waits for other
    threads or processes (``Prefetcher``, ``PinMemory``, a ``ParallelMapper`` with processes) is never busy: of it is
    known how many items it gives, and that whoever asked it waited. What happens inside of processes is not seen.
Order: of a ``ParallelMapper`` in order, how many finished items wait for an earlier one.
Threads: any thread may ask a node, one at a time, as without.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, Protocol

from asynchub.errors import ArgumentError
from asynchub.pipeline.calls import StagedFunction
from asynchub.pipeline.parts import Parts
from asynchub.pipeline.pulling import Pull
from asynchub.pipeline.queues import QueueMeter, queue_size
from asynchub.pipeline.tally import Meter

try:
    from torchdata.nodes import (
        BaseNode,
        ParallelMapper,
        PinMemory,
        Prefetcher,
    )
except ImportError as error:
    raise ImportError("mon.node needs torchdata: python -m pip install 'asynchub[torchdata]'") from error

__all__ = ("Watcher", "watched_node")


class Watcher(Protocol):
    """Who watches: what is needed here of ``asynchub.pipeline.monitor.Pipeline``, which imports this module.

    Attributes:
        parts: what it watches.
    """

    parts: Parts


def watched_node(pipeline: Watcher, node: BaseNode[Any], name: str) -> BaseNode[Any]:
    """Have a node timed as a stage; return it.

    Do it before the node is asked for its first item: threads that a ``ParallelMapper`` has started already are timed
    from its next ``reset`` on.

    Args:
        pipeline: who watches.
        node: the node; its ``next`` is replaced by one that calls it.
        name: of the stage, and of the queue of finished items, if there is one.

    Raises:
        ArgumentError: it is not a node.
    """
    if not isinstance(node, BaseNode):
        raise ArgumentError(f"mon.node takes a node of torchdata.nodes, got {type(node).__name__}")
    meter = pipeline.parts.stage(name)
    asked = meter
    if isinstance(node, ParallelMapper) and node.num_workers:
        meter.concurrency = node.num_workers
        workers = _Workers(node, meter)
        if node.method == "thread" and workers.time_inside():
            asked = Meter(name)  # not one of the pipeline's: who waits here is another stage, or the consumer
        asked.waits = True
        workers.watch(pipeline.parts)
    elif isinstance(node, Prefetcher | PinMemory):
        meter.waits = True
        _watch_prefetched(pipeline.parts, node, meter)
    node.next = _Next(asked, node)
    return node


class _Next:
    """The ``next`` of a node, timed; it is pickled and copied as the one that it stands for.

    Args:
        meter: what counts for it.
        node: the node, of which nothing is held: its threads end when it is given up, as without.
    """

    def __init__(self, meter: Meter, node: BaseNode[Any]) -> None:
        function = node.next
        own = isinstance(function, MethodType) and function.__self__ is node
        self._function: Callable[[], Any] = weakref.WeakMethod(function) if own else lambda: function
        self._pull = Pull(meter, _Asking(self._function))

    def __call__(self) -> Any:
        return next(self._pull)

    def __reduce__(self) -> Any:
        return (_same, (self._function(),))


class _Asking(Iterator[Any]):
    """An iterator that asks the function that ``find`` returns for each item."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __next__(self) -> Any:
        return self._find()()


def _same(function: Any) -> Any:
    return function


class _Workers:
    """What is known of the threads or processes of a ``ParallelMapper``.

    Attributes of torchdata that are private are read only, and looked up each time: a ``reset`` makes new ones. Where
    another version has none of that name, nothing is known.

    Args:
        node: the mapper.
        meter: of the stage.
    """

    def __init__(self, node: ParallelMapper[Any], meter: Meter) -> None:
        self._node = weakref.ref(node)
        self._meter = meter
        self._inside = False

    def time_inside(self) -> bool:
        """Have the map function timed in its threads; False if that cannot be."""
        mapper = self._mapper()
        function = getattr(mapper, "map_fn", None)
        if mapper is None or not callable(function):
            return False
        # a public attribute, read at each reset; with prebatch it maps a batch, of which each is an item
        mapper.map_fn = StagedFunction(self._meter, function)
        self._inside = True
        return True

    def watch(self, parts: Parts) -> None:
        """Have the queue of finished items looked at, and whether some of them wait for an earlier one."""
        parts.add_queue(QueueMeter(self._meter.name, self._depth, after=self._meter))
        node = self._node()
        if node is not None and node.in_order:
            parts.evidence.append(self._held_back)

    def _mapper(self) -> Any:
        """Return the node that has the workers: with ``prebatch`` it is two further in."""
        node = self._node()
        mapper = getattr(node, "_it", None)
        if node is not None and node.prebatch is not None:
            mapper = getattr(mapper, "source", None)
        return mapper

    def _depth(self) -> tuple[int, int | None] | None:
        iterator = getattr(self._mapper(), "_it", None)
        finished = queue_size(getattr(iterator, "_out_q", None))
        most = getattr(iterator, "_max_tasks", None)
        return None if finished is None else (finished, most if isinstance(most, int) else None)

    def _held_back(self) -> int:
        """Return how many finished items wait for an earlier one; 0 if that is not known.

        That is, of all items that were taken from the source and not handed on: less those in the queues before and
        after the workers, those at work, and one that the source may be asked for at this moment.
        """
        iterator = getattr(self._mapper(), "_it", None)
        most, free = getattr(iterator, "_max_tasks", None), getattr(getattr(iterator, "_sem", None), "_value", None)
        sizes = [queue_size(getattr(iterator, name, None)) for name in ("_in_q", "_intermed_q", "_sort_q")]
        if not isinstance(most, int) or not isinstance(free, int) or None in sizes:
            return 0
        queued = sum(size for size in sizes if size is not None)
        at_work = len(self._meter.under_way()) if self._inside else self._meter.concurrency or 1
        return max(most - free - queued - at_work - 1, 0)


def _watch_prefetched(parts: Parts, node: Prefetcher[Any] | PinMemory[Any], meter: Meter) -> None:
    """Have the queue of a node that prefetches looked at."""
    known = weakref.ref(node)
    capacity = node.prefetch_factor if isinstance(node, Prefetcher) else 1

    def depth() -> tuple[int, int | None] | None:
        queue = getattr(getattr(known(), "_it", None), "_q", None)  # private; read only, None if it is not there
        size = queue_size(queue)
        return None if size is None else (size, capacity)

    parts.add_queue(QueueMeter(meter.name, depth, after=meter))
