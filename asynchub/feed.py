"""A record whose updates can be read: as events, by any number of readers, live or from the past."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from asynchub.attachments import Attachments
from asynchub.channels import Overflow, Selection, SubscriptionStatistics
from asynchub.control import SettlePoint
from asynchub.declaring import Parameter, declared
from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoRemoved, InfoUpdated, ScalarUpdated
from asynchub.history import HistoryBuffer
from asynchub.ledger import Records
from asynchub.loops import in_event_loop
from asynchub.past import past_events
from asynchub.pending import DeviceStatistics, couriers
from asynchub.record import Record
from asynchub.requests import Request
from asynchub.runner import Attachment, OnError, Subscriber
from asynchub.subscription import Subscription
from asynchub.taps import Tap
from asynchub.terms import EventFunction, Replay, Terms
from asynchub.watch import Watch, first_event

__all__ = ("Feed", "Heir", "HubStatistics")

logger = logging.getLogger("asynchub")
R = TypeVar("R", bound=Request)
_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """How a hub is doing.

    Attributes:
        seq: events so far.
        step: the step now.
        scalars: keys with a history.
        infos: keys of runtime info.
        subscriptions: of each open subscription, how it is doing.
        held: events that wait for a value from a device, their own or one published before.
        devices: of each device that values came from in this process, how they do.
        settled_count: settle points so far.
        settled_seconds: what they took of the training loop's time, rules and what requests applied included.
    """

    seq: int
    step: int
    scalars: int
    infos: int
    subscriptions: tuple[SubscriptionStatistics, ...]
    held: int = 0
    devices: tuple[DeviceStatistics, ...] = ()
    settled_count: int = 0
    settled_seconds: float = 0.0


class Heir(Protocol):
    """Who takes what is published in forked children.

    Attributes:
        address: where it takes it.
    """

    address: str

    def forked(self) -> Callable[[], None]:
        """Begin in a forked child, and return what its first publish is to call; does not raise."""


class Feed(Record):
    """A record, and the front door of its readers; arguments as of ``Record``."""

    def _begin(self, latency: float, capacity: int) -> None:
        super()._begin(latency, capacity)
        self._settle_point = SettlePoint(self._bus, self)
        self._attachments = Attachments(self._bus, self, self, self._settle_point)
        self._subscriptions: list[Subscription] = []
        self._replayed: tuple[Event, ...] = ()  # of those that no history has, what a journal gave back
        self._heir: Heir | None = None

    # --- reading events

    def subscribe(
        self,
        *wanted: str | type[Event],
        max_lag: int | None = None,
        overflow: Overflow | None = None,
        replay: Replay = "none",
        since: int | None = None,
        every: int | str | None = None,
        when: Callable[[Any], bool] | None = None,
        name: str | None = None,
    ) -> Subscription:
        """Return an async iterator of events. Close it when done: it is a context manager.

        Args:
            wanted: key patterns (``"train/*"``, ``"val/**"``) and event classes; nothing for every event.
            max_lag: how many events it may be behind; default 65,536.
            overflow: what it loses beyond; default ``"drop_oldest"``. See ``asynchub.channels.Overflow``.
            replay: what it gets of the past first; see ``asynchub.terms.Replay``.
            since: get everything after this ``seq`` first, as far as the histories hold it.
            every: how often it wants each key: ``10`` (events), ``"100ba"``, ``"1ep"``, ``"30s"`` (``asynchub.every``).
            when: a predicate; only events for which it holds come.
            name: for statistics and messages.

        Raises:
            PatternError: a pattern is malformed.
            ScheduleError: ``every`` is malformed.
            ArgumentError: another argument is out of range.
        """
        if name is not None and not isinstance(name, str):
            raise ArgumentError(f"name must be a str, got {name!r:.80}")
        terms = Terms(wanted, max_lag, overflow, replay, since, every, when)
        subscription = terms.open(self._bus, self, self, name or f"subscription {', '.join(map(str, wanted)) or '**'}")
        if overflow == "block" and in_event_loop():
            subscription.read_here()
        with self._bus.collecting:
            self._subscriptions = [*(one for one in self._subscriptions if not one.closed), subscription]
        return subscription

    def attach(
        self,
        subscriber: Subscriber | Tap,
        *wanted: str | type[Event],
        name: str | None = None,
        role: str | None = None,
        order: int = 0,
        on_error: OnError | None = None,
        max_lag: int | None = None,
        overflow: Overflow | None = None,
        replay: Replay = "none",
        since: int | None = None,
        every: int | str | None = None,
        when: Callable[[Any], bool] | None = None,
    ) -> Attachment:
        """Have ``subscriber`` read events for as long as the hub is entered.

        What is published from now on reaches it, also before the hub is entered. Its state, if it has
        ``state_dict`` and ``load_state_dict``, is saved with the hub's, under its name.

        Args:
            subscriber: ``async def __call__(self, events: Subscription)``; see ``asynchub.runner.Subscriber``. Or a
                journal, which takes every event inside of each publish, also while the hub is not entered, and of which
                a hub has one.
            wanted: as in ``subscribe``; default its ``keys``.
            name: default its ``name``, or the name of its class.
            role: ``"observer"`` (on the hub's loop) or ``"control"`` (inside settle points); default its ``role``.
            order: control subscribers run by this, smallest first, then in the order of attachment.
            on_error: what follows when it raises; see ``asynchub.runner.OnError``. Control subscribers always raise
                from the settle point.
            max_lag: as in ``subscribe``; of a control subscriber by default 1,048,576.
            overflow: as in ``subscribe``; of a control subscriber by default ``"raise"``.
            replay: as in ``subscribe``.
            since: as in ``subscribe``.
            every: as in ``subscribe``.
            when: as in ``subscribe``.

        Raises:
            SubscriberTypeError: it is not callable, or not async.
            AsyncHubError: as ``subscribe``.
        """
        if isinstance(subscriber, Tap):
            others = (*wanted, role, max_lag, overflow, since, every, when)
            if any(one is not None for one in others) or replay != "none" or order:
                raise ArgumentError("a journal takes every event: attach it with name= and on_error= only")
            return self._attachments.attach_tap(subscriber, name, on_error)
        terms = Terms(wanted, max_lag, overflow, replay, since, every, when)
        return self._attachments.attach(subscriber, terms, name, role, on_error, order)

    def on(self, *wanted: str | type[Event], **terms: Any) -> Callable[[_F], _F]:
        """Return a decorator that attaches a function, plain or async, called with one event at a time.

        Args:
            wanted: as in ``subscribe``.
            **terms: as in ``attach``.
        """

        def decorate(function: _F) -> _F:
            if not callable(function) or isinstance(function, type):
                raise ArgumentError(f"@hub.on decorates a function of one event, got {function!r:.80}")
            self.attach(EventFunction(function), *wanted, **terms)
            return function

        return decorate

    def detach(self, subscriber: object) -> None:
        """Detach whatever was attached as ``subscriber``: the attachment, its name, the subscriber or the function.

        Raises:
            ArgumentError: nothing was.
        """
        for one in self._attachments.with_tap:
            inner = one.subscriber.function if isinstance(one.subscriber, EventFunction) else one.subscriber
            if subscriber is one or subscriber is inner or subscriber == one.name:
                one.detach()
                return
        raise ArgumentError(f"{subscriber!r:.80} is not attached")

    def watch(self, key: str) -> Watch:
        """Return a watch of ``key``: its newest value, that can be awaited for a change."""
        return Watch(key, self._newest, self.subscribe(key, max_lag=1, overflow="latest", name=f"watch {key}"))

    async def wait_for(
        self, key: str, predicate: Callable[[Any], bool] | None = None, timeout: float | None = None
    ) -> Event:
        """Wait for an event of ``key`` for which ``predicate`` holds, and return it; the newest one so far counts.

        Raises:
            WaitTimeoutError: none came in ``timeout`` seconds.
            SubscriptionClosedError: the hub was left first.
        """
        with self.subscribe(key, replay="last", name=f"wait_for {key}") as events:
            return await first_event(events, predicate, timeout)

    def statistics(self) -> HubStatistics:
        """Return how the hub and its subscriptions are doing now."""
        with self._bus.lock:
            self._bus.number()
            seq, held = self._bus.seq, self._bus.seq - self._bus.out
        readers: list[Attachment | Subscription] = [*self._attachments.with_tap]
        readers += [one for one in self._subscriptions if not one.closed]
        return HubStatistics(
            seq=seq,
            step=self._step,
            scalars=len(self._log_scalars),
            infos=len(self._runtime_info),
            subscriptions=tuple(one.statistics() for one in readers),
            held=held,
            devices=tuple(courier.statistics() for courier in couriers()),
            settled_count=self._settle_point.settled_count,
            settled_seconds=self._settle_point.settled_seconds,
        )

    # --- asking

    def request(self, request: R) -> R:
        """Ask something of the training loop; return the request as stamped. Any thread.

        It takes effect at the loop's next ``settle`` or ``apply_requests``.

        Raises:
            ArgumentError: ``request`` is not a ``Request``.
        """
        if not isinstance(request, Request):
            raise ArgumentError(f"request takes a Request, got {type(request).__name__}; see asynchub.requests")
        stamped = self.publish(request)
        self._settle_point.requests.push(stamped)
        return stamped

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What can be set while the run goes on, by name: what attached subscribers declare. Any thread."""
        return declared((one.name, one.subscriber) for one in self._attachments)

    # --- the journal

    def commit(self, timeout: float | None = None) -> None:
        """Wait until the disk has all that was published before the call, so that it survives a power failure.

        Args:
            timeout: seconds; None for ever.

        Raises:
            LifecycleError: no journal is attached, or the hub was left.
            JournalError: the disk has refused the journal.
            WaitTimeoutError: the timeout passed.
        """
        self._attachments.tapping.commit(timeout)

    async def committed(self, timeout: float | None = None) -> None:
        """Do what ``commit`` does without blocking the loop."""
        await self._attachments.tapping.committed(timeout)

    # --- inside

    def recorded(
        self, since: int, test: Callable[[str, type[Event]], bool] = lambda key, kind: True
    ) -> tuple[list[tuple[str, bool, Records]], list[InfoUpdated]]:
        """Return what the histories and runtime infos hold beyond ``since`` (a ``seq``). Call with the log still.

        Args:
            since: the ``seq``.
            test: whether events of a key and kind are asked for.
        """
        out = self._bus.out
        scalars = [
            (key, bool(self._resumed_keys.get(key, True)), history.records(since, wait=False))
            for key, history in self._log_scalars.items()
            if isinstance(history, HistoryBuffer) and test(key, ScalarUpdated)
        ]
        infos = [
            InfoUpdated(seq=seq, time=time, step=step, key=key, value=self._runtime_info[key])
            for key, (seq, time, step) in self._info_stamps.items()
            if key in self._runtime_info and since < seq <= out and test(key, InfoUpdated)
        ]
        return scalars, infos

    def _newest(self, key: str) -> Any:
        history = self._log_scalars.get(key)
        if isinstance(history, HistoryBuffer) and len(values := history.snapshot().values):
            return values[-1:].tolist()[0]  # a Python number, whatever the dtype
        return self._runtime_info.get(key)

    def past(self, selection: Selection, replay: Replay, since: int | None) -> Iterator[Event]:
        """Return the events of the past that ``selection`` and ``replay``, or ``since`` (a ``seq``), ask for.

        Scalars come from the histories, runtime info with its newest value only. Call with the log still.
        """
        test = selection.test()
        after = -1 if since is None else since
        recorded, newest = self.recorded(after, test)
        others: dict[tuple[int, type[Event], str], Event] = {}  # a seq alone may be that of two: see `batches.in_order`
        others.update(((event.seq, type(event), event.key), event) for event in newest)
        gone = self._gone()
        for event in self._replayed:
            if event.seq > after and test(event.key, type(event)) and (event.key, type(event)) not in gone:
                others[event.seq, type(event), event.key] = event
        scalars = [(key, records) for key, _, records in recorded]
        if replay == "last" and since is None:
            scalars = [(key, type(records)(*(column[-1:] for column in records))) for key, records in scalars]
            others = {(event.seq, type(event), event.key): event for event in newest}
        return past_events(scalars, sorted(others.values(), key=attrgetter("seq")))

    def _gone(self) -> set[tuple[str, type[Event]]]:
        """Return the infos that a journal gave back and that were removed since: nothing in ``_replayed`` says so."""
        last = {event.key: type(event) for event in self._replayed if isinstance(event, InfoUpdated | InfoRemoved)}
        return {(key, kind) for key, kind in last.items() if kind is InfoUpdated and key not in self._runtime_info}

    def _close_log(self) -> None:
        with self._bus.collecting:
            subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.close()

    def _forked(self) -> None:
        """Begin anew in a forked child: what reads belongs to the parent."""
        self._bus.renew()
        self._forget_cells()
        self._subscriptions = []
        for history in self._log_scalars.values():
            if isinstance(history, HistoryBuffer):
                history.forked()
        self._bus.once = self._say_forked if self._heir is None else self._heir.forked()
        self._bus.look_again()

    def _say_forked(self) -> None:
        logger.warning(
            "hub %r was forked: what this process records stays in its own copy; nobody reads it, unless the parent "
            "forks inside of `with Children(hub)`",
            self.instance_name,
        )
