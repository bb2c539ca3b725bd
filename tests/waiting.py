"""Waiting for a condition, for tests: with an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import anyio

__all__ = ("WAIT", "until", "until_awaited")

WAIT = 60.0
"""Seconds that anything may take on a loaded machine."""


def until(condition: Callable[[], object], seconds: float = WAIT) -> None:
    """Return as soon as ``condition()`` is true; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} has not come true in {seconds} s")
        pause.wait(0.005)


async def until_awaited(condition: Callable[[], object], seconds: float = WAIT) -> None:
    """Do the same on a loop."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)
