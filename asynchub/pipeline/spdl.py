"""Pipelines of SPDL: what ``PipelineBuilder.build`` takes so that its stages and queues are watched.

Stages: each ``pipe`` is one, under its name in SPDL. Its hook times it from outside, from before a thread of the pool
    is waited for. Where the function is timed inside as well, by a stage of ``mon.stage`` of that name, the inside
    counts, and what the hook saw is evidence of a pool that is too small. Else the hook's time stands for it: of async
    functions the same; of functions in a pool that several stages share, too long; of functions in processes all there
    is. What was counted when the first call ends decides.
Source: it is the stage ``src``, unless somebody else times it (``mon.monitor(source, "urls")``).
Queues: waits are counted where nothing was ready, or no room; how long there was something in it is exact. An item is
    what is taken out, by ``get_nowait`` too. The marks of SPDL for the end, and the end of an epoch, are none.
Order: of a pipe with ``output_order="input"``, how many finished items wait for an earlier one.
Threads: all of it runs in SPDL's own loop, and publishes nothing there. Cost: 3 to 6 us per item and stage, a fourth of
    what the statistics of SPDL itself take.
Again: pipelines that are built one after the other, for each epoch, go on with the same stages and queues.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import MethodType, TracebackType
from typing import Any, ClassVar

from asynchub.pipeline.spdl_steps import Passage, Plan, SpdlStep, Watcher, current_step

try:
    from spdl.pipeline import AsyncQueue, StageInfo, is_eof, is_epoch_end
except ImportError as error:
    raise ImportError("mon.spdl needs spdl: python -m pip install 'asynchub[spdl]'") from error

__all__ = ("build_arguments",)

SINK = "sink"
"""What SPDL calls its last stage, which only hands on."""


def build_arguments(pipeline: Watcher) -> dict[str, Any]:
    """Return the keyword arguments of ``PipelineBuilder.build`` with which ``pipeline`` watches.

    Args:
        pipeline: who watches.
    """
    plan = Plan(pipeline)
    return {
        "queue_class": type("WatchedQueue", (_WatchedQueue,), {"plan": plan}),
        "task_hook_factory": plan.hooks,
    }


class _WatchedQueue(AsyncQueue):
    """A queue of SPDL that counts.

    It calls ``AsyncQueue`` by name, not by ``super()``: its methods also serve for a queue of just that class.
    """

    plan: ClassVar[Plan]
    step: SpdlStep
    passage: Passage

    def __new__(cls, info: StageInfo, *, buffer_size: int = 1, **others: Any) -> Any:
        if info.stage_name != SINK:
            return super().__new__(cls)
        # SPDL has a short way from the last queue to the thread of the consumer, 0.2 ms shorter, only for queues whose
        # type is exactly its own
        queue = AsyncQueue(info, buffer_size=buffer_size)
        _watch(queue, cls.plan)
        for name in ("get", "put", "_get", "_put", "stage_hook"):
            setattr(queue, name, MethodType(getattr(_WatchedQueue, name), queue))
        return queue

    def __init__(self, info: StageInfo, *, buffer_size: int = 1) -> None:
        AsyncQueue.__init__(self, info, buffer_size=buffer_size)
        _watch(self, self.plan)

    def stage_hook(self) -> AbstractAsyncContextManager[None]:  # type: ignore[override]  # any will do
        self.step.begin()  # at once, in the task of the stage; what SPDL enters later is entered in another
        return _Ended(AsyncQueue.stage_hook(self), self.step)

    async def get(self) -> Any:
        passage = self.passage
        if passage.taker is None:
            passage.goes_into(current_step.get())
        if not self.empty():
            return self.get_nowait()
        start = passage.begin_get()
        try:
            return await AsyncQueue.get(self)
        finally:
            passage.end_get(start)

    async def put(self, item: Any) -> None:
        step = self.step
        source = step.left and not _is_mark(item)
        if source:
            step.produced()
        elif step.ordered is None and step.last_task is not None and not _is_mark(item):
            step.puts()
        if not self.full():
            self.put_nowait(item)
        else:
            start = self.passage.puts.begin()
            try:
                await AsyncQueue.put(self, item)
            finally:
                self.passage.puts.end(start)
        if source:
            step.goes_on()

    def _put(self, item: Any) -> None:
        was_empty = self.empty()
        AsyncQueue._put(self, item)
        if was_empty:
            self.passage.put_in()

    def _get(self) -> Any:
        item = AsyncQueue._get(self)
        passage = self.passage
        if _is_mark(item):  # StatsQueue counts these too, and not what is taken by get_nowait
            passage.marks += 1
        else:
            passage.items += 1
        if self.empty():
            passage.emptied()
        return item


class _Ended:
    """A context manager that does what another does, and ends a step."""

    def __init__(self, inner: AbstractAsyncContextManager[None], step: SpdlStep) -> None:
        self._inner = inner
        self._step = step

    async def __aenter__(self) -> None:
        await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, trace)
        finally:
            self._step.end()


def _watch(queue: Any, plan: Plan) -> None:
    queue.step = plan.step(queue.info)
    queue.passage = queue.step.passage
    queue.passage.holds(queue)


def _is_mark(item: Any) -> bool:
    return is_eof(item) or is_epoch_end(item)
