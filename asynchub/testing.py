"""For the tests of subscribers, and for replays: drive one by hand over events of your own.

Threads: none is started, and no event loop; an observer runs on that of the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import anyio

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.channels import Selection
from asynchub.control import SettlePoint
from asynchub.events import Event, EventsDropped, InfoUpdated, ScalarUpdated
from asynchub.requests import Request
from asynchub.rounds import ControlSubscriber
from asynchub.runner import Subscriber
from asynchub.settled import SettledSubscription
from asynchub.subscription import Subscription

__all__ = ("Drive", "drive", "observed", "scalars")

SECONDS = 30
"""How long ``observed`` may take."""
E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Request)


class Drive:
    """A control subscriber with a settle point of its own.

    Args:
        subscriber: it.
        wanted: key patterns and event classes it gets; default its ``keys``, else everything.

    Attributes:
        answers: what it has published and requested so far, in order, as stamped.
    """

    def __init__(self, subscriber: Subscriber, *wanted: str | type[Event]) -> None:
        self.answers: list[Event] = []
        self._step = 0
        self._bus = EventBus()
        self._point = SettlePoint(self._bus, self)
        selection = Selection.of(wanted or getattr(subscriber, "keys", ()) or ("**",))
        name = type(subscriber).__name__
        self._events = SettledSubscription(self._bus, self, name, selection, max_lag=1 << 20, overflow="raise")
        self._control = ControlSubscriber(name, 0, lambda: subscriber(self._events), self._events)
        self._point.add(self._control)

    def send(self, event: Event) -> list[Event]:
        """Hand it an event, if it wants it, and settle; return what it answered.

        An event without ``seq`` is stamped as the next one.

        Raises:
            ControlFailedError: it raised.
        """
        before = len(self.answers)
        self._step = self._step if event.step is None else event.step
        if event.seq < 0:
            event = event.stamped(self._bus.seq + 1, time.time(), self._step)
        self._bus.seq = max(self._bus.seq, event.seq)
        if self._bus.wants(event.key, type(event)):
            self._bus.log.append(event)
        self._point.settle(None)
        return self.answers[before:]

    def close(self) -> list[Event]:
        """End its events and let it finish; return what it answered to that.

        Raises:
            ControlFailedError: it raised.
        """
        before = len(self.answers)
        self._events.close()
        self._point.close()
        return self.answers[before:]

    # --- what the subscriber sees of a hub

    def publish(self, event: E, *, step: int | None = None) -> E:
        """Keep an event that the subscriber publishes."""
        if step is None:
            step = self._step if event.step is None else event.step
        stamped = event.stamped(self._bus.seq + 1, time.time(), step)
        self._bus.seq += 1
        self.answers.append(stamped)
        return stamped

    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        """Keep a scalar that the subscriber records."""
        self.publish(ScalarUpdated(key=key, value=value, count=count), step=step)

    def update_info(self, key: str, value: Any, resumed: bool = True, *, step: int | None = None) -> None:
        """Keep a runtime info that the subscriber sets."""
        self.publish(InfoUpdated(key=key, value=value), step=step)

    def request(self, request: R) -> R:
        """Keep a request that the subscriber makes; nobody applies it."""
        return self.publish(request)


def drive(subscriber: Subscriber, events: Iterable[Event], *wanted: str | type[Event]) -> list[Event]:
    """Run a control subscriber over ``events``, settling after each, to its end; return what it answered.

    Args:
        subscriber: it.
        events: what it gets, as far as it wants it; those without ``seq`` are stamped.
        wanted: as for ``Drive``.

    Raises:
        ControlFailedError: it raised.
    """
    driven = Drive(subscriber, *wanted)
    for event in events:
        driven.send(event)
    driven.close()
    return driven.answers


class _Heard:
    """The hub of an observer that is run by hand: what it publishes is stamped, and let go of."""

    def __init__(self) -> None:
        self._seq = 1 << 40  # after all that it is told

    def publish(self, event: E, *, step: int | None = None) -> E:
        self._seq += 1
        return event.stamped(self._seq, 0.0, event.step if step is None else step)

    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        self.publish(ScalarUpdated(key=key, value=value, count=count), step=step)

    def request(self, request: Any) -> Any:
        return self.publish(request)


async def observed(
    subscriber: Any,
    *batches: Sequence[Event],
    then: Callable[[], object] = lambda: None,
    hub: Publisher | None = None,
) -> None:
    """Run an observer over stamped events, batch by batch; when all are handled call ``then``; let it end.

    Args:
        subscriber: it.
        batches: what it gets, as far as it wants it.
        then: called before its events end.
        hub: where what it publishes goes; by default it is let go of.
    """
    bus = EventBus()
    selection = Selection.of((*(getattr(subscriber, "keys", ()) or ("**",)), EventsDropped))  # which any reader gets
    with anyio.fail_after(SECONDS):
        events = Subscription(bus, hub or _Heard(), "observed", selection, max_lag=1 << 20, overflow="raise")
        async with anyio.create_task_group() as group:
            group.start_soon(subscriber, events)
            for batch in batches:
                bus.log.extend(event for event in batch if bus.wants(event.key, type(event)))
                bus.hurry()
                handled = anyio.Event()
                events.when_handled(events.end_position(), handled.set)
                await handled.wait()
            then()
            events.close()


def scalars(key: str, values: Iterable[float]) -> list[ScalarUpdated]:
    """Return one ``ScalarUpdated`` of ``key`` for each value, at steps 1, 2, …."""
    return [ScalarUpdated(key=key, value=value, step=step) for step, value in enumerate(values, 1)]
