"""How what was recorded gets into the columns of a history: many entries at once, or before somebody looks.

Threads: any number may record, fold and read; a read sees all that was recorded before it began.
Signals: a handler that interrupts ``fold`` finds the history as it was before. An exception that breaks it off loses
    and repeats nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from asynchub.columns import Array
from asynchub.ledger import FIELDS, UNSTAMPED, Ledger

__all__ = ("FOLDING", "FOLD_AT", "Folding", "Source")

FOLD_AT = 1024
"""Pending entries at which somebody folds them in."""
FOLDING = ("_feeds", "_folding", "_ledger", "_limit", "_lock", "_pending")
"""What is set on a history here, and ``_limit`` by the history."""


class Source(Protocol):
    """Where a history's entries come from."""

    def feed(self, wait: bool) -> None:
        """Append what it holds back to the ``_pending`` of histories; with ``wait``, what is still to come too."""

    def pending_of(self, history: Any) -> int:
        """Return how many entries of a history are still to come."""


class Folding:
    """A ledger, and the entries that are to be folded into it."""

    _limit: float

    def _begin_folding(self, ledger: Ledger) -> None:
        self._pending: list[Any] = []
        self._feeds: tuple[Source, ...] = ()
        self._lock = threading.RLock()
        self._folding = False
        self._ledger = ledger

    def fed_by(self, source: Source) -> None:
        """Have ``source`` asked before each look at the values."""
        if source not in self._feeds:
            self._feeds = (*self._feeds, source)

    def fold(self) -> None:
        """Move the pending entries into the columns."""
        with self._lock:
            if self._folding:  # a signal handler or a finalizer, amid the lines below
                return
            try:
                self._folding = True
                pending, ledger = self._pending, self._ledger
                took = ledger.took
                if 0 < took <= len(pending) and pending[1] is ledger.taken:
                    del pending[:took]  # an exception came between the last two lines of this block
                if items := pending[:]:
                    self._ledger = ledger.extended(items, self._limit)
                    del pending[: len(items)]
            finally:
                self._folding = False

    def take_in(self, stamps: tuple[Array, Array, Array], values: Array | Sequence[Any], counts: Array) -> None:
        """Record many values at once; columns as for ``Ledger.joined``, newer than all that was recorded."""
        with self._lock:
            if self._folding:  # a signal handler or a finalizer: leave them to the fold that it broke into
                times, steps = stamps[1].tolist(), stamps[2].tolist()
                for entry in zip(stamps[0].tolist(), times, steps, list(values), counts.tolist(), strict=True):
                    self._pending += entry
                return
            self.fold()
            self._ledger = self._ledger.joined(stamps, values, counts, self._limit)

    def forked(self) -> None:
        """Begin anew in a forked child, where the thread that may have held the lock does not exist."""
        self._lock = threading.RLock()
        self._folding = False

    def folded_seqs(self, since: int) -> set[int]:
        """Return the ``seq`` of what is folded in, from ``since`` on."""
        return set(self._ledger.records(since - 1)[0].tolist())

    def newest_seq(self) -> int:
        """Return the ``seq`` of the newest entry, or -1 if it came from no hub."""
        with self._lock:
            if self._pending:
                return self._pending[-FIELDS]  # type: ignore[no-any-return]  # an int
            stamps = self._ledger.stamps
            return int(stamps[0].view[-1]) if stamps and len(stamps[0]) else UNSTAMPED.seq

    def _folded(self, wait: bool = True) -> Ledger:
        """Return the ledger with all that was recorded before the call, or all that has come by now."""
        for source in self._feeds:
            source.feed(wait)
        if self._pending:
            self.fold()
        return self._ledger
