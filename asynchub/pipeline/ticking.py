"""The thread of a pipeline: it looks ten times per interval, and reports once.

It is a thread, and not a task, because an event loop that a stage holds would hold up a task as well: who is asked to
tell of a stall must not be part of it. What it does takes some tens of microseconds per look and a millisecond or so
per report.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.consumer import ConsumerCounters
from asynchub.pipeline.figures import consumer_report, facts, loop_report, queue_report, stage_report
from asynchub.pipeline.histogram import bucket_of
from asynchub.pipeline.parts import Parts, Reading
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.queues import QueueCounters
from asynchub.pipeline.report import State, WorkerReport
from asynchub.pipeline.tally import Counters
from asynchub.pipeline.verdict import HARDLY_WAITS, Judge

__all__ = ("LOOKS", "Reporter", "Slow", "Taken", "Ticker")

logger = logging.getLogger("asynchub")

LOOKS = 10
"""Looks at queues and loops per interval."""
SLOW_TIMES = 10
"""Times the median from which an item is slow."""
SLOW_MILLISECONDS = 50.0
"""And what it takes at least."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the consumer took since the report before: items, seconds that it waited, seconds that it was busy."""

    items: int
    wait: float
    busy: float


@dataclass(frozen=True, slots=True)
class Slow:
    """Items of a stage that took much longer than most do, since the report before; times in seconds."""

    stage: str
    items: int
    slowest: float
    median: float


class Reporter:
    """Makes reports of a pipeline.

    Args:
        name: of the pipeline.
        parts: of it.
        interval: seconds between two reports.
        window: seconds that the figures of one are of.
        warmup: seconds after the first item that are not judged.

    Attributes:
        newest: the newest report.
        taken: what the consumer took since the one before.
        slow: of stages of which items were slow since the one before.
    """

    def __init__(self, name: str, parts: Parts, interval: float, window: float, warmup: float) -> None:
        self._name = name
        self._parts = parts
        self._judge = Judge()
        self._warmup = int(warmup * SECOND)
        self._readings: deque[Reading] = deque(maxlen=max(round(window / interval), 1) + 1)
        self._start = clock()
        self._lock = threading.Lock()
        self.newest = PipelineReport(pipeline=name, time=time.time())
        self.taken = Taken(0, 0.0, 0.0)
        self.slow: tuple[Slow, ...] = ()

    def begin(self) -> None:
        """Begin anew: what was counted before is in no window."""
        with self._lock:
            self._start = clock()
            self._readings.clear()
            self._readings.append(self._parts.read())

    def forked(self) -> None:
        """Go on in a child process: a report may have been under way in a thread that is not there."""
        self._lock = threading.Lock()

    def report(self, stalled: str, *, done: bool = False) -> PipelineReport:
        """Read all counters; return the report of the window that ends now.

        Args:
            stalled: who waits for whom, if it is stalled; else empty.
            done: whether it has ended.
        """
        with self._lock:
            new = self._parts.read()
            before = self._readings[-1] if self._readings else new
            self._readings.append(new)
            old = self._readings[0]
            if new.at - old.at < SECOND // 1000 and not (done and new.at > old.at):
                return self.newest
            self.newest = self._made(new, old, stalled, done)
            self.taken = _taken(new.consumer or ConsumerCounters(), before.consumer or ConsumerCounters())
            self.slow = tuple(_slow(self.newest, new, before))
            return self.newest

    def _made(self, new: Reading, old: Reading, stalled: str, done: bool) -> PipelineReport:
        seconds = (new.at - old.at) / SECOND
        parts, readings = self._parts, list(self._readings)[1:]
        meters = {name: parts.stages[name] for name in new.stages if name in parts.stages}
        stages = {}
        for name, meter in meters.items():
            seen = max(reading.stages[name].servers for reading in readings if name in reading.stages)
            slowest = max(reading.stages[name].slowest for reading in readings if name in reading.stages)
            before = old.stages.get(name, Counters())
            stages[name] = stage_report(meter, new.stages[name], before, seconds, seen, slowest, new.at)
        consumer = None
        if parts.consumer is not None and new.consumer is not None:
            before_it = old.consumer or ConsumerCounters()
            slowest = max(reading.consumer.slowest for reading in readings if reading.consumer is not None)
            consumer = consumer_report(parts.consumer.name, new.consumer, before_it, seconds, slowest, new.at)
        rate = consumer.throughput if consumer is not None else None
        queues = []
        for name, counted in new.queues.items():
            queue = parts.queues[name]
            passing = stages[queue.after.name].throughput if queue.after and queue.after.name in stages else rate
            queues.append(queue_report(queue, counted, old.queues.get(name, QueueCounters()), seconds, passing))
        loop = loop_report(readings, old, new.at)
        warm = self._is_warm(new)
        verdict = self._judge.judge(
            facts(
                meters,
                new,
                old,
                reports=stages,
                consumer=consumer,
                loop=loop,
                consumer_meter=None if parts.consumer is None else parts.consumer.meter,
                warm=warm,
            ),
            time.time(),
        )
        waits = None if consumer is None else consumer.wait_fraction
        state: State = "ok" if waits is None or waits < HARDLY_WAITS else "input_bound"
        state = state if warm else "warmup"
        workers: list[WorkerReport] = []
        for one in parts.workers.copy():
            workers += one.reports(new.at)
        return PipelineReport(
            pipeline=self._name,
            time=time.time(),
            elapsed=(new.at - self._start) / SECOND,
            window=seconds,
            state="done" if done else "stalled" if stalled else state,
            verdict=verdict,
            stages=tuple(stages.values()),
            queues=tuple(queues),
            consumer=consumer,
            loop=loop,
            workers=tuple(workers),
            stalled=stalled,
        )

    def _is_warm(self, new: Reading) -> bool:
        first = new.consumer.first_item if new.consumer is not None else self._start
        return bool(first) and new.at - first >= self._warmup


def _taken(new: ConsumerCounters, old: ConsumerCounters) -> Taken:
    wait, busy = new.total_wait - old.total_wait, new.busy - old.busy
    return Taken(new.items - old.items, max(wait, 0) / SECOND, max(busy, 0) / SECOND)


def _slow(report: PipelineReport, new: Reading, old: Reading) -> Iterator[Slow]:
    for stage in report.stages:
        if stage.latency_ms is None or stage.name not in old.stages:
            continue
        limit = max(SLOW_TIMES * stage.latency_ms.p50, SLOW_MILLISECONDS)
        counted = new.stages[stage.name]
        above = bucket_of(int(limit * SECOND / 1000)) + 1
        items = int((counted.latencies - old.stages[stage.name].latencies)[above:].sum())
        if items > 0:
            yield Slow(stage.name, items, counted.slowest / SECOND, stage.latency_ms.p50 / 1000)


class Ticker:
    """The thread.

    Args:
        name: of the pipeline.
        interval: seconds between two ticks.
        look: called ten times in an interval.
        tick: called once in an interval, and once at the end, then with True.
    """

    def __init__(self, name: str, interval: float, look: Callable[[], object], tick: Callable[[bool], object]) -> None:
        self._interval = interval
        self._look = look
        self._tick = tick
        self._ended = threading.Event()
        self._failures: set[str] = set()
        self.thread = threading.Thread(target=self._run, name=f"asynchub pipeline {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self) -> None:
        """Have it end, after a last tick; does not wait for that."""
        self._ended.set()

    def _run(self) -> None:
        step = self._interval / LOOKS
        start, number = time.monotonic(), 0
        while True:
            number += 1
            if self._ended.wait(max(start + number * step - time.monotonic(), 0.0)):
                break
            if time.monotonic() - (start + number * step) > self._interval:  # the machine has slept, or is too busy
                start, number = time.monotonic(), 0
            self._guarded(self._look)
            if number % LOOKS == 0:
                self._guarded(lambda: self._tick(False))
        self._guarded(self._look)  # it may have recovered since
        self._guarded(lambda: self._tick(True))

    def _guarded(self, call: Callable[[], object]) -> None:
        """Call something; what it raises is said once, and does not end the thread."""
        try:
            call()
        except Exception as error:  # of code of others: a watched queue, a subscriber that blocks
            said = f"{type(error).__name__}: {error}"
            if said not in self._failures:
                self._failures.add(said)
                logger.exception("while watching a pipeline")
