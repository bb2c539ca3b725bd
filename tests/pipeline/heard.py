"""What a pipeline says when something happens, heard in the thread of the hub's subscribers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asynchub.dataflow import BottleneckChanged, ConcurrencyChanged, PipelineRecovered, PipelineStalled
from asynchub.events import Event
from asynchub.hub import MessageHub
from asynchub.pipeline.monitor import Pipeline
from asynchub.subscription import Subscription

__all__ = ("AFTER", "PATIENT", "Heard", "line_of", "listening")

AFTER = 0.15
"""Seconds of waiting that are a stall, unless a test has another mind."""
PATIENT = 20.0
"""Seconds after which a test is no longer held up."""


class Heard:
    """A subscriber that keeps what it hears.

    Attributes:
        events: all of it.
        stalled: set when a stall was heard of.
        recovered: set when it was heard that one is over.
        thread: in which it hears.
    """

    keys = (PipelineStalled, PipelineRecovered, BottleneckChanged, ConcurrencyChanged)

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stalled = threading.Event()
        self.recovered = threading.Event()
        self.thread = 0

    async def __call__(self, events: Subscription) -> None:
        self.thread = threading.get_ident()
        async for event in events:
            self.events.append(event)
            if isinstance(event, PipelineStalled):
                self.stalled.set()
            elif isinstance(event, PipelineRecovered):
                self.recovered.set()

    def all_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def stalls(self) -> list[PipelineStalled]:
        return self.all_of(PipelineStalled)

    @property
    def stall(self) -> PipelineStalled:
        """The only one."""
        (found,) = self.stalls
        return found

    def until_stalled(self) -> None:
        """Hold up the calling thread until a stall is heard of."""
        assert self.stalled.wait(PATIENT)


@contextmanager
def listening(name: str, **options: Any) -> Iterator[tuple[Pipeline, Heard]]:
    """Watch a pipeline, and hear what it says; all that was said is heard at the end."""
    hub, heard = MessageHub(name), Heard()
    hub.attach(heard)
    with hub, Pipeline(hub, **{"interval": 0.1, "stall_after": AFTER, **options}) as pipeline:
        yield pipeline, heard


def line_of(function: Any, text: str) -> str:
    """Return where the line of a function is that has ``text`` in it, as ``file:line in function``."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + offset for offset, line in enumerate(lines) if text in line]
    return f"{inspect.getsourcefile(function)}:{number} in {function.__name__}"
