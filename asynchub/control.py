"""Settle points: where control subscribers decide and requests take effect.

Control subscribers run inside ``settle``, in the thread that calls it, without an event loop: a coroutine that asks for
an event that is not there yet is parked until the next settle point. So two runs that publish the same events decide
the same, whatever the scheduling.

Order: as of ``asynchub.rounds``, which go on until nobody has anything left to handle.
Failures: every control subscriber runs even if one fails; the settle point raises them together at its end.
Threads: one thread settles at a time; requests may come from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from typing import Any

import anyio

from asynchub.answering import Publisher
from asynchub.bus import EventBus
from asynchub.errors import ControlAwaitedError, DeadlockError, LifecycleError, WaitTimeoutError
from asynchub.loops import deadline_in
from asynchub.rounds import MAX_ROUNDS, ControlSubscriber, Left, Rounds
from asynchub.settled import PARKED

__all__ = ("SettlePoint",)

_clock = time.perf_counter
_ALL = Left(0, None, 0, [], None)
"""What there is to do of a settle point that has not begun."""


class SettlePoint(Rounds):
    """Where the control subscribers of one hub run, and its pending requests are applied.

    Attributes:
        settled_count: settle points so far.
        settled_seconds: what they took of the time of the code that settles, without pauses.
    """

    def __init__(self, bus: EventBus, publisher: Publisher) -> None:
        super().__init__(bus, publisher)
        self._parents: list[ControlSubscriber] = []
        self._settling = threading.RLock()
        self._amid = False  # whether a settle point is under way, in the thread that has the lock
        self.settled_count = 0
        self.settled_seconds = 0.0

    def forked(self) -> None:
        """Forget everybody, as a forked child must; what the parent process runs is not ended here."""
        self._parents += self.controls  # kept, or dropping their coroutines would run their `finally`
        self.controls = []
        self.requests.forked()
        self._settling = threading.RLock()
        self._amid, self.running = False, None

    def apply_requests(self) -> int:
        """Apply every pending request in this thread, and pause if one asks for it; return how many there were."""
        requests = self.requests
        if self._is_amid():  # the settle point pauses when it is done
            self.applied = True
            return requests.apply()
        applied = [requests.apply()]
        if requests.pausing.due:
            requests.pausing.hold(lambda: applied.append(requests.apply()))
        return sum(applied)

    def _is_amid(self) -> bool:
        """Tell whether a settle point is under way in this very thread."""
        return self._amid and self._settling._is_owned()  # type: ignore[attr-defined]  # what threading.Condition asks

    def refuse_nested(self) -> None:
        """Raise if the calling code is that of a control subscriber.

        Raises:
            DeadlockError: it is.
        """
        running = self.running
        if running is not None and self._is_amid():
            raise DeadlockError(
                f"control subscriber {running.name!r} called what waits for it; let it return to its events instead"
            )

    # --- settling

    def settle(self, timeout: float | None) -> None:
        """Run control subscribers and apply requests until there is nothing left; see ``MessageHub.settle``."""
        if self._amid and self._is_amid():
            self.refuse_nested()
            raise DeadlockError(
                "settle() or flush() was called amid a settle point of this very thread, and would wait for it; "
                "call it after that has returned"
            )
        begun = _clock()
        if timeout is not None and not self._settling.acquire(timeout=max(timeout, 0.0)):
            raise WaitTimeoutError(f"another thread has been settling for {timeout} s")
        try:
            with self._settling:
                self._amid = True
                try:
                    left = self.run_plainly(MAX_ROUNDS if timeout is None else 1)
                    if left is not None:
                        self._go_on(left, timeout)
                    if self.applied:
                        while self.requests.pausing.due:
                            begun += self.requests.pausing.hold(self.requests.apply)
                            self._go_on(_ALL, timeout)
                        self.applied = False
                finally:
                    self._amid, self.running = False, None
                    self.settled_count += 1
                    self.settled_seconds += _clock() - begun
        finally:
            if timeout is not None:
                self._settling.release()

    def _go_on(self, left: Left, timeout: float | None) -> None:
        rounds = self.run_rest(left, deadline_in(timeout), awaited=False)
        awaited = next(rounds, PARKED)
        while awaited is not PARKED:
            try:
                awaited = rounds.throw(ControlAwaitedError(self.awaiting, type(awaited).__name__))
            except StopIteration:
                break

    async def settled(self, timeout: float | None) -> None:
        """Do the same in this task, where control subscribers may await; see ``MessageHub.settled``."""
        if self._is_amid() or not self._settling.acquire(blocking=False):
            raise LifecycleError("another settle point is under way; settle from one place")
        begun = _clock()
        pausing = self.requests.pausing
        try:
            self._amid = pausing.awaited = True
            await self._settled_once(timeout)
            while self.applied and pausing.due:
                begun += await pausing.held(self.requests.apply)
                await self._settled_once(timeout)
            self.applied = False
        finally:
            self._amid, self.running, pausing.awaited = False, None, False
            self.settled_count += 1
            self.settled_seconds += _clock() - begun
            self._settling.release()

    async def _settled_once(self, timeout: float | None) -> None:
        with contextlib.nullcontext() if timeout is None else _fail_after(timeout):
            # inside of it: control subscribers may enter scopes of their own
            left = self.run_plainly(MAX_ROUNDS if timeout is None else 1)
            if left is not None:
                await _Awaited(self.run_rest(left, deadline_in(timeout), awaited=True))

    # --- leaving

    def close(self, timeout: float | None = None) -> None:
        """Let every control subscriber handle what it still has, and end; call with their subscriptions closed.

        Raises:
            ControlFailedError: some failed.
            WaitTimeoutError: they were busy for ``timeout`` seconds.
        """
        self.requests.pausing.closed = True
        try:
            if self.controls:
                self.settle(timeout)
        finally:
            self._end_all()

    async def aclose(self, timeout: float | None = None) -> None:
        """Do the same in this task."""
        self.requests.pausing.closed = True
        try:
            if self.controls:
                await self.settled(timeout)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        for control in self.controls:
            control.end()
        self.controls = []
        self.requests.pausing.closed = False


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
