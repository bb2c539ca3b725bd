"""What a journal has taken from the hub's log and not written yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asynchub.batches import Batch, encode_event, pieces
from asynchub.codec.registry import Registry
from asynchub.events import ENTRY, Event, InfoUpdated
from asynchub.filing import Run

__all__ = ("Gathered", "Taking")

logger = logging.getLogger("asynchub")


class Gathered(NamedTuple):
    """What was taken since the last time.

    Attributes:
        runs: runs of scalars, in order.
        events: ``seq`` and bytes of other events, in order.
        size: how many events that is.
        upto: all up to this ``seq`` is in it, or was in one before.
    """

    runs: list[Run]
    events: list[tuple[int, bytes]]
    size: int
    upto: int

    def batches(self) -> list[Batch]:
        """Return it as batches."""
        return pieces(self.runs, self.events)


class Taking:
    """Takes runs and events, each once. Not for more than one thread at a time.

    Args:
        path: of the journal, for messages.
        hub: whose log it is.
        registry: the classes that may occur in events beyond the built-in ones.
        put: makes entries safe; see ``asynchub.taps.Tap``. May be set anew.
        put_event: does the same with the ``seq`` and the bytes of another event.
    """

    def __init__(
        self,
        path: Path,
        hub: Any,
        registry: Registry | None,
        put: Callable[[int, list[Any]], bool],
        put_event: Callable[[int, bytes], bool],
    ) -> None:
        self._path = path
        self._hub = hub
        self._registry = registry
        self.put = put
        self.put_event = put_event
        self._runs: list[Run] = []
        self._events: list[tuple[int, bytes]] = []
        self._newest = 0
        self._encoded: tuple[Event, bytes] | None = None
        self._unstored: set[str] = set()

    def begin(self, seq: int) -> None:
        """Take what comes after ``seq``."""
        self._newest = seq

    def take(self, item: Run | Event) -> bool:
        """Take a run or an event, safe; False if there is no room for that. Again is the same as once."""
        if isinstance(item, Event):
            return self._take_event(item)
        first, items = item
        if not self.put(first, items):
            return False
        newest = first + len(items) // ENTRY - 1
        if newest > self._newest:
            if not self._runs or self._runs[-1] is not item:  # else an exception came between these two lines
                self._runs.append(item)
            self._newest = newest
        return True

    def _take_event(self, event: Event) -> bool:
        if event.seq <= self._newest:
            return True
        if self._encoded is None or self._encoded[0] is not event:  # else there was no room the last time
            self._encoded = (event, self.encode(event))
        data = self._encoded[1]
        if not self.put_event(event.seq, data):
            return False
        if not self._events or self._events[-1][0] < event.seq:  # as above
            self._events.append((event.seq, data))
        self._newest = event.seq
        self._encoded = None
        return True

    def encode(self, event: Event) -> bytes:
        """Return an event as bytes; say, once for each key, what of it cannot be stored."""
        resumed = self._hub._resumed_keys.get(event.key, True) if isinstance(event, InfoUpdated) else None
        data, unstored = encode_event(event, resumed, self._registry)
        if unstored and event.key not in self._unstored:
            self._unstored.add(event.key)
            text = "%s: of %s %r only the repr is kept: %s cannot be stored; register its type, or convert it"
            logger.warning(text, self._path, type(event).__name__, event.key, ", ".join(unstored))
        return data

    def gather(self, upto: int) -> Gathered:
        """Return what was taken since the last call; ``upto`` is the newest ``seq`` in it."""
        size = sum(len(items) for _, items in self._runs) // ENTRY + len(self._events)
        gathered = Gathered(self._runs, self._events, size, upto)
        self._runs, self._events = [], []
        return gathered
