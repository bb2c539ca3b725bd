"""Whether the consumer waits far longer than it usually does, and for whom.

Looked at from the pipeline's own thread, so an event loop that hangs does not hide it.
A wait is a stall when it is longer than ``after`` seconds, and ten times the 99th percentile of the waits so far. The
first wait, in which workers start, does not count among those, nor do stalls, unless they are more than a tenth of all.
As long as fewer than ten waits are known, three times as long is waited: a first batch often takes its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asynchub.pipeline.clock import SECOND
from asynchub.pipeline.consumer import Consumer
from asynchub.pipeline.histogram import bucket_of, quantiles
from asynchub.pipeline.parts import Blame, Parts
from asynchub.pipeline.stacks import awaited, coroutine_stack, depth_in, frames_of, thread_stack
from asynchub.pipeline.tally import Meter

__all__ = ("Stalls",)

MIN_SAMPLES = 10
MOST_STALLS = 0.1
"""Share of the waits from which stalls are usual."""
TIMES = 10
"""Times the 99th percentile of the waits that are a stall."""
PATIENCE = 3
"""Times that a wait may be longer as long as it is not known how long waits are."""
LATE = SECOND // 2
"""Nanoseconds from which an event loop that does not come round is the one to blame."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a stage that is under way: since when, in which thread, and its coroutine, if it has one."""

    meter: Meter
    since: int
    thread: int
    coroutine: Any


class Stalls:
    """Tells when a pipeline stalls, and when it goes on.

    Args:
        parts: of the pipeline.
        after: seconds of waiting that are a stall at least.

    Attributes:
        blame: who the consumer waits for, while it is stalled; else None.
    """

    def __init__(self, parts: Parts, after: float) -> None:
        self._parts = parts
        self._after = int(after * SECOND)
        self._since = 0
        self._stalls = 0
        self.blame: Blame | None = None

    def check(self, now: int) -> tuple[float, Blame | None] | None:
        """Return seconds and whom to blame when it has stalled, seconds and None when it goes on, else None."""
        consumer = self._parts.consumer
        calls = [] if consumer is None else consumer.meter.under_way()
        waiting = calls[0][0] if calls else 0
        if self.blame is not None:
            if waiting == self._since:
                return None
            seconds, self.blame, self._since = (now - self._since) / SECOND, None, 0
            return seconds, None
        if consumer is None or not waiting or now - waiting < self._after:
            return None
        limit, seen = self._limit(consumer)
        if now - waiting < limit:
            return None
        self._since = waiting
        self._stalls += 1
        self.blame = self._blamed(now, consumer)
        if not seen:
            self.blame = replace(self.blame, reason=f"{self.blame.reason}; no batch has come yet")
        return (now - waiting) / SECOND, self.blame

    def _limit(self, consumer: Consumer) -> tuple[float, int]:
        """Return nanoseconds of waiting that are out of the ordinary, and how many items have come."""
        waits = consumer.meter.latencies()
        seen = int(waits.sum())
        if consumer.first_item and seen:  # the first starts workers and fills queues: it does not tell of the others
            waits[bucket_of(consumer.first_item - consumer.first)] -= 1
            waits = np.maximum(waits, 0)  # an iteration without items may have come before it
        known = int(waits.sum())
        stalls = min(self._stalls, int(MOST_STALLS * known))
        waits = np.diff(np.minimum(np.cumsum(waits), known - stalls), prepend=0)  # the longest are left out
        if known < MIN_SAMPLES:
            longest = quantiles(waits, 1.0)[0] if known else 0.0
            return max(PATIENCE * self._after, TIMES * longest), seen
        return TIMES * quantiles(waits, 0.99)[0], seen

    def _blamed(self, now: int, consumer: Consumer) -> Blame:
        for loop in self._parts.loops:
            late = loop.late(now)
            if late > LATE and not _waits_here(loop.loop.thread):
                frame, stack = thread_stack(loop.loop.thread)
                return Blame(
                    reason=f"the event loop, which {frame or 'something'} has held for {late / SECOND:.1f} s",
                    stage=self._stage_in(loop.loop.thread),
                    state="blocked event loop",
                    state_seconds=late / SECOND,
                    frame=frame,
                    stack=stack,
                )
        for workers in self._parts.workers:
            if (blame := workers.blame(now)) is not None:
                return blame
        return self._oldest_call(now) or self._by_queues(consumer)

    def _calls(self) -> list[_Call]:
        """Return the calls of stages that are under way."""
        return [
            _Call(meter, *call)
            for meter in list(self._parts.stages.values())
            if not meter.waits
            for call in meter.under_way()
        ]

    def _loop_threads(self) -> set[int]:
        """Return the threads of event loops, in each of which many calls are under way at once."""
        return {loop.loop.thread for loop in self._parts.loops if not _waits_here(loop.loop.thread)}

    def _stage_in(self, thread: int) -> str:
        """Return the stage whose call holds a thread; empty if there is none, or it is not known which."""
        frames = list(frames_of(thread))
        calls = [call for call in self._calls() if call.thread == thread]
        running = {depth: call for call in calls if (depth := depth_in(call.coroutine, frames)) is not None}
        if running:
            return running[min(running)].meter.name
        names = {call.meter.name for call in calls if call.coroutine is None}
        return names.pop() if len(names) == 1 else ""

    def _oldest_call(self, now: int) -> Blame | None:
        """Blame the stage at work whose call is the oldest, as far down the chain of calls as it is known."""
        loops = self._loop_threads()
        newest: dict[int, _Call] = {}  # a thread has one line of calls, and is in the one that began last
        waiting: list[_Call] = []
        for call in self._calls():
            if call.coroutine is not None or call.thread in loops:
                waiting.append(call)
            elif call.thread not in newest or call.since > newest[call.thread].since:
                newest[call.thread] = call
        at_work = [*_innermost(waiting), *newest.values()]
        if not at_work:
            return None
        oldest = min(at_work, key=lambda call: call.since)
        frame, stack = "", ""
        if oldest.coroutine is not None:
            frame, stack = coroutine_stack(oldest.coroutine)
        elif oldest.thread not in loops:
            frame, stack = thread_stack(oldest.thread)
        name, seconds = oldest.meter.name, (now - oldest.since) / SECOND
        where = f" in {frame}" if frame else ""
        return Blame(
            reason=f"{name}, which has been at one item for {seconds:.1f} s{where}",
            stage=name,
            state="at work",
            state_seconds=seconds,
            frame=frame,
            stack=stack,
        )

    def _by_queues(self, consumer: Consumer) -> Blame:
        """Blame whoever should fill the first empty queue, looked at from the end; show where the consumer waits."""
        stage = ""
        for queue in reversed(list(self._parts.queues.values())):
            if queue.depth():
                break
            stage = "" if queue.after is None else queue.after.name
        frame, stack = "", ""
        for _, thread, coroutine in consumer.meter.under_way()[:1]:
            if coroutine is not None:
                frame, stack = coroutine_stack(coroutine)
            elif thread not in self._loop_threads():
                frame, stack = thread_stack(thread)
        what = f"{stage}, which hands on nothing" if stage else "something that is not measured"
        where = f", in {frame}" if frame else ""
        return Blame(reason=what + where, stage=stage, frame=frame, stack=stack)


def _waits_here(thread: int) -> bool:
    """Tell whether a plain iteration of the consumer waits in a thread: what holds that is what it waits for."""
    own = Consumer.__module__
    return any(
        frame.f_code.co_name == "__next__" and frame.f_globals.get("__name__") == own for frame in frames_of(thread)
    )


def _innermost(calls: list[_Call]) -> list[_Call]:
    """Return those calls of coroutines that do not wait for another one of them."""
    known = {id(call.coroutine) for call in calls}
    return [
        call
        for call in calls
        if not any(id(one) in known for one in awaited(call.coroutine) if one is not call.coroutine)
    ]
