"""One control subscriber over recorded events, many at a time.

It decides what it would decide if every event had a settle point of its own, as under ``asynchub.testing.Drive``, at a
tenth of the cost: what it answers belongs to the event that it holds at that moment. Nobody applies its requests; a
request to stop ends its events there.

Threads: none is started, and no event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self, TypeVar

from asynchub.bus import EventBus
from asynchub.channels import Selection
from asynchub.errors import ControlAwaitedError
from asynchub.events import Event, ScalarUpdated
from asynchub.requests import Decided, ParameterChanged, ParameterChangeRequested, Request, StopRequested
from asynchub.rounds import ControlSubscriber
from asynchub.runner import Subscriber
from asynchub.settled import PARKED, SettledSubscription

__all__ = ("Answers", "Trial")

E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Request)


class Answers:
    """What a subscriber has answered so far, and the hub as it sees it. What can be many is counted, not kept.

    Attributes:
        stop: its request to stop, if it has made one.
        changes: the parameters that it has changed, or asked to be changed, in order.
        requests: of each other kind of request, by the name of its class, the ``step`` of each one.
        verdicts: how often it came to each verdict.
        scalars: how often it has recorded each scalar.
        published: the same of events of each other kind that it has published.
    """

    def __init__(self) -> None:
        self.stop: StopRequested | None = None
        self.changes: list[ParameterChanged | ParameterChangeRequested] = []
        self.requests: dict[str, list[int | None]] = {}
        self.verdicts: Counter[str] = Counter()
        self.scalars: Counter[str] = Counter()
        self.published: dict[str, list[int | None]] = {}
        self._seq = 0
        self._time = 0.0
        self._step = 0

    def belong_to(self, events: Sequence[Event]) -> None:
        """Have what comes next answer the last of ``events``: with its time and step, and a ``seq`` after it."""
        self._seq = max(self._seq, events[-1].seq)
        self._time = events[-1].time
        for event in reversed(events):  # nearly always the last has one
            if event.step is not None:
                self._step = event.step
                break

    def publish(self, event: E, *, step: int | None = None) -> E:
        """Take an event that the subscriber publishes; return it as stamped, but a ``Decided`` as it is."""
        if isinstance(event, Decided):  # one for each value: stamping them would take a third of all the time
            self.verdicts[event.verdict] += 1
            return event
        if step is None:
            step = self._step if event.step is None else event.step
        stamped = event.stamped(self._seq + 1, self._time, step)
        if isinstance(stamped, StopRequested):
            self.stop = self.stop or stamped
        elif isinstance(stamped, ParameterChanged | ParameterChangeRequested):
            self.changes.append(stamped)
        elif isinstance(stamped, Request):
            self.requests.setdefault(type(stamped).__name__, []).append(stamped.step)
        elif isinstance(stamped, ScalarUpdated):
            self.scalars[stamped.key] += 1
        else:
            self.published.setdefault(type(stamped).__name__, []).append(stamped.step)
        return stamped

    def update_scalar(
        self, key: str, value: Any, count: int = 1, resumed: bool = True, *, step: int | None = None
    ) -> None:
        """Take a scalar that the subscriber records."""
        self.publish(ScalarUpdated(key=key, value=value, count=count), step=step)

    def request(self, request: R) -> R:
        """Take a request that the subscriber makes."""
        return self.publish(request)


class Trial:
    """A control subscriber that is tried.

    Args:
        subscriber: it.

    Attributes:
        answers: what it has answered.
        selection: the events it is to be sent: its ``keys``, else all.
        handled: events that it was handed.
        error: what it raised; it gets no more events then.

    Raises:
        PatternError: one of its ``keys`` is malformed.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self.answers = Answers()
        self.selection = Selection.of(getattr(subscriber, "keys", ()) or ("**",))
        self.error: Exception | None = None
        name = type(subscriber).__name__
        self._events = _Fed(EventBus(), self.answers, name, self.selection, max_lag=1 << 20, overflow="raise")
        self._control = ControlSubscriber(name, 0, lambda: subscriber(self._events), self._events)

    @property
    def handled(self) -> int:
        """Events that it was handed."""
        return self._events.handed

    @property
    def ended(self) -> bool:
        """Whether it takes no more events: it has asked to stop, has returned, or has raised."""
        return self._control.ended

    def send(self, events: list[Event]) -> None:
        """Hand it events, at least one, all of its selection and in the order of ``seq``."""
        if not self.ended:
            self._events.feed(events)
            self._resume()

    def close(self) -> None:
        """End its events and let it finish."""
        if not self.ended:
            self._events.close()
            self._resume()
            self._control.end()

    def _resume(self) -> None:
        try:
            asked = self._control.resume()
            while asked is not PARKED:
                asked = self._control.resume(error=ControlAwaitedError(self._control.name, type(asked).__name__))
        except Exception as error:
            self.error = error


class _Fed(SettledSubscription):
    """A subscription that is given its events by hand.

    Attributes:
        handed: events handed out.
    """

    _publisher: Answers

    def __init__(self, *args: Any, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self._before = 0  # events handed out in earlier batches
        self._located = 0  # index in the batch up to which the publisher knows

    @property
    def handed(self) -> int:
        return self._before + self._index

    def feed(self, events: list[Event]) -> None:
        self._offered = events
        self.last_seq = events[-1].seq

    def _begin_reading(self) -> None:
        self._locate()
        self._before += self._index
        self._located = 0
        super()._begin_reading()

    def finish(self) -> None:
        self._before += self._index
        super().finish()

    def publish(self, event: E, *, step: int | None = None) -> E:
        if isinstance(event, Decided):  # one for each value, and only counted: where it belongs is not asked for
            return self._publisher.publish(event)
        self._locate()
        return self._told(super().publish(event, step=step))

    def decide(self, verdict: str, decided: Callable[[], Decided]) -> None:
        self._publisher.verdicts[verdict] += 1  # one for each value: making it would take half of all the time

    def update_scalar(self, key: str, value: Any, count: int = 1, *, step: int | None = None) -> None:
        self._locate()
        super().update_scalar(key, value, count, step=step)

    def request(self, request: R) -> R:
        self._locate()
        return self._told(super().request(request))

    def _locate(self) -> None:
        """Say which event is in hand."""
        if self._index > self._located:
            self._publisher.belong_to(self._batch[self._located : self._index])
            self._located = self._index

    def _told(self, answer: E) -> E:
        if isinstance(answer, StopRequested) and not self.closed:
            self._batch = self._batch[: self._index]  # a copy: others are handed the same list
            self.close()
        return answer

    def ready(self) -> bool:
        return False  # a settle point for each event has no second one

    def batches(self) -> AsyncIterator[list[Event]]:
        return _Singles(self)


class _Singles:
    """Batches of one event each, as there are if every event has a settle point."""

    def __init__(self, events: _Fed) -> None:
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        return [await anext(self._events)]
