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
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio

from asynchub.answering import Publisher
from asynchub.applying import Applying
from asynchub.bus import EventBus
from asynchub.errors import (
    ControlAwaitedError,
    ControlFailedError,
    CycleError,
    DeadlockError,
    LifecycleError,
    WaitTimeoutError,
)
from asynchub.loops import deadline_in, seconds_until
from asynchub.settled import PARKED, SettledSubscription

__all__ = ("ControlSubscriber", "SettlePoint")

MAX_ROUNDS = 100


class ControlSubscriber:
    """A control subscriber between two settle points.

    Args:
        name: its name.
        order: control subscribers run by this, smallest first.
        start: begins its coroutine; called at its first settle point.
        subscription: what it reads.
    """

    def __init__(
        self, name: str, order: int, start: Callable[[], Awaitable[None]], subscription: SettledSubscription
    ) -> None:
        self.name = name
        self.order = order
        self.ended = False
        self._start = start
        self.subscription = subscription
        self._run: Generator[Any, Any, None] | None = None

    def begin_turn(self) -> bool:
        """Give it what was collected so far; tell whether it has anything to do."""
        return not self.ended and (self.subscription.begin_turn() or self._run is None)

    def resume(self, answer: Any = None, error: BaseException | None = None) -> Any:
        """Run it until it awaits something; return that, ``PARKED`` if it is an event that is not there, or it ended.

        Args:
            answer: what it awaited last came to.
            error: what to raise where it awaits.

        Raises:
            BaseException: whatever it raised; it has ended then.
        """
        try:
            run = self._run
            if run is None:
                run = self._run = self._start().__await__()
            return run.send(answer) if error is None else run.throw(error)
        except StopIteration:
            self.end()
            return PARKED
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Do not run it again; a coroutine that is still alive runs its ``finally``."""
        self.ended = True
        self.subscription.finish()
        if self._run is not None:
            self._run.close()


class SettlePoint:
    """The control subscribers and pending requests of one hub.

    Attributes:
        failed: called with the name of a control subscriber and what it raised.
        settled_count: settle points so far.
        settled_seconds: what they took of the time of the code that settles, without pauses.
        requests: the pending requests, and what applies them.
    """

    def __init__(self, bus: EventBus, publisher: Publisher) -> None:
        self._bus = bus
        self._publisher = publisher
        self.failed: Callable[[str, BaseException], None] = lambda name, error: None
        self._controls: list[ControlSubscriber] = []
        self.requests = Applying(publisher)
        self._parents: list[ControlSubscriber] = []
        self._settling = threading.Lock()
        self._thread: int | None = None
        self._running: ControlSubscriber | None = None  # whose code runs right now, in the thread that settles
        self._awaiting = ""
        self.settled_count = 0
        self.settled_seconds = 0.0

    def forked(self) -> None:
        """Forget everybody, as a forked child must; what the parent process runs is not ended here."""
        self._parents += self._controls  # kept, or dropping their coroutines would run their `finally`
        self._controls = []
        self.requests.forked()
        self._settling = threading.Lock()
        self._thread = self._running = None

    def add(self, control: ControlSubscriber) -> None:
        """Have ``control`` run at settle points from now on."""
        self._controls = sorted([*self._controls, control], key=lambda one: one.order)

    def remove(self, control: ControlSubscriber) -> None:
        """Do not run ``control`` any more."""
        self._controls = [one for one in self._controls if one is not control]

    def apply_requests(self) -> int:
        """Apply every pending request in this thread, and pause if one asks for it; return how many there were."""
        requests = self.requests
        if self._thread == threading.get_ident():  # amid a settle point, which pauses when it is done
            return requests.apply()
        requests.pausing.awaited = False
        applied = [requests.apply()]
        if requests.pausing.due:
            requests.pausing.hold(lambda: applied.append(requests.apply()))
        return sum(applied)

    # --- settling

    def settle(self, timeout: float | None) -> None:
        """Run control subscribers and apply requests until there is nothing left; see ``MessageHub.settle``."""
        here = threading.get_ident()
        if self._thread == here:
            self.refuse_nested()
            raise DeadlockError(
                "settle() or flush() was called amid a settle point of this very thread, and would wait for it; "
                "call it after that has returned"
            )
        begun = time.perf_counter()
        if not self._settling.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            raise WaitTimeoutError(f"another thread has been settling for {timeout} s")
        try:
            pausing = self.requests.pausing
            self._thread, pausing.awaited = here, False
            self._settle_once(timeout)
            while pausing.due:
                begun += pausing.hold(self.requests.apply)
                self._settle_once(timeout)
        finally:
            self._thread = None
            self._count(begun)
            self._settling.release()

    def _settle_once(self, timeout: float | None) -> None:
        rounds = self._rounds(deadline_in(timeout), awaited=False)
        awaited = next(rounds, PARKED)
        while awaited is not PARKED:
            try:
                awaited = rounds.throw(ControlAwaitedError(self._awaiting, type(awaited).__name__))
            except StopIteration:
                break

    def _count(self, begun: float) -> None:
        self.settled_count += 1
        self.settled_seconds += time.perf_counter() - begun

    async def settled(self, timeout: float | None) -> None:
        """Do the same in this task, where control subscribers may await; see ``MessageHub.settled``."""
        if not self._settling.acquire(blocking=False):
            raise LifecycleError("another settle point is under way; settle from one place")
        begun = time.perf_counter()
        try:
            pausing = self.requests.pausing
            self._thread, pausing.awaited = threading.get_ident(), True
            await self._settled_once(timeout)
            while pausing.due:
                begun += await pausing.held(self.requests.apply)
                await self._settled_once(timeout)
        finally:
            self._thread = None
            self._count(begun)
            self._settling.release()

    async def _settled_once(self, timeout: float | None) -> None:
        if timeout is None:
            await _Awaited(self._rounds(None, awaited=True))
        else:
            with _fail_after(timeout):
                await _Awaited(self._rounds(deadline_in(timeout), awaited=True))

    def refuse_nested(self) -> None:
        """Raise if the calling code is that of a control subscriber.

        Raises:
            DeadlockError: it is.
        """
        running = self._running
        if running is not None and self._thread == threading.get_ident():
            raise DeadlockError(
                f"control subscriber {running.name!r} called what waits for it; let it return to its events instead"
            )

    def _arrivals(self, deadline: float | None, awaited: bool) -> Generator[Any, Any, None]:
        """Wait for values from devices, if control subscribers are to have them, or what is held behind them."""
        bus = self._bus
        channels = {channel for one in self._controls if (channel := one.subscription.channel) is not None}
        with bus.lock:
            bus.number()
            wanted = bus.any_wanted_by(bus.held, channels)
        if wanted and awaited:
            yield from bus.drain_awaited(seconds_until(deadline)).__await__()
        elif wanted:
            bus.drain(seconds_until(deadline))

    def _rounds(self, deadline: float | None, awaited: bool) -> Generator[Any, Any, None]:
        """Run rounds until all is quiet; yield whatever a control subscriber awaits beside its events.

        Args:
            deadline: when to give up, by ``time.monotonic``.
            awaited: whether this task may await.
        """
        bus = self._bus
        failures: list[Exception] = []
        busy: list[ControlSubscriber] = []
        for _ in range(MAX_ROUNDS):
            if bus.held:
                yield from self._arrivals(deadline, awaited)
            if bus.channels:
                bus.collect()
            seq = bus.seq
            busy = []
            for control in self._controls:
                if bus.entries or bus.log:  # what those before it have answered
                    bus.collect()
                if not control.begin_turn():
                    continue
                busy.append(control)
                self._running = control
                try:
                    asked = control.resume()
                    while asked is not PARKED or (control.subscription.more and control.subscription.offer()):
                        if asked is PARKED:
                            asked = control.resume()
                            continue
                        self._running, self._awaiting = None, control.name
                        answer, raised = None, None
                        try:
                            answer = yield asked
                        except BaseException as error:  # a cancellation too is for the coroutine to see
                            raised = error
                        self._running = control
                        asked = control.resume(answer, raised)
                except Exception as error:
                    reason = _without_a_loop(control.name, error)
                    failures.append(reason)
                    self.remove(control)
                    self.failed(control.name, reason)
                except BaseException as error:
                    self.remove(control)
                    self.failed(control.name, error)
                    raise
                finally:
                    self._running = None
                if control.ended:
                    self.remove(control)
            applied = self.requests.pending and self.requests.apply()
            if not applied and (not busy or (bus.seq == seq and not bus.entries)):
                break
            if deadline is not None and time.monotonic() > deadline:
                names = ", ".join(repr(control.name) for control in busy)
                text = f"control subscribers were still busy at the timeout: {names}"
                raise WaitTimeoutError(text) from _together(failures)
        else:
            raise CycleError([control.name for control in busy], MAX_ROUNDS) from _together(failures)
        if failures:
            raise ControlFailedError("control subscribers failed", failures)

    def close(self, timeout: float | None = None) -> None:
        """Let every control subscriber handle what it still has, and end; call with their subscriptions closed.

        Raises:
            ControlFailedError: some failed.
            WaitTimeoutError: they were busy for ``timeout`` seconds.
        """
        self.requests.pausing.closed = True
        try:
            if self._controls:
                self.settle(timeout)
        finally:
            self._end_all()

    async def aclose(self, timeout: float | None = None) -> None:
        """Do the same in this task."""
        self.requests.pausing.closed = True
        try:
            if self._controls:
                await self.settled(timeout)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        for control in self._controls:
            control.end()
        self._controls = []
        self.requests.pausing.closed = False


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
