"""Settle points: where control subscribers decide and requests take effect.

Control subscribers run inside ``settle``, in the thread that calls it, without an event loop: a coroutine that asks for
an event that is not there yet is parked until the next settle point. So two runs that publish the same events decide
the same, whatever the scheduling.

Order: control subscribers run by their ``order``, then in the order of attachment; after each round the requests made
    so far are applied, oldest first; rounds go on until nobody has anything left to handle.
Failures: every control subscriber runs even if one fails; the settle point raises them together at its end.
Threads: one thread settles at a time; requests may come from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio

from asynchub.bus import EventBus
from asynchub.errors import (
    ArgumentError,
    ControlAwaitedError,
    ControlFailedError,
    CycleError,
    DeadlockError,
    LifecycleError,
    WaitTimeoutError,
)
from asynchub.events import Request, RequestApplied, RequestRefused
from asynchub.subscription import PARKED, Publisher, Subscription

__all__ = ("Apply", "ControlSubscriber", "SettlePoint")

logger = logging.getLogger("asynchub")
Apply = Callable[[Any], object]
"""What applies a request: called with it, in the training loop's thread; raising refuses it."""
MAX_ROUNDS = 100


class ControlSubscriber:
    """A control subscriber between two settle points.

    Args:
        name: its name.
        order: control subscribers run by this, smallest first.
        start: begins its coroutine; called at its first settle point.
        subscription: what it reads.
    """

    def __init__(self, name: str, order: int, start: Callable[[], Awaitable[None]], subscription: Subscription) -> None:
        self.name = name
        self.order = order
        self.ended = False
        self.thread: int | None = None  # the thread that runs its code right now
        self._start = start
        self._subscription = subscription
        self._run: Generator[Any, Any, None] | None = None

    def has_something_to_do(self) -> bool:
        """Tell whether it would do anything if advanced."""
        return not self.ended and (self._run is None or self._subscription.ready())

    def advance(self) -> Generator[Any, Any, None]:
        """Run it until it asks for an event that is not there; yield what else it awaits.

        Raises:
            Exception: whatever it raised; it has ended then.
        """
        answer: Any = None
        error: BaseException | None = None
        self._subscription.limit = self._subscription.end_position()
        while True:
            self.thread = threading.get_ident()
            try:
                if self._run is None:
                    self._run = self._start().__await__()
                awaited = self._run.send(answer) if error is None else self._run.throw(error)
            except StopIteration:
                self.end()
                return
            except BaseException:
                self.end()
                raise
            finally:
                self.thread = None
            if awaited is PARKED:
                return
            answer, error = None, None
            try:
                answer = yield awaited
            except BaseException as raised:  # a cancellation too is for the coroutine to see
                error = raised

    def end(self) -> None:
        """Do not run it again; a coroutine that is still alive runs its ``finally``."""
        self.ended = True
        self._subscription.finish()
        if self._run is not None:
            self._run.close()


class SettlePoint:
    """The control subscribers and pending requests of one hub.

    Attributes:
        failed: called with the name of a control subscriber and what it raised.
    """

    def __init__(self, bus: EventBus, publisher: Publisher) -> None:
        self._bus = bus
        self._publisher = publisher
        self.failed: Callable[[str, BaseException], None] = lambda name, error: None
        self._controls: list[ControlSubscriber] = []
        self._requests: deque[Request] = deque()
        self._apply: dict[type[Request], Apply] = {}
        self._parents: list[ControlSubscriber] = []
        self._settling = threading.Lock()
        self._thread: int | None = None
        self._running = ""

    def forked(self) -> None:
        """Forget everybody, as a forked child must; what the parent process runs is not ended here."""
        self._parents += self._controls  # kept, or dropping their coroutines would run their `finally`
        self._controls = []
        self._requests.clear()
        self._settling = threading.Lock()
        self._thread = None

    def add(self, control: ControlSubscriber) -> None:
        """Have ``control`` run at settle points from now on."""
        self._controls = sorted([*self._controls, control], key=lambda one: one.order)

    def remove(self, control: ControlSubscriber) -> None:
        """Do not run ``control`` any more."""
        self._controls = [one for one in self._controls if one is not control]

    # --- requests

    def on_request(self, kind: type[Request], apply: Apply) -> None:
        """Have ``apply`` called with each request of ``kind``, or of a subclass that has none of its own.

        Raises:
            ArgumentError: ``kind`` is not a class of requests, or ``apply`` is not callable.
        """
        if not (isinstance(kind, type) and issubclass(kind, Request)):
            raise ArgumentError(f"a request kind must be a subclass of Request, got {kind!r}")
        if not callable(apply):
            raise ArgumentError(f"{kind.__name__} needs a function that applies it, got {apply!r}")
        self._apply[kind] = apply

    def push(self, request: Request) -> None:
        """Have ``request``, as stamped, applied at the next safe point."""
        self._requests.append(request)

    def apply_requests(self) -> int:
        """Apply every pending request in this thread; return how many there were.

        Each ends in a ``RequestApplied`` or, when nobody can apply it or applying raised, a ``RequestRefused`` event.
        """
        applied = 0
        while True:
            try:
                request = self._requests.popleft()
            except IndexError:
                return applied
            applied += 1
            kind = type(request).__name__
            facts: dict[str, Any] = {
                "request": kind,
                "request_seq": request.seq,
                "reason": request.reason,
                "author": request.author,
            }
            apply = next((self._apply[one] for one in type(request).__mro__ if one in self._apply), None)
            try:
                if apply is None:
                    raise LookupError(f"nobody applies {kind}; say how with hub.on_request({kind})")
                apply(request)
            except Exception as error:
                logger.warning("%s was refused: %s", kind, error)
                self._publisher.publish(RequestRefused(error=f"{type(error).__name__}: {error}", **facts))
            else:
                self._publisher.publish(RequestApplied(**facts))

    # --- settling

    def settle(self, timeout: float | None) -> None:
        """Run control subscribers and apply requests until there is nothing left; see ``MessageHub.settle``."""
        if self._thread == threading.get_ident():
            raise DeadlockError(
                "settle() or flush() was called amid a settle point of this very thread, and would wait for it; "
                "call it after that has returned"
            )
        if not self._settling.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            raise WaitTimeoutError(f"another thread has been settling for {timeout} s")
        try:
            self._thread = threading.get_ident()
            rounds = self._rounds(None if timeout is None else time.monotonic() + timeout)
            awaited = next(rounds, PARKED)
            while awaited is not PARKED:
                try:
                    awaited = rounds.throw(ControlAwaitedError(self._running, type(awaited).__name__))
                except StopIteration:
                    break
        finally:
            self._thread = None
            self._settling.release()

    async def settled(self, timeout: float | None) -> None:
        """Do the same in this task, where control subscribers may await; see ``MessageHub.settled``."""
        if not self._settling.acquire(blocking=False):
            raise LifecycleError("another settle point is under way; settle from one place")
        try:
            self._thread = threading.get_ident()
            if timeout is None:
                await _Awaited(self._rounds(None))
            else:
                with _fail_after(timeout):
                    await _Awaited(self._rounds(time.monotonic() + timeout))
        finally:
            self._thread = None
            self._settling.release()

    def refuse_nested(self) -> None:
        """Raise if the calling code is that of a control subscriber.

        Raises:
            DeadlockError: it is.
        """
        here = threading.get_ident()
        for control in self._controls:
            if control.thread == here:
                raise DeadlockError(
                    f"control subscriber {control.name!r} called what waits for it; let it return to its events instead"
                )

    def _rounds(self, deadline: float | None) -> Generator[Any, Any, None]:
        failures: list[Exception] = []
        busy: list[ControlSubscriber] = []
        for _ in range(MAX_ROUNDS):
            seq = self._bus.seq
            self._bus.collect()
            busy = [control for control in self._controls if control.has_something_to_do()]
            for control in busy:
                self._running = control.name
                try:
                    yield from control.advance()
                except Exception as error:
                    reason = _without_a_loop(control.name, error)
                    failures.append(reason)
                    self.remove(control)
                    self.failed(control.name, reason)
                except BaseException as error:
                    self.remove(control)
                    self.failed(control.name, error)
                    raise
            if not self.apply_requests() and (not busy or self._bus.seq == seq):  # nothing came meanwhile
                self._controls = [control for control in self._controls if not control.ended]
                break
            if deadline is not None and time.monotonic() > deadline:
                text = f"control subscribers were still busy at the timeout: {self._running!r}"
                raise WaitTimeoutError(text) from _together(failures)
        else:
            raise CycleError([control.name for control in busy], MAX_ROUNDS) from _together(failures)
        if failed := _together(failures):
            raise failed

    def close(self, timeout: float | None = None) -> None:
        """Let every control subscriber handle what it still has, and end; call with their subscriptions closed.

        Raises:
            ControlFailedError: some failed.
            WaitTimeoutError: they were busy for ``timeout`` seconds.
        """
        try:
            if self._controls:
                self.settle(timeout)
        finally:
            self._end_all()

    async def aclose(self, timeout: float | None = None) -> None:
        """Do the same in this task."""
        try:
            if self._controls:
                await self.settled(timeout)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        for control in self._controls:
            control.end()
        self._controls = []


def _together(failures: list[Exception]) -> ControlFailedError | None:
    return ControlFailedError("control subscribers failed", failures) if failures else None


class _Awaited:
    def __init__(self, rounds: Generator[Any, Any, None]) -> None:
        self._rounds = rounds

    def __await__(self) -> Generator[Any, Any, None]:
        return self._rounds


@contextlib.contextmanager
def _fail_after(timeout: float) -> Generator[None, None, None]:
    try:
        with anyio.fail_after(timeout):
            yield
    except WaitTimeoutError:
        raise
    except TimeoutError as error:
        raise WaitTimeoutError(f"control subscribers were still busy after {timeout} s") from error


def _without_a_loop(name: str, error: Exception) -> Exception:
    """Return ``error``, or what it means if it came from awaiting something that needs an event loop."""
    missing = isinstance(error, anyio.NoEventLoopError) or (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in ("no running event loop", "must be called from async context"))
    )
    if not missing:
        return error
    explained = ControlAwaitedError(name, "something that needs an event loop")
    explained.__cause__ = error
    return explained
