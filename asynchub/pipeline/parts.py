"""What a pipeline consists of, as far as it is known: its stages, queues, consumer, event loops and workers.

Threads: any thread may add and read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asynchub.loops import LoopHandle
from asynchub.pipeline.clock import clock
from asynchub.pipeline.consumer import Consumer, ConsumerCounters
from asynchub.pipeline.loops import LoopCounters, LoopMeter
from asynchub.pipeline.queues import QueueCounters, QueueMeter
from asynchub.pipeline.report import WorkerReport
from asynchub.pipeline.tally import Counters, Meter

__all__ = ("Blame", "Parts", "Reading", "Workers")


@dataclass(frozen=True, slots=True)
class Blame:
    """Who the consumer waits for, and what that does.

    Attributes:
        reason: for people, a sentence without its end: ``"batch 25 of worker 1 (pid 29488)"``.
        stage: the stage; empty if it is not known.
        worker: number of the worker; None if it is not known, or there are none.
        pid: process of that worker.
        state: what it does.
        state_seconds: for how many seconds already.
        frame: where its code is, as ``file:line in function``.
        stack: the frames that led there, the innermost last.
    """

    reason: str
    stage: str = ""
    worker: int | None = None
    pid: int | None = None
    state: str = ""
    state_seconds: float = 0.0
    frame: str = ""
    stack: str = ""


class Workers(Protocol):
    """Worker processes that feed the consumer, such as those of a DataLoader."""

    def reports(self, now: int) -> Sequence[WorkerReport]:
        """Return what each does; called once per interval."""

    def ready_later(self) -> int:
        """Return how many finished items wait for an earlier one."""

    def blame(self, now: int) -> Blame | None:
        """Return who of them the consumer waits for; None if for none of them."""

    def stop(self) -> None:
        """Measure no more."""


@dataclass(slots=True)
class Reading:
    """All counters at one moment.

    Attributes:
        at: the moment, in nanoseconds of ``asynchub.pipeline.clock``.
        stages: by name.
        queues: by name.
        consumer: None if nobody takes items.
        loops: of each loop.
        looks: moments at which the consumer waited.
        ready_later: those of them at which finished items waited for an earlier one.
    """

    at: int
    stages: dict[str, Counters]
    queues: dict[str, QueueCounters]
    consumer: ConsumerCounters | None
    loops: dict[LoopMeter, LoopCounters]
    looks: int
    ready_later: int


class Parts:
    """What a pipeline consists of."""

    def __init__(self) -> None:
        self.stages: dict[str, Meter] = {}
        self.queues: dict[str, QueueMeter] = {}
        self.consumer: Consumer | None = None
        self.workers: list[Workers] = []
        self.evidence: list[Callable[[], int]] = []
        """Functions that return how many finished items wait for an earlier one."""
        self._loops: list[LoopMeter] = []
        self._looks = self._ready_later = 0
        self._lock = threading.Lock()

    def stage(self, name: str, concurrency: int | None = None) -> Meter:
        """Return the meter of a stage, made if there is none."""
        with self._lock:
            meter = self.stages.get(name)
            if meter is None:
                meter = self.stages[name] = Meter(name, concurrency, self.see_loop)
            elif concurrency is not None:
                meter.concurrency = concurrency
            return meter

    def add_stage(self, meter: Meter) -> None:
        """Add a meter that counts in its own way, in the place of one of the same name."""
        with self._lock:
            self.stages[meter.name] = meter

    def put_last(self, meters: Sequence[Meter]) -> None:
        """Have these stages stand last, in this order."""
        with self._lock:
            for meter in meters:
                if self.stages.get(meter.name) is meter:
                    self.stages[meter.name] = self.stages.pop(meter.name)

    def add_queue(self, queue: QueueMeter) -> None:
        """Add a queue, in the place of one of the same name."""
        with self._lock:
            self.queues[queue.name] = queue

    def take_consumer(self, name: str) -> Consumer:
        """Return the consumer, made if there is none."""
        with self._lock:
            if self.consumer is None:
                self.consumer = Consumer(name, self.see_loop)
            return self.consumer

    def see_loop(self, loop: LoopHandle) -> None:
        """Add an event loop, unless it is known."""
        with self._lock:
            if all(known.loop.native is not loop.native for known in self._loops):
                self._loops.append(LoopMeter(loop))

    @property
    def loops(self) -> list[LoopMeter]:
        """The event loops that are alive."""
        with self._lock:
            return self._loops.copy()

    def look(self) -> None:
        """Look at what is sampled: queues, loops, and whether finished items wait for an earlier one."""
        with self._lock:
            queues, loops = list(self.queues.values()), self._loops.copy()
            workers, evidence, consumer = self.workers.copy(), self.evidence.copy(), self.consumer
        for queue in queues:
            queue.look()
        ended = [loop for loop in loops if not loop.probe()]
        if ended:
            with self._lock:
                self._loops = [loop for loop in self._loops if loop not in ended]
        if (workers or evidence) and (consumer is None or consumer.waiting):
            self._looks += 1
            self._ready_later += any(one.ready_later() > 0 for one in workers) or any(ask() > 0 for ask in evidence)

    def read(self) -> Reading:
        """Return all counters at this moment."""
        with self._lock:
            stages, queues = dict(self.stages), dict(self.queues)
            loops, consumer = self._loops.copy(), self.consumer
        now = clock()
        return Reading(
            at=now,
            stages={name: meter.counters(now) for name, meter in stages.items()},
            queues={name: queue.counters(now) for name, queue in queues.items()},
            consumer=None if consumer is None else consumer.counters(now),
            loops={loop: loop.counters() for loop in loops},
            looks=self._looks,
            ready_later=self._ready_later,
        )

    def forked(self) -> None:
        """Go on in a child process, in which nobody reads."""
        self._lock = threading.Lock()
        for meter in self.stages.values():
            meter.forked()
        for queue in self.queues.values():
            queue.forked()
        if self.consumer is not None:
            self.consumer.meter.forked()
        self._loops.clear()
        self.workers.clear()
