"""Latches, and loops that are woken from elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
from anyio import fail_after, to_thread

from asynchub import loops
from asynchub.loops import Latch, LoopHandle


async def test_a_latch_is_waited_for_by_threads_and_tasks() -> None:
    latch = Latch()
    assert not latch.wait(0)
    assert not await latch.waited(0.001)
    async with anyio.create_task_group() as group:
        with fail_after(10):
            group.start_soon(to_thread.run_sync, latch.wait, 10)
            group.start_soon(to_thread.run_sync, latch.set)
            assert await latch.waited(None)
    assert latch.wait(0)


async def test_waking_a_loop_that_has_ended_does_nothing() -> None:
    def run() -> LoopHandle:
        async def handle() -> LoopHandle:
            return LoopHandle()

        return anyio.run(handle)

    handle = await to_thread.run_sync(run)
    assert not handle.call_soon(lambda: None)


def test_what_breaks_into_a_wait_may_wait_for_what_is_set_later_by_the_same_thread() -> None:
    at = 1
    while True:
        first, second, seen = Latch(), Latch(), [0]

        def set_both(latches: tuple[Latch, Latch] = (first, second)) -> None:
            for latch in latches:
                latch.set()

        thread = threading.Thread(target=set_both, daemon=True)

        def trace(
            frame: FrameType,
            event: str,
            argument: object,
            seen: list[int] = seen,
            begin: Callable[[], None] = thread.start,
            end: Latch = second,
            at: int = at,
        ) -> Any:
            if frame.f_code.co_filename not in (loops.__file__, threading.__file__):
                return None
            seen[0] += event == "line"
            if event == "line" and seen[0] == at:  # as a signal handler would
                begin()
                assert end.wait(10)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            first.wait(0)
        finally:
            sys.settrace(before)
        if seen[0] < at:
            break
        thread.join()
        at += 1
    assert at > 10
