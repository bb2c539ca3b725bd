"""Events from elsewhere, published in a hub as they were: with their own time and step, and a ``seq`` of this hub's.

Atomicity: a batch is one change; readers of the hub see all of it or nothing.
Threads: one at a time; others may publish in the hub meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from asynchub.batches import Batch, events_of
from asynchub.events import Event, InfoRemoved, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub

__all__ = ("Arrivals",)


class Arrivals:
    """What comes to a hub from another one.

    Args:
        hub: the hub that it is published in.
        rename: gives the key of an event in this hub.
        steps: whether the hub's ``step`` follows that of what comes.

    Attributes:
        keys: of the scalars that came, as they are in this hub.
    """

    def __init__(self, hub: MessageHub, rename: Callable[[str], str] = lambda key: key, *, steps: bool = True) -> None:
        self.keys: set[str] = set()
        self._hub = hub
        self._rename = functools.lru_cache(65_536)(rename)
        self._steps = steps

    def add(self, batch: Batch) -> tuple[int, int]:
        """Publish the events of a batch; return the ``seq`` of the first here, and how many there were.

        Raises:
            StateError: it is damaged; nothing was published then.
        """
        return self.add_events(list(events_of(batch, registry=self._hub.registry)))

    def add_events(self, events: list[Event]) -> tuple[int, int]:
        """Publish events, in order; return the ``seq`` of the first here, and how many there were."""
        if not events:
            return self._hub._bus.seq + 1, 0
        return self._hub._change(functools.partial(self._publish, events), (self._hub._bus.seq + 1, len(events)))

    def _publish(self, events: list[Event]) -> tuple[int, int]:
        hub = self._hub
        bus, cells = hub._bus, hub._cells
        first = bus.seq + 1
        entries: list[Any] = []
        for event in events:
            if type(event) is ScalarUpdated:
                key = self._rename(event.key)
                cell = cells.get(key)
                self.keys.add(key)
                if cell is None:
                    cell = hub._admit(key, hub._resumed_keys.get(key, True), event.value, event.count)
                entries += (cell, event.time, event.step, event.value, event.count)
                continue
            if entries:
                bus.put(entries)
                entries = []
            self._publish_other(event)
        if entries:
            bus.put(entries)
        if self._steps and events[-1].step is not None:
            hub._step = events[-1].step
        return first, len(events)

    def _publish_other(self, event: Event) -> None:
        hub = self._hub
        bus = hub._bus
        stamped = event.stamped(bus.seq + 1, event.time, event.step)
        key = self._rename(stamped.key)
        if key != stamped.key:
            object.__setattr__(stamped, "key", key)  # nobody else has it yet
        if isinstance(event, InfoUpdated | InfoRemoved):
            if isinstance(event, InfoRemoved):
                hub._runtime_info.pop(key, None)
                hub._info_stamps.pop(key, None)
            else:
                hub._runtime_info[key] = event.value
                hub._info_stamps[key] = (stamped.seq, stamped.time, stamped.step)
                hub._resumed_keys.setdefault(key, True)
        if bus.tap is not None or bus.held or bus.wants(stamped.key, type(stamped)):
            hub._log(stamped)
        bus.seq = stamped.seq
