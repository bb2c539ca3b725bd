"""The stages and queues of a pipeline of SPDL, and what is counted of them; see ``asynchub.pipeline.spdl``.

Threads: counted in SPDL's own loop only; any thread may read.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol

from asynchub.pipeline.clock import clock
from asynchub.pipeline.parts import Parts
from asynchub.pipeline.queues import QueueMeter, Spans
from asynchub.pipeline.stages import Stage
from asynchub.pipeline.tally import Meter, Tally
from asynchub.pipeline.tracks import thread_track

try:
    from spdl.pipeline import AsyncQueue, StageInfo, TaskHook
except ImportError as error:
    raise ImportError("mon.spdl needs spdl: python -m pip install 'asynchub[spdl]'") from error

__all__ = ("Passage", "Plan", "SpdlStep", "Watcher", "current_step")

SOURCE = "src"
"""What SPDL calls its source."""
WITHOUT_CALLS = ("merge", "path_variants_merge")
"""Names of nodes of SPDL that have a hook, but call it for no item."""

current_step: ContextVar[SpdlStep | None] = ContextVar("asynchub_spdl_step", default=None)
"""The step in whose task, or in one of whose tasks, this runs."""


class Watcher(Protocol):
    """Who watches: what is needed here of ``asynchub.pipeline.monitor.Pipeline``, which imports this module.

    Attributes:
        parts: what it watches.
    """

    parts: Parts
    stages: dict[str, Stage]
    """Those that the program has named."""


class Plan:
    """The stages and queues of a pipeline of SPDL, as they are built.

    Args:
        pipeline: who watches.

    Attributes:
        parts: what it watches.
    """

    def __init__(self, pipeline: Watcher) -> None:
        self.parts = pipeline.parts
        self._named = pipeline.stages
        self._id = -1
        self._steps: dict[StageInfo, SpdlStep] = {}

    def step(self, info: StageInfo) -> SpdlStep:
        """Return the step whose queue is made: the first call of its build for this ``info``."""
        if info.pipeline_id != self._id:
            self._id = info.pipeline_id
            self._steps = {}
        name = _unique(_plain_name(info), {step.passage.name for step in self._steps.values()})
        passage = self.parts.queues.get(name)
        if not isinstance(passage, Passage):
            passage = Passage(name)
            self.parts.add_queue(passage)
        step = self._steps[info] = SpdlStep(self, info, passage)
        return step

    def hooks(self, info: StageInfo) -> list[TaskHook]:
        """Return the hooks of a stage."""
        step = self._steps.get(info)
        if step is None:  # of a node that only hands on, to several queues
            return []
        if info.stage_name not in WITHOUT_CALLS:
            step.count()
        return [step]

    def meter(self, step: SpdlStep) -> Meter:
        """Return the meter of a step, and have the stages stand in the order of the flow."""
        meters = [one.meter for one in self._steps.values() if one.meter is not None]
        name = _plain_name(step.info)
        if name not in self._named:
            of = [one.name for one in self._named.values() if step.info.stage_name in one.functions]
            name = of[0] if len(of) == 1 else name
        if name in self._named:  # the program's own: all pipes of that name are this one
            of_others = sum(one.concurrency for one in self._steps.values() if one.meter and one.meter.name == name)
        else:
            name, of_others = _unique(name, {meter.name for meter in meters}), 0
        limited = name in self._named and self._named[name].adjustable  # then its limiter says how many, not SPDL
        meter = self.parts.stage(name, None if limited else step.concurrency + of_others)
        flow = [one.meter or meter for one in self._steps.values() if one.meter is not None or one is step]
        self.parts.put_last(flow)
        return meter

    def counted_elsewhere(self) -> int:
        """Return how many items were counted by stages that are not pipes of this pipeline of SPDL."""
        pipes = {step.meter for step in self._steps.values()}
        others = [meter for meter in list(self.parts.stages.values()) if meter not in pipes]
        return sum(int(meter.latencies().sum()) for meter in others)


class SpdlStep(TaskHook):
    """One stage of a pipeline of SPDL: its hook, and what is known of it.

    Args:
        plan: of the pipeline.
        info: SPDL's name for it.
        passage: the queue that it puts in.

    Attributes:
        meter: what counts for it; None as long as nothing does.
        concurrency: how many items it can do at once.
        calls: its calls, as seen from outside.
        ordered: whether it hands on in the order of its input; None as long as that is not known.
        last_task: while that is not known, the task of the call that has ended last.
        left: of a source, when it had put its last item; 0 if it is timed elsewhere.
    """

    def __init__(self, plan: Plan, info: StageInfo, passage: Passage) -> None:
        self.plan = plan
        self.info = info
        self.passage = passage
        self.meter: Meter | None = None
        self.concurrency = info.concurrency or 1
        self.calls = Spans()
        self.ordered: bool | None = False
        self._inside: bool | None = None
        self._before = 0
        self._open: dict[int, None] = {}
        self._started = 0
        self._tally: Tally | None = None
        self.last_task: Any = None
        self.left = 0
        passage.step = self

    def count(self) -> Meter:
        """Return the meter, made if there is none."""
        meter = self.meter
        if meter is None:
            meter = self.meter = self.plan.meter(self)
            self.ordered = None
            self.passage.comes_from(meter)
        return meter

    def begin(self) -> None:
        """Begin, in the loop of SPDL."""
        self.plan.parts.see_loop(thread_track().see_loop())
        current_step.set(self)  # the tasks that it starts have it as well
        if self.meter is not None:
            self._before = self._counted(self.meter)
        elif self.info.stage_name == SOURCE:
            self._before = self.plan.counted_elsewhere()
            self.left = clock()

    def end(self) -> None:
        """End: nothing is under way any more, also where it was cancelled."""
        if self.info.stage_name == SOURCE and self._tally is not None:
            self._tally.since = 0
        self.left = 0

    # --- calls

    def task_hook(self, input_item: Any = None) -> _Call:  # type: ignore[override]  # a plain class: any will do
        return _Call(self)

    def enter(self, call: _Call) -> None:
        """Count that a call begins."""
        call.start = self.calls.begin()
        call.number = number = self._started + 1
        self._open[number] = None
        self._started = number
        if not self._inside:
            tally = self._tally
            if tally is None:
                tally = self._tally = self.count().tally()
            tally.calls = call.key = tally.calls + 1
            task = asyncio.current_task()
            tally.open[call.key] = (call.start, None if task is None else task.get_coro())
            tally.peak = max(tally.peak, len(tally.open))

    def exit(self, call: _Call, error: BaseException | None) -> None:
        """Count that a call has ended."""
        end = self.calls.end(call.start)
        self._open.pop(call.number, None)
        if self.ordered is None:
            self.last_task = asyncio.current_task()
        meter, tally = self.count(), self._tally
        if tally is not None:
            tally.open.pop(call.key, None)
        if isinstance(error, StopAsyncIteration):  # a generator has no more: that is not an item
            return
        if error is None:
            meter.outside += end - call.start
            meter.outside_items += 1
        if self._inside is None:
            self._inside = self._counted(meter) != self._before
        if self._inside or tally is None:
            return
        if error is None:
            tally.last = end
            tally.record(end - call.start)
            if end > tally.due:
                tally.drain()
        else:
            tally.busy += end - call.start
            tally.errors += isinstance(error, Exception)

    def _counted(self, meter: Meter) -> int:
        counted = meter.counters(clock())
        return counted.items + counted.errors

    # --- what it hands on

    def puts(self) -> None:
        """Count that the first items are put: they tell whether it keeps the order.

        A pipe that does not puts what a call returns at once, in the same task.
        """
        self.ordered = self.last_task is not asyncio.current_task()
        self.last_task = None
        evidence = self.plan.parts.evidence
        if self.ordered and self.passage.held_back not in evidence:  # not yet, by a pipeline before this one
            evidence.append(self.passage.held_back)

    def held_back(self) -> int:
        """Return how many finished items wait for an earlier one."""
        under_way = list(self._open)
        return max(self._started - under_way[0] - len(under_way) + 1, 0) if under_way else 0

    def look(self) -> None:
        """Look at how many calls are under way.

        SPDL 0.8 lets up to two more than ``concurrency`` run in a pipe that keeps the order, threads permitting.
        """
        if self.ordered and self.meter is not None:
            at_once = min(len(self.meter.under_way()), self.concurrency + 2)
            self.meter.concurrency = max(self.meter.concurrency or 1, at_once)

    def alive(self, now: int) -> int:
        """Return for how long, of all its servers together, it was at work or waited to hand on."""
        return self.calls.so_far(now) + self.passage.puts.so_far(now)

    def produced(self) -> None:
        """Count, of a source, that it comes with an item."""
        if self._tally is None:
            if self.plan.counted_elsewhere() != self._before:
                self.left = 0
                return
            self._tally = self.count().tally()
            self.ordered = False
        tally = self._tally
        tally.since = 0
        tally.last = now = clock()
        tally.record(now - self.left)
        if now > tally.due:
            tally.drain()

    def goes_on(self) -> None:
        """Count, of a source, that it goes on to the next item."""
        if self._tally is not None:
            self._tally.since = self.left = clock()


class _Call:
    """One call of a stage, as seen by its hook: a plain class, as ``asynccontextmanager`` costs three times as much."""

    __slots__ = ("_step", "key", "number", "start")

    def __init__(self, step: SpdlStep) -> None:
        self._step = step
        self.start = self.number = self.key = 0

    async def __aenter__(self) -> None:
        self._step.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step.exit(self, error)


class Passage(QueueMeter):
    """The figures of a queue, also of those that come after it under the same name.

    Attributes:
        puts: those who wait to put in.
        gets: those who wait to take.
        items: how many were taken.
        marks: how many marks of SPDL were: of the end, or of an epoch's.
        step: the step that puts in.
        taker: the step that takes; None as long as none has.
    """

    step: SpdlStep

    def __init__(self, name: str) -> None:
        super().__init__(name, self._depth, measure=self._measured)
        self.puts, self.gets = Spans(), Spans()
        self.items = self.marks = 0
        self._occupied = (0, 0)
        """Nanoseconds in which there was something in it, and since when there is; 0 if there is not."""
        self._last_occupied = 0
        self._idle = (0, 0, 0)
        """Idle time of the servers that take, since when they wait, and for how long they had been alive then."""
        self.taker: SpdlStep | None = None
        self._queue: Callable[[], AsyncQueue | None] = lambda: None

    def holds(self, queue: AsyncQueue) -> None:
        """Say which queue it is of."""
        self._queue = weakref.ref(queue)
        self._occupied = (self._last_occupied, 0)
        self._idle = (self._idle[0], 0, 0)
        self.taker = None

    def comes_from(self, stage: Meter) -> None:
        """Say which stage puts in: what waits here is its blocked time."""
        if self.after is not stage:
            self.after = stage
            stage.blocking.append(self.puts.so_far)

    def goes_into(self, step: SpdlStep | None) -> None:
        """Say which step takes: what waits here is its starved time."""
        self.taker = step
        stage = None if step is None else step.meter
        if stage is not None and self.into is not stage:
            self.into = stage
            stage.starving.append(self._starved)

    def held_back(self) -> int:
        """Return how many finished items wait for an earlier one."""
        return self.step.held_back() if self.step.ordered else 0

    def put_in(self) -> None:
        """Count that there is something in it now."""
        self._occupied = (self._occupied[0], clock())

    def emptied(self) -> None:
        """Count that there is nothing in it now."""
        time, since = self._occupied
        self._occupied = (time + clock() - since if since else time, 0)

    def begin_get(self) -> int:
        """Count that one begins to wait; only one does, or the last of those counts."""
        now = self.gets.begin()
        if self.taker is not None:
            self._idle = (self._idle[0], now, self.taker.alive(now))
        return now

    def end_get(self, start: int) -> None:
        """Count that it has ended."""
        now = self.gets.end(start)
        self._idle = (self._starved(now), 0, 0)

    def _starved(self, now: int) -> int:
        """Return for how long servers of the taker had nothing to do: those not at work while it waits for input."""
        time, since, alive = self._idle
        if not since or self.taker is None:
            return time
        return time + max(self.taker.concurrency * (now - since) - (self.taker.alive(now) - alive), 0)

    def _depth(self) -> tuple[int, int | None] | None:
        queue = self._queue()
        if queue is None:
            return None
        self.step.look()
        return queue.qsize(), queue.maxsize or None

    def _measured(self, now: int) -> tuple[int, int, int, int]:
        if self._queue() is not None:  # else it was given up, perhaps with something in it
            time, since = self._occupied
            self._last_occupied = time + max(now - since, 0) if since else time
        return self.items, self.puts.so_far(now), self.gets.so_far(now), self._last_occupied


def _plain_name(info: StageInfo) -> str:
    """Return a name that can be part of a key; of an aggregation without its arguments."""
    name = re.sub(r"[/*]", "_", info.stage_name) or "stage"
    return "aggregate" if name.startswith("aggregate(") else name


def _unique(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
