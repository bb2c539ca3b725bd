"""Entering and leaving a hub.

``with``: observers live on a loop in a thread of their own, started when the first one is there. ``async with``: on the
running loop. Entering again where it was entered nests; only the outermost leaving closes. A hub can be entered again
after it was left.

Leaving waits for saves in the background, lets control subscribers handle what is there and end, then closes every
other subscription, lets readers handle what is there (each at most ``drain_timeout`` seconds), runs their ``finally``,
and returns. At interpreter exit, hubs still entered are left. A
forked child keeps its copy of the record and none of the readers: it may go on recording, starts no thread, and says so
once; or, where the parent has ``asynchub.bridges.children.Children``, it publishes through that.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import anyio.to_thread
from anyio import CancelScope, get_current_task
from anyio.lowlevel import current_token

from asynchub.attachments import Attachments
from asynchub.control import SettlePoint
from asynchub.errors import ArgumentError, LifecycleError
from asynchub.loops import Latch
from asynchub.runner import Runner

__all__ = ("Lifetime",)

logger = logging.getLogger("asynchub")


class Lifetime:
    """Whether and where one hub is entered.

    Args:
        name: of the hub.
        attachments: who runs while it is entered.
        settle_point: where its control subscribers run.
        saves: returns a latch that is set when no save is under way in the background.
        close_log: closes what else reads.
        forget: called in a forked child.
        backend: of the loop in a thread: ``"asyncio"`` or ``"trio"``.
        drain_timeout: seconds that leaving waits for readers; None for ever.

    Raises:
        ArgumentError: ``backend`` or ``drain_timeout`` is not of that kind.
    """

    def __init__(
        self,
        name: str,
        attachments: Attachments,
        settle_point: SettlePoint,
        saves: Callable[[], Latch],
        close_log: Callable[[], None],
        forget: Callable[[], None],
        backend: str,
        drain_timeout: float | None,
    ) -> None:
        if backend not in ("asyncio", "trio"):
            raise ArgumentError(f"backend must be 'asyncio' or 'trio', got {backend!r:.80}")
        if drain_timeout is not None and (not isinstance(drain_timeout, int | float) or not drain_timeout >= 0):
            raise ArgumentError(f"drain_timeout must be seconds, 0 or more, or None, got {drain_timeout!r:.80}")
        self._name = name
        self._attachments = attachments
        self._settle_point = settle_point
        self._saves = saves
        self._close_log = close_log
        self._forget = forget
        self._backend = backend
        self._drain_timeout = drain_timeout
        self._depth = 0
        self._place: Any = None
        self._task: int | None = None
        self._lock = threading.RLock()
        _LIFETIMES.add(self)

    @property
    def entered(self) -> bool:
        """Whether it is entered."""
        return self._depth > 0

    def _nest(self, place: object) -> bool:
        """Count one more entry; tell whether it is the outermost.

        Raises:
            LifecycleError: it is entered elsewhere.
        """
        with self._lock:
            self._check(place)
            self._depth += 1
            self._place = place
            return self._depth == 1

    def _check(self, place: object) -> None:
        if self._depth and self._place != place:
            raise LifecycleError(
                f"hub {self._name!r} is entered already: by another thread, on another loop, or with `with` where "
                "`async with` is used now (or the other way round); leave it there first, or use it without entering "
                "it: any thread may publish and subscribe"
            )

    def _is_owner(self) -> bool:
        """Tell whether the running task is the one that entered it first."""
        return self._task is None or self._task == get_current_task().id

    def _unnest(self) -> bool:
        with self._lock:
            self._depth = max(self._depth - 1, 0)
            return self._depth == 0

    def _new_runner(self) -> Runner:
        return Runner(self._attachments.failed, self._attachments.ended)

    # --- with

    def enter(self) -> None:
        """Enter it from a plain program."""
        if self._nest(threading.get_ident()):
            self._attachments.make_runner = self._start_thread
            try:
                self._attachments.enter()
            except BaseException:
                self.leave(failing=True)
                raise

    def _start_thread(self) -> Runner:
        runner = self._new_runner()
        runner.start_thread(self._name, self._backend)
        return runner

    def leave(self, failing: bool) -> None:
        """Leave it.

        Args:
            failing: whether an exception is under way; then errors of subscribers are only logged.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
            LifecycleError: a subscriber ignored its cancellation.
        """
        if self._depth > 1:
            self._unnest()
        else:
            self.close(failing)

    def close(self, failing: bool = False) -> None:
        """Close the log and end every subscriber, however deeply it is entered; see ``leave``."""
        try:
            self._saves().wait(self._drain_timeout)  # while those whose state they hold still run
        finally:
            self._end(failing)

    def _end(self, failing: bool) -> None:
        self._depth = 0
        errors = _Errors(failing)
        attachments = self._attachments
        with errors:
            attachments.bus.drain(self._drain_timeout)
            attachments.bus.raise_lost()
        attachments.leave(failing, "control")
        try:
            with errors:
                self._settle_point.close(self._drain_timeout)
        finally:
            attachments.leave(failing, "observer")
            self._close_log()
        runner, attachments.runner, attachments.make_runner = attachments.runner, None, None
        if runner is not None:
            if runner.threaded:
                with errors:
                    runner.stop(self._drain_timeout)
            else:
                attachments.runner = runner  # on the program's loop, which ends it when it leaves
        self._say_unsaved(self._saves().wait(self._drain_timeout))
        with errors:
            attachments.end_tap()
            attachments.raise_failures()
        errors.raise_first()

    def _say_unsaved(self, saved: bool) -> None:
        if not saved:
            logger.error("hub %r was left, and a save is still under way after %s s", self._name, self._drain_timeout)

    # --- async with

    async def aenter(self) -> None:
        """Enter it from an async program."""
        if self._depth and not self._is_owner():
            self._check(current_token().native_token)
            return  # inside of what another task of this loop has entered, and will leave
        if self._nest(current_token().native_token):
            self._task = get_current_task().id
            try:
                runner = self._new_runner()
                await runner.open()
                self._attachments.runner = runner
                self._attachments.enter()
            except BaseException:
                await self.aleave(failing=True)
                raise

    async def aleave(self, failing: bool) -> None:
        """Leave it; see ``leave``."""
        if not self._is_owner() or (self._depth > 1 and not self._unnest()):
            return
        try:
            with CancelScope(shield=True):
                await self._saves().waited(self._drain_timeout)
        finally:
            await self._aend(failing)

    async def _aend(self, failing: bool) -> None:
        self._unnest()
        self._task = None
        errors = _Errors(failing)
        attachments = self._attachments
        with errors, CancelScope(shield=True):
            await attachments.bus.drain_awaited(self._drain_timeout)
            attachments.bus.raise_lost()
        attachments.leave(failing, "control")
        try:
            with errors:
                await self._settle_point.aclose(self._drain_timeout)
        finally:
            attachments.leave(failing, "observer")
            self._close_log()
            runner, attachments.runner = attachments.runner, None
            if runner is not None:
                await runner.aclose(self._drain_timeout)
        with CancelScope(shield=True):
            self._say_unsaved(await self._saves().waited(self._drain_timeout))
        with errors:
            if attachments.tapping.attachment is not None:
                with CancelScope(shield=True):
                    await anyio.to_thread.run_sync(attachments.end_tap)
            attachments.raise_failures()
        errors.raise_first()

    def end_of_program(self) -> None:
        """Leave it if it is entered, and end its tap."""
        if self.entered:
            self.close(failing=True)
        elif self._attachments.tapping.attachment is not None:
            self._attachments.end_tap()

    def forked(self) -> None:
        """Keep nothing that belongs to the parent process."""
        self._depth = 0
        self._lock = threading.RLock()
        self._task = None
        self._settle_point.forked()
        self._attachments.forked()
        self._forget()


class _Errors:
    """Collects what goes wrong while closing, so that all of it is closed."""

    def __init__(self, failing: bool) -> None:
        self._failing = failing
        self._first: Exception | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if self._failing or self._first is not None:
            logger.error("while leaving the hub", exc_info=error)
        else:
            self._first = error
        return True

    def raise_first(self) -> None:
        if self._first is not None:
            raise self._first


_LIFETIMES: WeakSet[Lifetime] = WeakSet()


def _close_all() -> None:
    for lifetime in list(_LIFETIMES):
        lifetime.end_of_program()


def _after_fork() -> None:
    for lifetime in list(_LIFETIMES):
        lifetime.forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
