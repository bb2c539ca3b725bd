"""A thread that does one thing at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asynchub.subscribers.worker import Worker

ROOT = Path(__file__).parent.parent.parent


def test_calls_run_in_order_in_one_thread_of_that_name() -> None:
    worker, seen = Worker("asynchub test"), []
    calls = [worker.begin(lambda n: seen.append((n, threading.current_thread().name)), n) for n in range(100)]
    assert calls[-1].done.wait(10)
    assert seen == [(n, "asynchub test") for n in range(100)]
    worker.end()


def test_what_a_call_raises_is_kept_and_the_next_one_runs() -> None:
    worker = Worker("asynchub test")
    first, second = worker.begin(lambda: 1 / 0), worker.begin(lambda: sys.exit(3))
    third = worker.begin(lambda: None)
    assert third.done.wait(10)
    assert isinstance(first.error, ZeroDivisionError)
    assert isinstance(second.error, SystemExit)
    assert third.error is None
    worker.end()


def test_after_its_end_it_begins_anew_but_never_two_calls_at_once() -> None:
    worker = Worker("asynchub test")
    go, seen = threading.Event(), []
    slow = worker.begin(lambda: (go.wait(10), seen.append("slow")))
    worker.end()
    quick = worker.begin(seen.append, "quick")
    assert not quick.done.wait(0.05)
    go.set()
    assert quick.done.wait(10)
    assert slow.done.is_set
    assert seen == ["slow", "quick"]
    worker.end()


async def test_a_task_waits_for_a_call_without_blocking() -> None:
    worker, go = Worker("asynchub test"), threading.Event()
    call = worker.begin(go.wait, 10)
    assert not await call.done.waited(0.01)
    go.set()
    assert await call.done.waited(10)
    worker.end()


@pytest.mark.parametrize("ending", ["", "worker.end()"])
def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_program(ending: str) -> None:
    hang = "worker = Worker('w'); worker.begin(threading.Event().wait)"
    code = f"import threading; from asynchub.subscribers.worker import Worker; {hang}; {ending}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=True)
