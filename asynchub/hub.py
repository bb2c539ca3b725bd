"""The hub: what a program writes to, and the front door of everything else.

Publishing never waits for a reader, a disk or a network, unless a reader asked for ``overflow="block"``. A verb blocks,
its participle is awaited: ``settle()`` and ``await settled()``, ``flush()`` and ``await flushed()``, ``save()`` and
``await saved()``.

Threads: any thread may publish, subscribe, attach, detach and request; one place settles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, overload

from asynchub.applying import Apply
from asynchub.compiling import leave_out_of_graphs
from asynchub.errors import DeadlockError, LifecycleError, WaitTimeoutError
from asynchub.history import allow_in_torch_load
from asynchub.lifetime import Lifetime
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.pending import batch
from asynchub.requests import Request, StopRequested
from asynchub.resuming import Resuming
from asynchub.runner import CURRENT_SUBSCRIBER
from asynchub.scalars import checked_key, real_number
from asynchub.standing import handled

__all__ = ("MessageHub",)

_current: ContextVar[tuple[MessageHub, ...]] = ContextVar("asynchub_current", default=())
"""The hubs that the running code is inside of, the innermost last."""


class MessageHub(Resuming):
    """A log of events, and the record they fold into.

    Args:
        name: name of the hub.
        log_scalars: histories to begin with.
        runtime_info: runtime info to begin with.
        resumed_keys: which keys ``state_dict`` saves.
        latency: seconds that observers in another thread let events gather before they look again.
        capacity: events held for readers before a publisher sorts them itself.
        backend: of the loop that ``with`` starts: ``"asyncio"`` or ``"trio"``.
        drain_timeout: seconds that leaving waits for readers; None for ever.

    Raises:
        InstanceNameError: ``name`` is not a string, or empty.
        ArgumentError: another argument is of a wrong type; see ``Record``.
    """

    def __init__(
        self,
        name: str,
        log_scalars: dict[str, Any] | None = None,
        runtime_info: dict[str, Any] | None = None,
        resumed_keys: dict[str, bool] | None = None,
        *,
        latency: float = 0.02,
        capacity: int = 65_536,
        backend: str = "asyncio",
        drain_timeout: float | None = 30.0,
    ) -> None:
        self._options: dict[str, Any] = {"backend": backend, "drain_timeout": drain_timeout}
        super().__init__(name, log_scalars, runtime_info, resumed_keys, latency=latency, capacity=capacity)

    def _begin(self, latency: float, capacity: int) -> None:
        super()._begin(latency, capacity)
        allow_in_torch_load()  # a program that resumes makes its hub before it loads the checkpoint
        leave_out_of_graphs()
        requests = self._settle_point.requests
        requests.on_request(StopRequested, self._apply_stop)
        requests.parameters = lambda: self.parameters
        requests.pausing.obstacle = self._obstacle_to_a_pause
        self._lifetime = Lifetime(
            self.instance_name,
            self._attachments,
            self._settle_point,
            self._saver.idle,
            self._close_log,
            self._forked,
            **self._options,
        )

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return the hub that the running code is inside of (``with hub:``), else the latest created.

        Before any was created, one named ``"mmengine"`` is.
        """
        for current in reversed(_current.get()):
            if isinstance(current, cls):
                return current
        if not cls._instance_dict:
            cls.get_instance("mmengine")
        return super().get_current_instance()

    # --- living

    @property
    def entered(self) -> bool:
        """Whether the code is between entering and leaving it, anywhere."""
        return self._lifetime.entered

    def __enter__(self) -> Self:
        self._lifetime.enter()
        _current.set((*_current.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._be_current_no_more()
        self._lifetime.leave(failing=error is not None)

    async def __aenter__(self) -> Self:
        await self._lifetime.aenter()
        _current.set((*_current.get(), self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._be_current_no_more()
        await self._lifetime.aleave(failing=error is not None)

    def _be_current_no_more(self) -> None:
        """Undo the newest entering of this hub, which need not be the newest of all."""
        entered = list(_current.get())
        for index in reversed(range(len(entered))):
            if entered[index] is self:
                del entered[index]
                break
        _current.set(tuple(entered))

    def close(self) -> None:
        """End every subscription, attached or not, as leaving does; what is published later is recorded only.

        Raises:
            ControlFailedError: control subscribers failed on their last events.
            SubscribersFailedError: subscribers with ``on_error="raise"`` failed.
            DeadlockError: called on the loop that observers live on; leave ``async with hub:`` instead.
        """
        self._refuse_nested("close")
        if self._on_observers_loop():
            raise DeadlockError("close() on the observers' own loop could never end; leave `async with hub:` instead")
        self._lifetime.close()

    # --- values on a device

    def batch(self) -> AbstractContextManager[None]:
        """Return a context manager in which what this thread publishes from devices travels together; nests.

        For loops of single publishes: ``with hub.batch():`` makes one transfer of them, which leaves at the end.
        ``update_scalars`` needs none. Numbers, and reading, are as ever.
        """
        return batch()

    # --- control

    def settle(self, timeout: float | None = None) -> None:
        """Run control subscribers and apply requests, in this thread, until there is nothing left to handle.

        Does not wait for observers. Waits for values that are on their way from a device if a control subscriber reads
        them, or what was published after them; see ``asynchub.devices``. Waits if somebody asked for a pause.

        Args:
            timeout: seconds; looked at between two rounds of control subscribers. A pause does not count.

        Raises:
            ControlFailedError: control subscribers raised; the others ran.
            CycleError: they keep answering each other.
            DeadlockError: called by a subscriber.
            DeviceLostError: a device has failed, and a value with it, since the last call.
            WaitTimeoutError: the timeout passed.
        """
        if self._attachments.runner is not None and CURRENT_SUBSCRIBER.get() is not None:
            self._refuse_nested("settle")
        self._settle_point.settle(timeout)
        if self._bus.lost is not None:
            self._bus.raise_lost()

    async def settled(self, timeout: float | None = None) -> None:
        """Do what ``settle`` does, in this task; control subscribers may await here."""
        self._refuse_nested("settle")
        await self._settle_point.settled(timeout)
        self._bus.raise_lost()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every attached subscriber has handled all that was published before; settles too.

        Args:
            timeout: seconds; None for ever.

        Raises:
            DeadlockError: called by a subscriber, or on the loop that observers live on.
            LifecycleError: observers are attached, but the hub is not entered.
            WaitTimeoutError: the timeout passed.
            ControlFailedError: as ``settle``.
        """
        deadline = deadline_in(timeout)
        self._bus.drain(timeout)
        self.settle(seconds_until(deadline))
        self._bus.drain(seconds_until(deadline))
        latch = self._flushing()
        if self._on_observers_loop():
            raise DeadlockError("flush() on the observers' own loop could never end; use `await hub.flushed()`")
        if not latch.wait(seconds_until(deadline)):
            raise WaitTimeoutError(f"not flushed after {timeout} s: {self._laggards()}")
        self.settle(seconds_until(deadline))

    async def flushed(self, timeout: float | None = None) -> None:
        """Do what ``flush`` does without blocking the loop."""
        deadline = deadline_in(timeout)
        await self._bus.drain_awaited(timeout)
        await self.settled(seconds_until(deadline))
        await self._bus.drain_awaited(seconds_until(deadline))
        if not await self._flushing().waited(seconds_until(deadline)):
            raise WaitTimeoutError(f"not flushed after {timeout} s: {self._laggards()}")
        await self.settled(seconds_until(deadline))

    def _flushing(self) -> Latch:
        observers = self._attachments.observers
        if observers and not self._lifetime.entered:
            raise LifecycleError(
                "observers handle events while the hub is entered: use `with hub:` or `async with hub:`"
            )
        latch = handled(observers)
        self._bus.hurry()
        return latch

    def request_stop(self, reason: str = "") -> StopRequested:
        """Ask the training loop to end; see ``request``."""
        return self.request(StopRequested(reason=reason))

    @overload
    def on_request(self, kind: type[Request]) -> Callable[[Apply], Apply]: ...
    @overload
    def on_request(self, kind: type[Request], apply: Apply) -> Apply: ...
    def on_request(self, kind: type[Request], apply: Apply | None = None) -> Apply | Callable[[Apply], Apply]:
        """Have ``apply`` called, in the training loop's thread, with each request of ``kind``; also a decorator.

        Raises:
            ArgumentError: ``kind`` is not a class of requests, or ``apply`` is not callable.
        """
        if apply is None:
            return functools.partial(self.on_request, kind)
        self._settle_point.requests.on_request(kind, apply)
        return apply

    def applied_by(self, kind: type[Request]) -> Apply | None:
        """Return what ``on_request`` was given for this very kind of requests; None if that is nothing."""
        return self._settle_point.requests.applied_by(kind)

    def apply_requests(self) -> int:
        """Apply pending requests in this thread, without running control subscribers; return how many there were.

        Waits if one of them asks for a pause.
        """
        return self._settle_point.apply_requests()

    def _apply_stop(self, request: StopRequested) -> None:
        self._stop = self._stop or request

    def _obstacle_to_a_pause(self, awaited: bool) -> str:
        """Return why the training loop cannot wait at the safe point that it is at; empty if it can."""
        if self._stop is not None:
            return "the run is stopping"
        if not awaited and self._on_observers_loop():
            return "settle() and apply_requests() would block the loop that observers live on: await hub.settled()"
        return ""

    @property
    def paused(self) -> bool:
        """Whether the training loop waits, at a safe point, because somebody asked for a pause. Any thread."""
        return self._settle_point.requests.pausing.holds

    @property
    def stop_requested(self) -> bool:
        """Whether a request to stop has taken effect; set to False to train on."""
        return self._stop is not None

    @stop_requested.setter
    def stop_requested(self, stop: bool) -> None:
        self._stop = StopRequested(step=self._step) if stop else None

    @property
    def stop_reason(self) -> str:
        """Why to stop; empty if no stop was requested."""
        return "" if self._stop is None else self._stop.reason

    # --- what programs of mmengine call beside its documented methods

    def _set_resumed_keys(self, key: str, resumed: bool) -> None:
        with self._bus.lock:
            self._check_resumed(checked_key(key), resumed)
            self._resumed_keys.setdefault(key, resumed)

    def _get_valid_value(self, value: Any) -> int | float:
        return real_number("value", value)
