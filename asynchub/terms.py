"""On what terms somebody reads: which events, how late, how often; and a plain function as a subscriber."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol, get_args

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.catching import CatchingSubscription
from asynchub.channels import Overflow, Selection
from asynchub.errors import ArgumentError, JournalError, SubscriberTypeError
from asynchub.events import Event, EventsDropped
from asynchub.every import EPOCH_KEY, Every
from asynchub.runner import Subscriber
from asynchub.settled import SettledSubscription
from asynchub.subscription import Subscription

__all__ = ("EventFunction", "Past", "Replay", "Terms", "check_subscriber")

logger = logging.getLogger("asynchub")
Replay = Literal["none", "last", "all"]
"""What a reader gets of the past: nothing, the newest value of each key, or all that the histories hold."""
CONTROL_MAX_LAG = 1 << 20
OBSERVER_MAX_LAG = 1 << 16


class Past(Protocol):
    """Where past events come from: the record."""

    @property
    def step(self) -> int:
        """The step now."""

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return a runtime info."""

    def past(self, selection: Selection, replay: Replay, since: int | None) -> Iterator[Event]:
        """Return the past events of ``selection``; called while nothing can be published."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms somebody reads; see ``MessageHub.subscribe``."""

    wanted: tuple[str | type[Event], ...]
    max_lag: int | None = None
    overflow: Overflow | None = None
    replay: Replay = "none"
    since: int | None = None
    every: int | str | Every | None = None
    when: Callable[[Any], bool] | None = None

    def rate(self, record: Past) -> Every | None:
        """Return what lets events through as often as ``every`` says, counted from what ``record`` is at now.

        Raises:
            ScheduleError: ``every`` is malformed.
        """
        if self.every is None or isinstance(self.every, Every):
            return self.every
        every = Every(self.every)
        if self.replay == "none" and self.since is None:
            every.begin(record.step, record.get_info(EPOCH_KEY))
        return every

    def open(
        self, bus: EventBus, publisher: Publisher, record: Past, name: str, *, control: bool = False
    ) -> Subscription:
        """Return a new subscription on these terms.

        Raises:
            PatternError: a pattern is malformed.
            ScheduleError: ``every`` is malformed.
            ArgumentError: another argument is out of range.
        """
        wanted = self.wanted or ("**",)
        for one in wanted:
            if isinstance(one, type) and not issubclass(one, Event):
                raise ArgumentError(f"wanted are key patterns and Event classes, got {one!r}")
        selection = Selection.of(wanted)
        max_lag = self.max_lag
        if max_lag is None:
            max_lag = CONTROL_MAX_LAG if control else OBSERVER_MAX_LAG
        if not isinstance(max_lag, int) or isinstance(max_lag, bool) or max_lag < 1:
            raise ArgumentError(f"max_lag must be an int above 0, got {max_lag!r}")
        overflow = self.overflow or ("raise" if control else "drop_oldest")
        if overflow not in get_args(Overflow):
            *others, last = map(repr, get_args(Overflow))
            raise ArgumentError(f"overflow must be {', '.join(others)} or {last}, got {overflow!r}")
        if control and overflow in ("block", "catch_up"):
            raise ArgumentError(
                "a control subscriber reads when the training loop settles, so the loop must wait neither for it to "
                f"make room nor for it to read a journal: choose another overflow than {overflow!r}"
            )
        if self.replay not in ("none", "last", "all"):
            raise ArgumentError(f"replay must be 'none', 'last' or 'all', got {self.replay!r}; for a seq use since=")
        if self.since is not None and (not isinstance(self.since, int) or isinstance(self.since, bool)):
            raise ArgumentError(f"since must be the seq of an event, got {self.since!r}")
        read = selection
        keep: Callable[[Event], bool] | None = None
        if self.every is not None or self.when is not None:
            if self.when is not None and not callable(self.when):
                raise ArgumentError(f"when must be a function of an event, got {self.when!r}")
            every = self.every if self.every is None or isinstance(self.every, Every) else self.rate(record)
            if every is not None and every.unit == "ep":
                read = Selection(selection.patterns | {EPOCH_KEY}, selection.kinds)
            keep = functools.partial(_kept, selection.test() if read is not selection else None, every, self.when)
        past, past_seq = None, None
        if self.replay != "none" or self.since is not None:
            past = functools.partial(record.past, read, self.replay, self.since)
            past_seq = 0 if self.since is None and self.replay == "all" else self.since
        plain = CatchingSubscription if overflow == "catch_up" else Subscription
        return (SettledSubscription if control else plain)(
            bus,
            publisher,
            name,
            read,
            max_lag=max_lag,
            overflow=overflow,
            past=past,
            past_seq=past_seq,
            keep=keep,
            again=None if self.every is not None else functools.partial(_again, bus, record, read, self.when),
        )


def _again(
    bus: EventBus,
    record: Past,
    selection: Selection,
    when: Callable[[Any], bool] | None,
    after: int,
    upto: int,
) -> Iterator[Event]:
    """Yield the events of ``selection`` in a range of ``seq``, once more; see ``Subscription.again``."""
    tap = bus.tap
    begun = upto if tap is None else tap.begun_seq
    pieces: Iterator[Iterator[Event] | None] = iter(())
    if after < begun:  # the journal cannot read that back: it may hold what does not count, of before a resume
        with bus.still():
            pieces = iter((record.past(selection, "none", after),))
    for piece in pieces if tap is None else chain(pieces, tap.read_back(after, upto, selection.test())):
        if piece is None:
            raise JournalError("the disk refuses the journal, and what is to be read again is not on it yet")
        before = after  # within a piece two may have one seq
        for event in piece:
            if before < event.seq <= upto and (when is None or when(event)):
                after = event.seq
                yield event


def _kept(
    test: Callable[[str, type[Event]], bool] | None,
    every: Every | None,
    when: Callable[[Any], bool] | None,
    event: Event,
) -> bool:
    """Tell whether a reader gets ``event``: it is of its selection, due, and passes its predicate."""
    if isinstance(event, EventsDropped):
        return True
    due = every is None or every(event)
    return due and (test is None or test(event.key, type(event))) and (when is None or bool(when(event)))


class EventFunction:
    """A plain function, called with one event at a time, as a subscriber.

    Events that were lost are not handed to the function, but said through ``logging``.
    """

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    async def __call__(self, events: Subscription) -> None:
        function = self.function
        async for batch in events.batches():
            rest = iter(batch)
            if type(batch[0]) is EventsDropped:  # it stands nowhere else
                logger.warning("%s lost %d events: it fell behind", events.name, batch[0].missed)
                next(rest)
            try:
                for event in rest:
                    result = function(event)
                    if result is not None and inspect.isawaitable(result):
                        await result
            except BaseException:
                events.unread(list(rest))
                raise


def check_subscriber(subscriber: object) -> Subscriber:
    """Return ``subscriber`` if it is a callable that returns an awaitable.

    Raises:
        SubscriberTypeError: it is not.
    """
    if not callable(subscriber):
        raise SubscriberTypeError(f"a subscriber must be callable with a Subscription, got {subscriber!r:.80}")
    inner: Any = subscriber
    while isinstance(inner, functools.partial):
        inner = inner.func
    asynchronous = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004  # its kind is asked, not whether it is callable
    if not asynchronous or isinstance(inner, type):
        raise SubscriberTypeError(
            f"a subscriber must be `async def __call__(self, events)`, got {inner!r:.80}; "
            "attach a plain function of one event with @hub.on(...), and an instance instead of a class"
        )
    return subscriber
