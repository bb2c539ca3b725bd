"""What a pipeline is told to watch: functions, iterables, channels, queues, and who takes the batches."""

from __future__ import annotations

import math
import threading
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.pipeline.consumer import AsyncConsumed, Consumed
from asynchub.pipeline.outlet import Outlet
from asynchub.pipeline.parts import Parts
from asynchub.pipeline.pulling import AsyncMonitored, Monitored
from asynchub.pipeline.queues import QueueMeter, depth_reader
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.streams import Channel, ReceiveStream, SendStream

__all__ = ("Watching", "checked_name", "checked_seconds", "is_async_iterable")

T = TypeVar("T")


class Watching:
    """What ``Pipeline`` is, as far as it is told what there is.

    Args:
        hub: where figures and events go.
        name: of the pipeline.
        enabled: False to watch nothing, and hand everything back as it is.
        scalars: whether every figure is published as a scalar.
        dump_workers: whether a worker process that stalls is asked for its stack.

    Attributes:
        hub: where figures and events go.
        name: of the pipeline, with which its keys begin.
        enabled: whether anything is watched.
        dump_workers: whether a worker process that stalls is asked for its stack.
        parts: what there is.
        stages: those that were named, by name.
    """

    def __init__(self, hub: MessageHub, name: str, *, enabled: bool, scalars: bool, dump_workers: bool) -> None:
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"hub must be a MessageHub, got {type(hub).__name__}")
        self.name = checked_name("name", name)
        self.hub = hub
        self.enabled = enabled
        self.dump_workers = dump_workers
        self.parts = Parts()
        self._outlet = Outlet(hub, self.name, scalars=scalars)
        self.stages: dict[str, Stage] = {}
        self._lock = threading.RLock()

    def stage(self, name: str, concurrency: int | None = None, *, limited: bool = False) -> Stage:
        """Return the stage of a name: a decorator for what it does, or a maker of tasks; see ``Stage``.

        Args:
            name: of the stage; no slash in it.
            concurrency: how many items it can do at once; default: as many as it is seen doing, or as it was told.
            limited: whether no more than that may: calls of its async functions wait for ``Stage.limiter``, whose
                tokens can be changed while it runs.

        Raises:
            ArgumentError: the name is malformed, or ``concurrency`` is not an int above 0.
        """
        checked_name("name", name)
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            raise ArgumentError(f"concurrency must be an int above 0, got {concurrency!r:.80}")
        with self._lock:
            stage = self.stages.get(name)
            known = stage is not None and stage.adjustable
            meter = self.parts.stage(name, None if known else concurrency)
            if stage is None or stage.meter is not meter:
                stage = self.stages[name] = Stage(
                    meter,
                    limited=limited,
                    enabled=self.enabled,
                    changed=self._outlet.concurrency_changed,
                )
            elif concurrency is not None and stage.adjustable:
                stage.set_concurrency(concurrency)
            if limited:
                stage.limit()
            return stage

    def monitor(self, iterable: T, name: str) -> T:
        """Return an iterable, plain or async, whose items are timed as those of a stage; else it is what it was.

        In a chain of generators each has its own time: what it asks another for is the other's.

        Args:
            iterable: what is iterated over.
            name: of the stage.

        Raises:
            ArgumentError: it cannot be iterated over, or the name is malformed.
        """
        is_async = is_async_iterable(iterable, "monitor")
        meter = self.stage(name).meter
        if not self.enabled:
            return iterable
        return cast("T", AsyncMonitored(meter, iterable) if is_async else Monitored(meter, iterable))

    def consume(self, iterable: T, name: str = "train") -> T:
        """Return an iterable, plain or async, of which the taker is measured: how long it waits, how long it works.

        Args:
            iterable: what the training loop iterates over.
            name: of the consumer, for people.

        Raises:
            ArgumentError: it cannot be iterated over, or the name is malformed, or another than that of the consumer
                that there is.
        """
        checked_name("name", name)
        is_async = is_async_iterable(iterable, "consume")
        if not self.enabled:
            return iterable
        consumer = self.parts.take_consumer(name)
        if consumer.name != name:
            raise ArgumentError(f"pipeline {self.name!r} has a consumer already, {consumer.name!r}, got {name!r}")
        return cast("T", AsyncConsumed(consumer, iterable) if is_async else Consumed(consumer, iterable))

    def pause(self) -> AbstractContextManager[None]:
        """Return a context manager: inside of it the consumer is not at work on an item, but evaluates, or saves."""
        return nullcontext() if self.parts.consumer is None else self.parts.consumer.pause()

    def channel(
        self, name: str, capacity: float = 0
    ) -> tuple[MemoryObjectSendStream[Any], MemoryObjectReceiveStream[Any]]:
        """Return both ends of a memory object stream of anyio that tells how full it is, and how long each side waits.

        Args:
            name: of the channel; no slash in it.
            capacity: items it holds at most, as of ``anyio.create_memory_object_stream``.

        Raises:
            ArgumentError: the name is malformed.
        """
        checked_name("name", name)
        send, receive = anyio.create_memory_object_stream[Any](capacity)
        if not self.enabled:
            return send, receive
        channel = Channel(name)
        statistics = weakref.WeakMethod(receive._state.statistics)

        def depth() -> Any:
            ask = statistics()
            return None if ask is None else ask()

        channel.queue = QueueMeter(name, depth_reader(depth, None), measure=channel.measure)
        self.parts.add_queue(channel.queue)
        return SendStream(send, channel), ReceiveStream(receive, channel)

    def watch(
        self, name: str, source: Any, capacity: int | None = None, *, after: str | None = None, into: str | None = None
    ) -> None:
        """Look at a queue ten times in an interval.

        Args:
            name: of the queue; no slash in it.
            source: a queue with ``qsize()``, a memory object stream, or a function that returns a depth or anyio's
                statistics; called from the pipeline's thread.
            capacity: items it holds at most, if ``source`` does not say.
            after: the stage that puts in.
            into: the stage that takes.

        Raises:
            ArgumentError: the name is malformed, or ``source`` is none of these.
        """
        checked_name("name", name)
        for what, stage in (("after", after), ("into", into)):
            if stage is not None:
                checked_name(what, stage)
        if capacity is not None and (type(capacity) is not int or capacity < 1):
            raise ArgumentError(f"capacity must be an int above 0, or None, got {capacity!r:.80}")
        read = depth_reader(source, capacity)
        if self.enabled:
            meters = [None if stage is None else self.stage(stage).meter for stage in (after, into)]
            self.parts.add_queue(QueueMeter(name, read, after=meters[0], into=meters[1]))


def checked_name(what: str, name: Any) -> str:
    """Return a name that can be part of a key.

    Raises:
        ArgumentError: it cannot.
    """
    if not isinstance(name, str) or not name or "/" in name or "*" in name:
        raise ArgumentError(f"{what} must be a non-empty str without '/' and '*', got {name!r:.80}")
    return name


def checked_seconds(what: str, value: Any, least: float) -> float:
    """Return a number of seconds as a float.

    Raises:
        ArgumentError: it is no number, not finite, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ArgumentError(f"{what} must be seconds, {least:g} or more, got {value!r:.80}")
    return float(value)


def is_async_iterable(iterable: Any, what: str) -> bool:
    """Tell whether an iterable is an async one.

    Raises:
        ArgumentError: it is neither kind.
    """
    if hasattr(iterable, "__aiter__"):
        return True
    if hasattr(iterable, "__iter__") or hasattr(iterable, "__getitem__"):
        return False
    raise ArgumentError(f"{what} takes an iterable or an async iterable, got {type(iterable).__name__}")
