"""The hub: what a program writes to, and the front door of everything else.

Publishing never waits for a reader, a disk or a network, unless a reader asked for ``overflow="block"``. A verb blocks,
its participle is awaited: ``settle()`` and ``await settled()``, ``flush()`` and ``await flushed()``, ``save()`` and
``await saved()``.

Threads: any thread may publish, subscribe, attach, detach and request; one place settles.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from os import PathLike
from types import TracebackType
from typing import Any, Self, overload

import anyio.to_thread

from asynchub.attachments import handled
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.control import Apply
from asynchub.errors import DeadlockError, LifecycleError, WaitTimeoutError
from asynchub.events import Request, StateLoaded, StopRequested
from asynchub.feed import Feed
from asynchub.history import allow_in_torch_load
from asynchub.hubfile import read_hub, write_hub
from asynchub.lifetime import Lifetime
from asynchub.loops import Latch, deadline_in, seconds_until
from asynchub.runner import CURRENT_SUBSCRIBER
from asynchub.scalars import checked_key, real_number
from asynchub.state import hub_part, loadable, resumable

__all__ = ("MessageHub",)

_current: ContextVar[tuple[MessageHub, ...]] = ContextVar("asynchub_current", default=())
"""The hubs that the running code is inside of, the innermost last."""


class MessageHub(Feed):
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
        self._stop: StopRequested | None = None
        self._settle_point.on_request(StopRequested, self._apply_stop)
        self._lifetime = Lifetime(
            self.instance_name, self._attachments, self._settle_point, self._close_log, self._forked, **self._options
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
        _current.set(_current.get()[:-1])
        self._lifetime.leave(failing=error is not None)

    async def __aenter__(self) -> Self:
        await self._lifetime.aenter()
        _current.set((*_current.get(), self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.set(_current.get()[:-1])
        await self._lifetime.aleave(failing=error is not None)

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

    def _on_observers_loop(self) -> bool:
        runner = self._attachments.runner
        return runner is not None and runner.here

    # --- control

    def settle(self, timeout: float | None = None) -> None:
        """Run control subscribers and apply requests, in this thread, until there is nothing left to handle.

        Does not wait for observers.

        Args:
            timeout: seconds; looked at between two rounds of control subscribers.

        Raises:
            ControlFailedError: control subscribers raised; the others ran.
            CycleError: they keep answering each other.
            DeadlockError: called by a subscriber.
            WaitTimeoutError: the timeout passed.
        """
        if CURRENT_SUBSCRIBER.get() is not None:
            self._refuse_nested("settle")
        self._settle_point.settle(timeout)

    async def settled(self, timeout: float | None = None) -> None:
        """Do what ``settle`` does, in this task; control subscribers may await here."""
        self._refuse_nested("settle")
        await self._settle_point.settled(timeout)

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
        self.settle(timeout)
        latch = self._flushing()
        if self._on_observers_loop():
            raise DeadlockError("flush() on the observers' own loop could never end; use `await hub.flushed()`")
        if not latch.wait(seconds_until(deadline)):
            raise WaitTimeoutError(f"not flushed after {timeout} s: {self._laggards()}")
        self.settle(seconds_until(deadline))

    async def flushed(self, timeout: float | None = None) -> None:
        """Do what ``flush`` does without blocking the loop."""
        deadline = deadline_in(timeout)
        await self.settled(timeout)
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

    def _laggards(self) -> str:
        return ", ".join(f"{one.name} is {one.statistics().lag} behind" for one in self._attachments.observers)

    def _refuse_nested(self, verb: str) -> None:
        subscriber = CURRENT_SUBSCRIBER.get()
        if subscriber is not None and any(subscriber is one for one in self._attachments):
            raise DeadlockError(f"{verb}() waits for subscribers, and was called by one: {subscriber.name!r}")
        self._settle_point.refuse_nested()

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
        self._settle_point.on_request(kind, apply)
        return apply

    def apply_requests(self) -> int:
        """Apply pending requests in this thread, without running control subscribers; return how many there were."""
        return self._settle_point.apply_requests()

    def _apply_stop(self, request: StopRequested) -> None:
        self._stop = self._stop or request

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

    # --- state

    def state_dict(self, timeout: float | None = 30.0) -> dict[str, Any]:
        """Return the resumable state: deep copies of the keys whose ``resumed`` is true, and subscribers' states.

        Args:
            timeout: seconds to wait for observers to have handled what was published so far.

        Raises:
            DeadlockError: called by a subscriber, or on the observers' own loop, while one has not handled all that was
                published; ``await hub.flushed()`` first.
            WaitTimeoutError: one had not, in time.
        """
        latch, states = self._capture()
        if not latch.wait(0):
            self._refuse_nested("state_dict")
            if self._on_observers_loop():
                raise DeadlockError(
                    "state_dict() and save() would block the observers' own loop, and they are not done: "
                    "`await hub.saved()`, or `await hub.flushed()` first"
                )
        if not latch.wait(timeout):
            raise WaitTimeoutError(f"no state of the subscribers after {timeout} s: {self._laggards()}")
        return self._state(states)

    def _capture(self) -> tuple[Latch, dict[str, Any]]:
        latch, states = self._attachments.capture()
        self._bus.hurry()
        return latch, states

    def _state(self, subscribers: dict[str, Any]) -> dict[str, Any]:
        for state in subscribers.values():
            if isinstance(state, Exception):
                raise state
        with self._bus.still():
            state = resumable(self._log_scalars, self._runtime_info, self._resumed_keys)
            extra: dict[str, Any] = {"step": self._step, "seq": self._bus.seq}
            stamps = {key: list(stamp) for key, stamp in self._info_stamps.items() if key in state["runtime_info"]}
            if stamps:
                extra["info_stamps"] = stamps
        if subscribers:
            extra["subscribers"] = subscribers
        if self._stop is not None:
            extra["stop"] = {"reason": self._stop.reason, "author": self._stop.author, "step": self._stop.step}
        if subscribers or self._stop is not None or self._step:
            state["asynchub"] = extra
        return state

    def load_state_dict(self, state_dict: Any) -> None:
        """Take in a state dict: what is in it replaces what is here, the rest stays. A hub replaces everything.

        Subscribers get their saved state, now or when they are attached, and whatever events it had not handled.

        Raises:
            StateDictError: it is not a state dict; nothing has changed then.
        """
        self._load(state_dict, "dict")

    def _load(self, state: Any, source: str) -> None:
        scalars, infos, flags, extra, replacing = loadable(state, {*self._log_scalars, *self._runtime_info})
        stop, stamps, newest = hub_part(scalars, extra)

        def take_in() -> None:
            if replacing:
                for live in (self._log_scalars, self._runtime_info, self._resumed_keys, self._info_stamps):
                    live.clear()
            self._forget_cells()
            self._log_scalars.update(scalars)
            self._runtime_info.update(infos)
            self._resumed_keys.update(flags)
            self._step = extra.get("step", self._step)
            self._bus.seq = max(self._bus.seq, newest)
            unknown = (self._bus.seq, time.time(), self._step)
            self._info_stamps.update((key, stamps.get(key, unknown)) for key in infos)
            self._stop = stop or self._stop
            self._append(StateLoaded(source=source))

        self._change(take_in, None)
        self._attachments.load_states(extra.get("subscribers", {}))

    def save(
        self, path: str | PathLike[str], timeout: float | None = 30.0, *, registry: Registry | None = None
    ) -> None:
        """Write the resumable state to a file, atomically: the path holds the old state or the new one, whole.

        Args:
            path: the file; its folder is created.
            timeout: seconds to wait for observers to have handled what was published so far.
            registry: types of the program's own, for runtime infos.

        Raises:
            UnsupportedTypesError: a runtime info cannot be stored; each is named.
            WaitTimeoutError: a subscriber was never between two events.
            OSError: the disk said no; the old file is untouched.
        """
        write_hub(path, self.state_dict(timeout), self.instance_name, registry)

    async def saved(
        self, path: str | PathLike[str], timeout: float | None = 30.0, *, registry: Registry | None = None
    ) -> None:
        """Do what ``save`` does without blocking the loop."""
        latch, states = self._capture()
        if not await latch.waited(timeout):
            raise WaitTimeoutError(f"no state of the subscribers after {timeout} s: {self._laggards()}")
        await anyio.to_thread.run_sync(write_hub, path, self._state(states), self.instance_name, registry)

    def load(
        self, path: str | PathLike[str], *, registry: Registry | None = None, limits: Limits | None = None
    ) -> None:
        """Take in the state that ``save`` wrote; see ``load_state_dict``.

        Args:
            path: the file.
            registry: types of the program's own, for runtime infos.
            limits: what the file may ask for; see ``asynchub.codec.Limits``.

        Raises:
            StateError: the file is damaged, truncated or foreign; nothing has changed then.
            FileNotFoundError: there is none.
        """
        self._load(read_hub(path, limits, registry), str(path))

    def __getstate__(self) -> dict[str, Any]:
        names = ("_instance_name", "_log_scalars", "_runtime_info", "_resumed_keys")
        with self._bus.still():
            return {**{name: getattr(self, name) for name in names}, "_step": self._step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_instance_name"])  # type: ignore[misc]  # a copy is a new hub with the record of the old
        for name in ("_log_scalars", "_runtime_info", "_resumed_keys"):
            getattr(self, name).update(state[name])
        self._step = state.get("_step", 0)

    # --- what programs of mmengine call beside its documented methods

    def _set_resumed_keys(self, key: str, resumed: bool) -> None:
        with self._bus.lock:
            self._check_resumed(checked_key(key), resumed)
            self._resumed_keys.setdefault(key, resumed)

    def _get_valid_value(self, value: Any) -> int | float:
        return real_number("value", value)
