"""Whether the consumer waits far longer than it usually does, and for whom.

Looked at from the pipeline's own thread, so an event loop that hangs does not hide it.
"""

from __future__ import annotations

import linecache
import sys
import threading
import traceback
from types import FrameType
from typing import Any

import asynchub.pipeline.histogram as histogram
from asynchub.pipeline.clock import SECOND
from asynchub.pipeline.parts import Blame, Parts
from asynchub.pipeline.tally import Meter

__all__ = ("Stalls", "coroutine_stack", "thread_stack")

MIN_SAMPLES = 10
TIMES = 10
"""Times the 99th percentile of the waits that are a stall."""
LATE = SECOND // 2
"""Nanoseconds from which an event loop that does not come round is the one to blame."""


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
        self.blame: Blame | None = None

    def check(self, now: int) -> tuple[float, Blame | None] | None:
        """Return seconds and whom to blame when it has stalled, seconds and None when it goes on, else None."""
        waiting = self._waiting()
        if self.blame is not None:
            if waiting == self._since:
                return None
            seconds, self.blame, self._since = (now - self._since) / SECOND, None, 0
            return seconds, None
        if not waiting or now - waiting < self._after or now - waiting < self._limit():
            return None
        self._since = waiting
        self.blame = self._blamed(now)
        return (now - waiting) / SECOND, self.blame

    def _waiting(self) -> int:
        """Return since when somebody waits at the end of the pipeline; 0 if nobody does."""
        consumer = self._parts.consumer
        if consumer is None:
            return 0
        calls = consumer.meter.under_way()
        return calls[0][0] if calls else 0

    def _limit(self) -> float:
        """Return nanoseconds of waiting that are out of the ordinary; infinite as long as too little was seen."""
        consumer = self._parts.consumer
        if consumer is None:
            return float("inf")
        waits = consumer.meter.latencies()
        if int(waits.sum()) < MIN_SAMPLES:
            return float("inf")
        return TIMES * histogram.quantiles(waits, 0.99)[0]

    def _blamed(self, now: int) -> Blame:
        for loop in self._parts.loops:
            late = loop.late(now)
            if late > LATE:
                frame, stack = thread_stack(loop.loop.thread)
                return Blame(
                    reason=f"the event loop, which {frame} has held for {late / SECOND:.1f} s",
                    stage=self._stage_in(loop.loop.thread),
                    state="blocked event loop",
                    state_seconds=late / SECOND,
                    frame=frame,
                    stack=stack,
                )
        for workers in self._parts.workers:
            if (blame := workers.blame(now)) is not None:
                return blame
        return self._oldest_call(now) or self._by_queues()

    def _stage_in(self, thread: int) -> str:
        """Return the stage whose call is under way in a thread; empty if there is none, or there are several."""
        found = {
            name
            for name, meter in self._parts.stages.items()
            if any(ident == thread for _, ident, _ in meter.under_way())
        }
        return found.pop() if len(found) == 1 else ""

    def _oldest_call(self, now: int) -> Blame | None:
        """Blame the stage at work whose call is the oldest, as far down the chain of calls as it is known."""
        candidates: list[tuple[int, int, Any, Meter]] = []
        for meter in list(self._parts.stages.values()):
            if not meter.waits:
                candidates += [(since, ident, coroutine, meter) for since, ident, coroutine in meter.under_way()[:1]]
        outer = {id(meter.parent) for _, _, _, meter in candidates if meter.parent is not None}
        innermost = [one for one in candidates if id(one[3]) not in outer]
        if not innermost:
            return None
        since, ident, coroutine, meter = min(innermost, key=lambda one: one[0])
        frame, stack = thread_stack(ident) if coroutine is None else coroutine_stack(coroutine)
        seconds = (now - since) / SECOND
        where = f" in {frame}" if frame else ""
        return Blame(
            reason=f"{meter.name}, which has been at one item for {seconds:.1f} s{where}",
            stage=meter.name,
            state="at work",
            state_seconds=seconds,
            frame=frame,
            stack=stack,
        )

    def _by_queues(self) -> Blame:
        """Blame whoever should fill the first empty queue, looked at from the end."""
        stage = ""
        for queue in reversed(list(self._parts.queues.values())):
            if queue.depth():
                break
            stage = "" if queue.after is None else queue.after.name
        return Blame(
            reason=f"{stage}, which hands on nothing" if stage else "something that is not measured", stage=stage
        )


def thread_stack(ident: int) -> tuple[str, str]:
    """Return where a thread is, as ``file:line in function``, and its stack, the innermost frame last."""
    frame = sys._current_frames().get(ident)
    if frame is None:
        return "", ""
    name = next((one.name for one in threading.enumerate() if one.ident == ident), f"thread {ident}")
    stack = traceback.extract_stack(frame)
    return _where(frame), f"{name}:\n" + "".join(traceback.format_list(stack))


def coroutine_stack(coroutine: Any) -> tuple[str, str]:
    """Return where a coroutine waits, as ``file:line in function``, and its stack, the innermost frame last."""
    lines: list[str] = []
    innermost = ""
    seen = 0
    while coroutine is not None and seen < 100:
        seen += 1
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        frame = frame or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            innermost = _where(frame)
            code = frame.f_code
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {line}\n')
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return innermost, "".join(lines)


def _where(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
