"""The subscribers attached to one hub: their names, their lives and their saved state.

An attachment outlives the hub's being entered: each time the hub is entered its subscriber runs once more, and is
given what it had not handled yet, as far as the histories hold it.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.control import SettlePoint
from asynchub.errors import ArgumentError, StateError, SubscribersFailedError
from asynchub.events import SubscriberFailed
from asynchub.every import EPOCH_KEY, Every
from asynchub.loops import Latch
from asynchub.rounds import ControlSubscriber
from asynchub.runner import Attachment, OnError, Runner
from asynchub.settled import SettledSubscription
from asynchub.standing import as_saved, from_seq, is_stateful, state_of
from asynchub.subscription import Subscription
from asynchub.tapping import TapAttachment, Tapping
from asynchub.taps import Tap
from asynchub.terms import Past, Terms, check_subscriber

__all__ = ("Attachments",)

logger = logging.getLogger("asynchub")
_ON_ERROR = ("detach", "restart", "raise")


class Attachments:
    """Every attached subscriber of one hub.

    Attributes:
        bus: the hub's log.

    Args:
        bus: the hub's log.
        publisher: the hub.
        record: where past events come from.
        settle_point: where control subscribers run.
    """

    def __init__(self, bus: EventBus, publisher: Publisher, record: Past, settle_point: SettlePoint) -> None:
        self.bus = bus
        self._publisher = publisher
        self._record = record
        self._settle_point = settle_point
        settle_point.failed = self.control_failed
        self._lock = threading.RLock()
        self._terms: dict[str, Terms] = {}
        self._order: dict[str, int] = {}
        self._all: dict[str, Attachment] = {}
        self._controls: dict[str, ControlSubscriber] = {}
        self._reloads: dict[str, Any] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._failures: list[Exception] = []
        self._ended = False  # the hub was left: nothing runs until it is entered again
        self.tapping = Tapping(bus, publisher)
        self.runner: Runner | None = None
        self.make_runner: Callable[[], Runner] | None = None

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._all.values()))

    @property
    def with_tap(self) -> list[Attachment]:
        """Every attached subscriber, and the tap."""
        tap = self.tapping.attachment
        return list(self) if tap is None else [*self, tap]

    @property
    def observers(self) -> list[Attachment]:
        """Those that live on the hub's loop."""
        return [one for one in self if one.role == "observer"]

    def attach(
        self, subscriber: object, terms: Terms, name: str | None, role: str | None, on_error: OnError | None, order: int
    ) -> Attachment:
        """Attach a subscriber; see ``MessageHub.attach``."""
        subscriber = check_subscriber(subscriber)
        role = role or getattr(subscriber, "role", "observer")
        if role not in ("control", "observer"):
            raise ArgumentError(f"role must be 'control' or 'observer', got {role!r}")
        on_error = on_error or "detach"
        if on_error not in _ON_ERROR:
            raise ArgumentError(f"on_error must be one of {', '.join(_ON_ERROR)}, got {on_error!r}")
        own = getattr(subscriber, "keys", ())
        wanted = terms.wanted or (tuple(own) if isinstance(own, list | tuple | set | frozenset) else (own,))
        terms = replace(terms, wanted=wanted)
        with self._lock:
            terms = replace(terms, every=terms.rate(self._record))
            name = self._free_name(name, subscriber)
            saved = self._saved.get(name) if is_stateful(subscriber) else None
            first = terms
            if saved is not None and terms.replay == "none":
                terms = as_saved(terms, saved)
                first = from_seq(terms, saved["seq"])
            subscription = self._open(first, name, role)
            attachment = Attachment(name, subscriber, role, on_error, subscription, self.detach)
            if saved is not None:
                try:
                    subscriber.load_state_dict(saved["state"])  # type: ignore[attr-defined]  # it is stateful
                except BaseException:
                    subscription.finish()
                    raise
                del self._saved[name]
            self._all[name] = attachment
            self._terms[name] = terms
            self._order[name] = order
            self._start(attachment)
        return attachment

    def attach_tap(self, tap: Tap, name: str | None, on_error: OnError | None) -> TapAttachment:
        """Attach what acts inside of each publish; see ``MessageHub.attach``."""
        on_error = on_error or "detach"
        if on_error not in _ON_ERROR:
            raise ArgumentError(f"on_error must be one of {', '.join(_ON_ERROR)}, got {on_error!r}")
        nothing = self._open(Terms((SubscriberFailed,)), tap.name, "observer")
        return self.tapping.attach(tap, self._free_name(name, tap), on_error, nothing)

    def _open(self, terms: Terms, name: str, role: str) -> Subscription:
        return terms.open(self.bus, self._publisher, self._record, name, control=role == "control")

    def _free_name(self, name: str | None, subscriber: object) -> str:
        if name is not None:
            if not isinstance(name, str) or not name:
                raise ArgumentError(f"name must be a non-empty str, got {name!r}")
            if name in self._all:
                raise ArgumentError(
                    f"a subscriber named {name!r} is attached already; detach it or choose another name"
                )
            return name
        own = getattr(subscriber, "name", None)
        base = own if isinstance(own, str) and own else getattr(subscriber, "__name__", type(subscriber).__name__)
        number = 1
        while (free := base if number == 1 else f"{base}#{number}") in self._all:
            number += 1
        return free

    def _start(self, attachment: Attachment) -> None:
        """Have an attachment with a fresh subscription run."""
        subscription = attachment.subscription
        if isinstance(subscription, SettledSubscription):
            control = ControlSubscriber(
                attachment.name,
                self._order[attachment.name],
                functools.partial(attachment.subscriber, subscription),
                subscription,
            )
            self._controls[attachment.name] = control
            self._settle_point.add(control)
            return
        if self._ended:
            return
        if self.runner is None and self.make_runner is not None:
            self.runner = self.make_runner()
        if self.runner is not None:
            self.runner.add(attachment)

    def detach(self, attachment: Attachment) -> None:
        """Take one off: it handles what it holds and ends; a control subscriber at the next settle point."""
        with self._lock:
            if self._all.get(attachment.name) is not attachment:
                return
            self._forget(attachment)
            self._controls.pop(attachment.name, None)
            self._reloads.pop(attachment.name, None)
        attachment.subscription.close()

    def _forget(self, attachment: Attachment) -> None:
        for table in (self._all, self._terms, self._order):
            table.pop(attachment.name, None)

    # --- living

    def enter(self) -> None:
        """Make every attachment run: for the first time, or once more after the last leaving."""
        self.tapping.enter()
        with self._lock:
            again, self._ended = self._ended, False
            for attachment in self:
                if again and attachment.subscription.closed:
                    self._renew(attachment, attachment.subscription.last_seq)
                elif attachment.role == "observer":
                    self._start(attachment)

    def _renew(self, attachment: Attachment, since: int) -> None:
        attachment.subscription = self._open(
            from_seq(self._terms[attachment.name], since), attachment.name, attachment.role
        )
        attachment.error = None
        self._start(attachment)

    def leave(self, failing: bool, role: str) -> None:
        """Close the subscriptions of those of a role; what runs will end by itself.

        Args:
            failing: whether an exception is under way.
            role: ``"control"`` first, so that observers see what those say at the end, then ``"observer"``.
        """
        with self._lock:
            self._ended = True
            for attachment in self:
                if attachment.role == role:
                    attachment.subscription.failing = failing
                    attachment.subscription.close()

    def end_tap(self) -> None:
        """End the tap, once all others have ended; may wait for the disk."""
        error = self.tapping.leave()
        if error is not None:
            self._failures.append(error)

    def raise_failures(self) -> None:
        """Raise what subscribers with ``on_error="raise"`` raised since the last call.

        Raises:
            SubscribersFailedError: there is something.
        """
        failures, self._failures = self._failures, []
        if failures:
            raise SubscribersFailedError("subscribers failed", failures)

    def failed(self, attachment: Attachment, error: Exception) -> None:
        """Say that a subscriber raised, once, and publish it."""
        logger.error("subscriber %r failed (%s)", attachment.name, attachment.on_error, exc_info=error)
        if attachment.on_error == "raise":
            self._failures.append(error)
        self._publish_failure(attachment.name, error, attachment.on_error)

    def control_failed(self, name: str, error: BaseException) -> None:
        """Say that a control subscriber raised; the settle point raises it."""
        attachment = self._all.get(name)
        if attachment is not None:
            attachment.error = error
            attachment.subscription.errors += 1
            self._forget(attachment)
        self._controls.pop(name, None)
        logger.error("control subscriber %r failed", name, exc_info=error)
        self._publish_failure(name, error, "raise")

    def _publish_failure(self, name: str, error: BaseException, action: str) -> None:
        text = f"{type(error).__name__}: {error}"
        self._publisher.publish(SubscriberFailed(subscriber=name, error=text, action=action))

    def ended(self, attachment: Attachment, runner: Runner) -> None:
        """An observer has returned: begin it anew if its state was replaced meanwhile, else forget it."""
        with self._lock:
            reload = self._reloads.pop(attachment.name, None)
            if reload is not None:
                subscriber: Any = attachment.subscriber
                try:
                    subscriber.load_state_dict(reload)
                except Exception as error:  # this is the readers' loop, which must go on
                    attachment.subscription.finish()
                    self._forget(attachment)
                    self.failed(attachment, error)
                else:
                    runner.add(attachment)
            elif not self._ended and self._all.get(attachment.name) is attachment:
                self._forget(attachment)

    def forked(self) -> None:
        """Forget everybody, as a forked child must."""
        self._lock = threading.RLock()
        self.tapping.forked()
        self.runner = self.make_runner = None
        for table in (self._all, self._terms, self._order, self._controls):
            table.clear()

    # --- state

    @property
    def awaited(self) -> list[Attachment]:
        """The observers that run and have a state: saving waits until they have got there."""
        return [one for one in self.observers if self.runner is not None and is_stateful(one.subscriber)]

    def capture(self, freeze: Callable[[], None]) -> tuple[Latch, dict[str, Any]]:
        """Begin to take the state of every stateful subscriber, each between two events.

        Running observers are taken when they have handled all that was published up to now, and nothing newer: what is
        neither scalar nor info, a decision say, is in no history, and could not be handed out again. Control
        subscribers are taken where they are. Waits for what is on its way from a device.

        Args:
            freeze: called with log and record as they are now.

        Returns:
            A latch that is set when all are taken, and the dict that they are put in: name to ``{"state", "seq"}``,
            ``seq`` being that of the newest event the state knows of; or to the error that taking it raised.
        """
        bus = self.bus
        amid = bus.may_not_wait()
        with bus.gate():
            while True:
                bus.drain()
                with bus.collecting:  # nobody reads on
                    with bus.still():
                        if bus.held and not amid:  # it was published meanwhile
                            continue
                        freeze()
                        awaited = self.awaited
                        stateful = [
                            (one, self._terms.get(one.name), one.subscription.mark() if one in awaited else 0)
                            for one in self
                            if is_stateful(one.subscriber)
                        ]
                    return self._take(stateful)

    def _take(self, stateful: list[tuple[Attachment, Terms | None, int]]) -> tuple[Latch, dict[str, Any]]:
        """Take the state of each when it has got to its position; with ``collecting`` held."""
        states: dict[str, Any] = {}
        latch = Latch()
        left = [len(stateful)]

        def take(attachment: Attachment, subscription: Subscription, terms: Terms | None) -> None:
            name = attachment.name
            try:
                if attachment.subscription is not subscription:
                    raise StateError(f"{name!r} got a loaded state before its own was taken; save again")
                states[name] = state_of(attachment, terms)
            except Exception as error:  # this may be the reader's thread: whoever saves is to have it
                states[name] = error
            left[0] -= 1
            if not left[0]:
                latch.set()

        if not stateful:
            latch.set()
        for attachment, terms, position in stateful:
            subscription = attachment.subscription
            subscription.when_handled(position, functools.partial(take, attachment, subscription, terms))
        return latch, states

    def control_states(self) -> dict[str, dict[str, Any]]:
        """Return the states of the control subscribers that have one, by name, as ``capture`` does."""
        controls = [one for one in self if one.role == "control" and is_stateful(one.subscriber)]
        return {one.name: state_of(one, self._terms.get(one.name)) for one in controls}

    def keep_states(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Keep saved states for subscribers that are attached later."""
        with self._lock:
            self._saved.update(states)

    def load_states(self, states: dict[str, dict[str, Any]]) -> None:
        """Give every stateful subscriber its saved state; keep the rest for those attached later."""
        with self._lock:
            self._saved = dict(states)
            for terms in self._terms.values():
                if isinstance(terms.every, Every):
                    terms.every.begin(self._record.step, self._record.get_info(EPOCH_KEY))
            for attachment in self:
                if attachment.name not in self._saved or not is_stateful(attachment.subscriber):
                    continue
                saved = self._saved.pop(attachment.name)
                control = self._controls.pop(attachment.name, None)
                if control is not None:
                    control.end()
                    self._settle_point.remove(control)
                old = attachment.subscription
                terms = self._terms[attachment.name] = as_saved(self._terms[attachment.name], saved)
                running = attachment.role == "observer" and self.runner is not None
                if running:  # it gets its state when it has come back from the event it is at
                    self._reloads[attachment.name] = saved["state"]
                else:
                    subscriber: Any = attachment.subscriber
                    subscriber.load_state_dict(saved["state"])
                attachment.subscription = self._open(from_seq(terms, saved["seq"]), attachment.name, attachment.role)
                if not running:
                    self._start(attachment)
                old.finish()
