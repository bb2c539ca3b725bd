"""Which calls of stages take place in the calls of others, in the same task, and how long they take there.

A stage's own time is what its call took less what stages took that it called. That holds for chains of generators, each
of which asks the one before it for its next item.

A track is one line of calls: a thread's, or a task's where the thread runs an event loop. A task has its own, however
it was started: what other tasks do meanwhile is not inside of its calls.

Source:
    tf.data and the profilers of XLA call it self time: duration less that of the child.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from asynchub.loops import LoopHandle

__all__ = ("ThreadTrack", "Track", "current_track", "thread_track")


class Track:
    """One line of calls.

    Attributes:
        task: whose; None for a thread.
        meter: of the call that is under way; None if none is.
        nested: nanoseconds that calls inside of that took.
        last: meter of the call that ended last.
    """

    __slots__ = ("last", "meter", "nested", "task")

    def __init__(self, task: Any = None) -> None:
        self.task = task
        self.meter: Any = None
        self.nested = 0
        self.last: Any = None


class ThreadTrack(Track):
    """The line of a thread.

    Attributes:
        current_task: returns the task that runs in this thread; None while no event loop is known to run in it.
        loop: the event loop that was seen last in this thread.
    """

    __slots__ = ("current_task", "loop")

    def __init__(self) -> None:
        super().__init__()
        self.current_task: Callable[[], Any] | None = None
        self.loop: LoopHandle | None = None

    def of_task(self) -> Track:
        """Return the track of the running task; this one if no task is running."""
        try:
            task = self.current_task()  # type: ignore[misc]  # asked for only where there is one
        except RuntimeError:  # its loop has ended
            self.current_task = None
            return self
        if task is None:  # a callback of the loop
            return self
        track = _TRACK.get()
        if track is None or track.task is not task:
            track = Track(task)
            _TRACK.set(track)
        return track

    def see_loop(self) -> LoopHandle:
        """Take note of the event loop that runs in this thread; return it."""
        self.loop = loop = LoopHandle()
        if hasattr(loop.native, "call_soon_threadsafe"):
            from asyncio import current_task
        else:
            from trio.lowlevel import current_task  # type: ignore[assignment]  # which runs, so it is there
        self.current_task = current_task
        return loop


_TRACK: ContextVar[Track | None] = ContextVar("asynchub_track", default=None)
_local = threading.local()


def thread_track() -> ThreadTrack:
    """Return the line of the calling thread."""
    try:
        return _local.track  # type: ignore[no-any-return]
    except AttributeError:
        track = _local.track = ThreadTrack()
        return track


def current_track() -> Track:
    """Return the line of the running task, or thread."""
    track = thread_track()
    return track if track.current_task is None else track.of_task()
