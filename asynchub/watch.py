"""The newest value of one key."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio

from asynchub.errors import SubscriptionClosedError, WaitTimeoutError
from asynchub.events import Event, EventsDropped
from asynchub.subscription import Subscription

__all__ = ("Watch", "first_event")


class Watch:
    """Holds the newest value of a key, and can be awaited for a change.

    Made by ``MessageHub.watch``. Close it, or use it as a context manager, when it is no longer needed.

    Attributes:
        key: the key.
    """

    def __init__(self, key: str, read: Callable[[str], Any], subscription: Subscription) -> None:
        self.key = key
        self._read = read
        self._subscription = subscription

    @property
    def value(self) -> Any:
        """The newest value of the scalar, or else of the runtime info; None if there is none. Never waits."""
        return self._read(self.key)

    async def changed(self, timeout: float | None = None) -> Event:
        """Wait until the key was updated since the last call, or since the watch was made; return the newest event.

        Raises:
            WaitTimeoutError: it was not, for ``timeout`` seconds.
            SubscriptionClosedError: the hub was left.
        """
        return await first_event(self._subscription, None, timeout)

    def close(self) -> None:
        """Stop watching."""
        self._subscription.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def first_event(events: Subscription, predicate: Callable[[Any], bool] | None, timeout: float | None) -> Event:
    """Return the first of ``events`` for which ``predicate`` holds.

    Raises:
        WaitTimeoutError: none came in ``timeout`` seconds.
        SubscriptionClosedError: the subscription ended first.
    """
    with anyio.move_on_after(timeout) as scope:
        async for event in events:
            if not isinstance(event, EventsDropped) and (predicate is None or predicate(event)):
                return event
    if scope.cancelled_caught:
        raise WaitTimeoutError(f"{events.name}: nothing came in {timeout} s")
    raise SubscriptionClosedError(f"{events.name}: the hub was left before it came")
