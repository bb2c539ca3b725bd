"""A process and its children, in tests: starting them, waiting for them, what came of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asynchub
from asynchub.events import Event
from asynchub.hub import MessageHub

__all__ = ("FORKING", "ROOT", "TIMEOUT", "ended", "forked", "heard", "in_child", "values")

FORKING = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # of Python 3.12 on; what is forked here does no more than publish
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
"""Marks of modules whose tests fork."""
ROOT = Path(asynchub.__file__).parent.parent
TIMEOUT = 60
"""Seconds after which a child counts as hanging."""


def in_child(target: Callable[..., object], *args: Any, method: str = "fork", exitcode: int = 0) -> int:
    """Run a function in a child process to its end; return the pid."""
    child = multiprocessing.get_context(method).Process(target=target, args=args)
    child.start()
    try:
        child.join(TIMEOUT)
        assert child.exitcode == exitcode
        pid: int = child.pid
        return pid
    finally:
        child.kill()
        child.join()


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """Run a function in a child made by ``os.fork``, whose end it is; yield the pid, and wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert ended(pid) == 0


def ended(pid: int) -> int:
    """Wait for a child to end; return its exit status."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end in {TIMEOUT} s")


def values(hub: MessageHub, key: str) -> list[float]:
    """Return what the record of a hub has under a key."""
    history: list[float] = hub.get_scalar(key).data[0].tolist() if key in hub.log_scalars else []
    return history


@contextmanager
def heard(hub: MessageHub) -> Iterator[list[Event]]:
    """Yield the events of a hub, in a list that is whole at the end."""
    events: list[Event] = []
    hub.on(Event)(events.append)
    with hub:
        yield events
        hub.flush(TIMEOUT)
