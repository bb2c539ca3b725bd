"""Where observers live: a task group, on a loop in a thread of its own or on the program's loop.

Isolation: a subscriber that raises does not touch the others; what follows is its ``on_error``.
Closing: subscriptions are closed first; subscribers handle what they still hold, run their ``finally`` and return. What
    has not returned at the timeout is cancelled, and said.
Threads: ``add`` and ``stop`` may be called from any thread.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from asynchub.channels import SubscriptionStatistics
from asynchub.errors import LifecycleError
from asynchub.loops import Latch, LoopHandle
from asynchub.subscription import Subscription

__all__ = ("CURRENT_SUBSCRIBER", "Attachment", "OnError", "Runner", "Subscriber")

logger = logging.getLogger("asynchub")
Subscriber = Callable[[Subscription], Awaitable[None]]
"""``async def __call__(self, events: Subscription) -> None``: reads events until there are no more."""
OnError = Literal["detach", "restart", "raise"]
"""What follows when a subscriber raises: it is detached; it runs again after a while; leaving the hub raises."""
CURRENT_SUBSCRIBER: ContextVar[Attachment | None] = ContextVar("asynchub_subscriber", default=None)
"""The observer that the running code belongs to."""
BACK_OFF = (0.1, 30.0)
"""Seconds before the first restart, and at most; each is twice the one before."""
START_TIMEOUT = 30.0
CANCEL_TIMEOUT = 5.0
"""Seconds that leaving waits for a cancelled subscriber."""


class Attachment:
    """A subscriber attached to a hub.

    Attributes:
        name: its name, unique in the hub; its saved state goes by it.
        subscriber: the subscriber.
        role: ``"control"`` or ``"observer"``.
        on_error: what follows when it raises.
        subscription: what it reads now.
        error: what it raised last, or None.
    """

    def __init__(
        self,
        name: str,
        subscriber: Subscriber,
        role: str,
        on_error: OnError,
        subscription: Subscription,
        detach: Callable[[Attachment], None],
    ) -> None:
        self.name = name
        self.subscriber = subscriber
        self.role = role
        self.on_error = on_error
        self.subscription = subscription
        self.error: BaseException | None = None
        self._detach = detach

    def detach(self) -> None:
        """Take the subscriber off the hub: it handles what it still holds and ends. Any thread; does not wait.

        A control subscriber ends at the next settle point.
        """
        self._detach(self)

    def statistics(self) -> SubscriptionStatistics:
        """Return how its subscription is doing."""
        return self.subscription.statistics()

    def __repr__(self) -> str:
        return f"<Attachment {self.name!r} ({self.role})>"


class Runner:
    """Runs observers.

    Args:
        failed: called, on the loop, with an attachment and the error it raised.
        ended: called, on the loop, with an attachment whose subscriber has returned or will not run again, and this.
    """

    def __init__(
        self, failed: Callable[[Attachment, Exception], None], ended: Callable[[Attachment, Runner], None]
    ) -> None:
        self._failed = failed
        self._ended = ended
        self._thread: threading.Thread | None = None
        self._crash: BaseException | None = None
        self._timeout: float | None = None
        self._live: list[Attachment] = []
        self._mail: deque[tuple[Attachment, Subscription]] = deque()

    # --- on the program's loop

    async def open(self) -> None:
        """Begin on the running loop."""
        self._loop = LoopHandle()
        self._stop = anyio.Event()
        self._changed = anyio.Event()
        self._posted = anyio.Event()
        self._group: TaskGroup = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._start_posted, name="asynchub runner")

    async def aclose(self, timeout: float | None) -> None:
        """Wait for the subscribers to return, at most ``timeout`` seconds, and cancel the rest."""
        self._stop.set()
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(timeout):
                while self._live:
                    await self._changed.wait()
            if self._live:
                logger.warning("cancelled after %s s: %s", timeout, ", ".join(one.name for one in self._live))
        finally:
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)

    @property
    def threaded(self) -> bool:
        """Whether the loop is in a thread of its own."""
        return self._thread is not None

    @property
    def here(self) -> bool:
        """Whether the calling thread is that of the loop."""
        return self._loop.is_here()

    def add(self, attachment: Attachment) -> None:
        """Start a subscriber on what its attachment's subscription is now."""
        self._live.append(attachment)
        self._mail.append((attachment, attachment.subscription))
        if self._loop.is_here():
            self._posted.set()
        else:
            self._loop.call_soon(self._post)

    def _post(self) -> None:
        self._posted.set()

    async def _start_posted(self) -> None:
        """Start what was added: a task can only be started by a task."""
        while True:
            while self._mail:
                attachment, subscription = self._mail.popleft()
                name = f"asynchub {attachment.name}"
                self._group.start_soon(self._keep_running, attachment, subscription, name=name)
            await self._posted.wait()
            self._posted = anyio.Event()

    async def _keep_running(self, attachment: Attachment, subscription: Subscription) -> None:
        CURRENT_SUBSCRIBER.set(attachment)
        delay, longest = BACK_OFF
        try:
            while True:
                before = subscription.last_seq
                try:
                    await attachment.subscriber(subscription)
                    return
                except Exception as error:
                    attachment.error = error
                    subscription.errors += 1
                    self._failed(attachment, error)
                if attachment.on_error != "restart":
                    return
                if subscription.closed:  # handle the rest at once, unless it gets nowhere
                    if subscription.ready() and subscription.last_seq > before:
                        continue
                    return
                with anyio.move_on_after(delay):
                    await self._stop.wait()
                delay = min(2 * delay, longest)
        finally:
            subscription.finish()
            self._live.remove(attachment)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
            self._ended(attachment, self)

    # --- on a loop in a thread of its own

    def start_thread(self, name: str, backend: str) -> None:
        """Begin on a new loop in a new thread.

        Raises:
            LifecycleError: the loop could not be started.
        """
        ready = Latch()
        target = functools.partial(self._run, ready, backend)
        self._thread = threading.Thread(target=target, name=f"asynchub {name}", daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT) or self._crash is not None:
            raise LifecycleError(f"no {backend} loop could be started in a thread: {self._crash!r}") from self._crash

    def _run(self, ready: Latch, backend: str) -> None:
        async def main() -> None:
            await self.open()
            ready.set()
            await self._stop.wait()
            await self.aclose(self._timeout)

        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            self._crash = error
        finally:
            ready.set()

    def stop(self, timeout: float | None) -> None:
        """End the thread: wait for its subscribers, at most ``timeout`` seconds, and cancel the rest.

        Raises:
            LifecycleError: a subscriber ignored its cancellation; its thread is left behind.
        """
        if self._thread is None:
            return
        self._timeout = timeout
        self._loop.call_soon(self._stop.set)
        try:
            self._thread.join(None if timeout is None else timeout + CANCEL_TIMEOUT)
        except BaseException:  # an impatient Ctrl-C: do not wait for the rest
            self._loop.call_soon(self._group.cancel_scope.cancel)
            self._thread.join(1.0)
            raise
        if self._thread.is_alive():
            names = ", ".join(one.name for one in self._live)
            raise LifecycleError(f"subscribers ignore their cancellation: {names}")
        self._thread = None
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash
