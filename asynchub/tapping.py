"""The life of a hub's tap: attached, it takes what is published, until the hub is left or it is detached."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asynchub.bus import EventBus
from asynchub.channels import SubscriptionStatistics
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.loops import deadline_in, seconds_until
from asynchub.runner import Attachment, OnError
from asynchub.subscription import Subscription
from asynchub.taps import Commit, Tap

__all__ = ("TapAttachment", "Tapping")

logger = logging.getLogger("asynchub")


class TapAttachment(Attachment):
    """A tap attached to a hub; ``role`` is ``"tap"``, and its subscription yields nothing.

    In its statistics, ``lag`` counts the events that are not on the disk yet, ``delivered`` those that are.
    """

    def __init__(
        self,
        name: str,
        tap: Tap,
        on_error: OnError,
        subscription: Subscription,
        detach: Callable[[Attachment], None],
    ) -> None:
        subscriber: Any = tap  # which is not called
        super().__init__(name, subscriber, "tap", on_error, subscription, detach)
        self.tap = tap
        self.ended = False

    def statistics(self) -> SubscriptionStatistics:
        """Return how it is doing now."""
        lag, delivered, dropped = self.tap.counts()
        return SubscriptionStatistics(
            name=self.name,
            lag=lag,
            delivered=delivered,
            dropped=dropped,
            errors=self.subscription.errors,
            busy_seconds=0.0,
            max_lag=self.subscription.statistics().max_lag,
            overflow="block",
            closed=self.ended,
            role="tap",
        )


class Tapping:
    """Whether a hub has a tap, and which.

    Args:
        bus: the hub's log.
        hub: the hub.
    """

    def __init__(self, bus: EventBus, hub: Any) -> None:
        self._bus = bus
        self._hub = hub
        self._lock = threading.RLock()
        self.attachment: TapAttachment | None = None

    def attach(self, tap: Tap, name: str | None, on_error: OnError, subscription: Subscription) -> TapAttachment:
        """Have ``tap`` take what is published from now on.

        Raises:
            ArgumentError: there is one already.
            AsyncHubError: it cannot begin.
        """
        subscription.finish()
        with self._lock:
            if self.attachment is not None:
                raise ArgumentError(
                    f"{self.attachment.name!r} is attached already; a hub has one journal: detach it first"
                )
            attachment = TapAttachment(name or tap.name, tap, on_error, subscription, self._detach)
            tap.begin(self._hub)
            self.attachment = attachment
        return attachment

    def enter(self) -> None:
        """Go on after the hub was left."""
        with self._lock:
            if self.attachment is not None and self.attachment.ended:
                self.attachment.tap.begin(self._hub)
                self.attachment.ended = False

    def leave(self) -> Exception | None:
        """End it, as the hub is left; return what went wrong if leaving is to raise it."""
        with self._lock:
            attachment = self.attachment
            if attachment is None or attachment.ended:
                return None
            attachment.ended = True
            try:
                attachment.tap.end()
            except Exception as error:
                attachment.error = error
                attachment.subscription.errors += 1
                logger.error("%r could not be ended well", attachment.name, exc_info=error)
                return error if attachment.on_error == "raise" else None
            return None

    def _detach(self, attachment: Attachment) -> None:
        with self._lock:
            if self.attachment is attachment:
                self.leave()
                self.attachment = None

    def forked(self) -> None:
        """Forget it, as a forked child must."""
        self._lock = threading.RLock()
        attachment, self.attachment = self.attachment, None
        if attachment is not None and not attachment.ended:
            attachment.tap.forked()

    def snapshot_saved(self, path: Path, seq: int, oldest_seq: int) -> None:
        """Tell the tap that a generation of the hub's state is on the disk; see ``Tap.snapshot_saved``."""
        attachment = self.attachment
        if attachment is not None and not attachment.ended:
            attachment.tap.snapshot_saved(path, seq, oldest_seq)

    # --- waiting for the disk

    def commit(self, timeout: float | None) -> None:
        """Wait until the disk has all that was published before the call; see ``MessageHub.commit``."""
        tap, deadline = self._living(), deadline_in(timeout)
        self._bus.drain(timeout)
        commit = tap.commit()
        if not commit.latch.wait(seconds_until(deadline)):
            raise WaitTimeoutError(f"the disk has not taken event {commit.seq} in {timeout} s")
        _raise_failure(commit)

    async def committed(self, timeout: float | None) -> None:
        """Do the same in this task."""
        tap, deadline = self._living(), deadline_in(timeout)
        await self._bus.drain_awaited(timeout)
        commit = tap.commit()
        if not await commit.latch.waited(seconds_until(deadline)):
            raise WaitTimeoutError(f"the disk has not taken event {commit.seq} in {timeout} s")
        _raise_failure(commit)

    def _living(self) -> Tap:
        attachment = self.attachment
        if attachment is None or attachment.ended:
            raise LifecycleError("commit() needs a journal: hub.attach(Journal('run/journal')) first")
        return attachment.tap


def _raise_failure(commit: Commit) -> None:
    if commit.error is not None:
        raise commit.error
