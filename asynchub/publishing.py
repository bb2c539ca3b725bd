"""Appending to the log of a hub, one whole change of state and log at a time.

Atomicity: a change happens whole or leaves no trace, also when an exception breaks into it: Ctrl-C, or whatever a
    signal handler raises.
Re-entry: a signal handler or finalizer may publish amid a change of its own thread; it is done as soon as that is.
Threads: any number may publish.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from asynchub.ancestry import Ancestry
from asynchub.bus import EventBus
from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.manager import ManagerMixin
from asynchub.scalars import checked_step

__all__ = ("ABSENT", "Publishing")

E = TypeVar("E", bound=Event)
T = TypeVar("T")
ABSENT = object()
"""Stands for what is not there."""
_now = time.time


class Publishing(ManagerMixin):
    """A named log of events, with the step that they belong to."""

    def _begin(self, latency: float, capacity: int) -> None:
        self._step = 0
        self._base_seq = 0  # up to where a journal needs nothing of what is recorded here
        self._ancestry = Ancestry()
        self._bus = EventBus(latency, capacity)
        self._undo: list[tuple[dict[str, Any], str, Any]] = []  # what a change replaced,
        self._undo_at = -1  # while this was the newest seq

    @property
    def step(self) -> int:
        """The optimizer step that updates belong to when they name none; from 0. ``update_info("iter", n)`` sets it."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = checked_step(step)

    def publish(self, event: E, *, step: int | None = None) -> E:
        """Publish an event of any kind; return it as stamped, with its ``seq``, ``time`` and ``step``.

        Args:
            event: the event. Scalars and infos are recorded by ``update_scalar`` and ``update_info`` instead.
            step: the step it belongs to; default the event's own, else ``self.step``.

        Returns:
            The stamped event; ``event`` itself in a signal handler or finalizer that broke into an update of its own
            thread: it is published as soon as that is done.

        Raises:
            ArgumentError: ``event`` is not an event, or is a ``ScalarUpdated`` or ``InfoUpdated``, or ``step`` is no
                int.
        """
        if not isinstance(event, Event):
            raise ArgumentError(f"publish takes an Event, got {type(event).__name__}; see asynchub.events")
        if isinstance(event, ScalarUpdated | InfoUpdated):
            raise ArgumentError(f"{type(event).__name__} is published by update_scalar or update_info: call that")
        if step is not None:
            step = checked_step(step)
        return self._change(lambda: self._append(event, step), event)

    def _append(self, event: E, step: int | None = None) -> E:
        """Stamp an event and append it to the log; call with the log's lock held, and its ``busy`` set."""
        bus = self._bus
        if step is None:
            step = self._step if event.step is None else checked_step(event.step)
        stamped = event.stamped(bus.seq + 1, _now(), step)
        self._log(stamped)
        bus.seq = stamped.seq
        return stamped

    def _log(self, event: Event) -> None:
        """Append a stamped event to the log; it is published once ``seq`` counts it."""
        self._bus.put_event(event)

    def _change(self, change: Callable[[], T], meanwhile: T) -> T:
        """Make one change of state and log; return what it returns.

        Args:
            change: what changes both; called with the log's lock held.
            meanwhile: what to return when the change must wait for another one that this very thread is amid.
        """
        bus = self._bus
        if bus.blocking:
            bus.make_room()
        try:
            bus.lock.acquire()  # not `with`, which costs twice as much: `_let_go` does the same for an interrupt
            if bus.busy:
                bus.defer(lambda: self._change(change, meanwhile))
                bus.lock.release()
                return meanwhile
            bus.number()
            bus.busy = True
            result = change()
            bus.busy = False
            bus.lock.release()
        except BaseException:
            self._let_go()
            raise
        if bus.seq >= bus.limit:
            bus.attend()
        return result

    def _undo_here(self, keys: Iterable[str], *tables: dict[str, Any]) -> None:
        """Have ``_let_go`` put back what ``tables`` hold under ``keys`` now, unless ``seq`` has moved on."""
        if self._undo_at != self._bus.seq:
            self._undo, self._undo_at = [(vars(self), "_step", self._step)], self._bus.seq
        self._undo += [(table, key, table.get(key, ABSENT)) for key in keys for table in tables]

    def _let_go(self) -> None:
        """After an exception amid a change: undo it, unless ``seq`` counts it, and let go of the lock."""
        bus = self._bus
        if not bus.lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks of it
            return
        try:
            if self._undo_at == bus.seq:  # nothing was published since
                undo, self._undo, self._undo_at = self._undo, [], -1
                for table, key, value in reversed(undo):
                    if value is ABSENT:
                        table.pop(key, None)
                    else:
                        table[key] = value
            bus.take_back()
        finally:
            bus.busy = False
            bus.lock.release()
