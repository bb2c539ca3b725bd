"""What waits, in its place in the log, for values from devices; and with it all that was published after it.

Order: what is held goes on in the order of ``seq``, as soon as every value before it is there.
Atomicity: handing on may be broken off by an exception in any line, and is taken up where it was.
Loss: in the place of a scalar whose value will never come stands a ``ScalarLost``.
Threads: any. Nothing here waits with ``lock`` held.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from asynchub.errors import DeviceLostError, WaitTimeoutError
from asynchub.events import ENTRY, Event, ScalarLost
from asynchub.filing import Run
from asynchub.loops import Latch
from asynchub.pending import Pending, hasten, may_not_wait

__all__ = ("VALUE", "Holding", "first_seq")

logger = logging.getLogger("asynchub")
VALUE = 3
"""Where the value stands in an entry."""
MERGED = 4096
"""Entries that are handed on in one piece, about."""


def first_seq(item: Any) -> int:
    """Return the ``seq`` of an event, or of the first entry of a run."""
    return item[0] if type(item) is tuple else item.seq  # type: ignore[no-any-return]  # a log holds nothing else


class Holding(ABC):
    """The part of a log that holds back what has not come.

    Attributes:
        held: runs of entries and other events, in order, the first of which waits for a value.
        lock: see ``Intake``, as for ``seq`` and ``busy``.
        lost: why a value was lost, until somebody was told.
        gates: of each closed gate, the thread that closed it, and a latch that is set when it is opened.
    """

    lock: threading.RLock
    seq: int
    busy: bool

    def renew_held(self) -> None:
        """Hold nothing, as a forked child must, which no value reaches; what was not waiting itself goes on."""
        if getattr(self, "_passing", None) is not None:  # what had been begun before the fork is not begun again
            self._finish_passing()
        held: deque[Run | Event] = getattr(self, "held", deque())
        self.held: deque[Run | Event] = deque()
        self.lost: DeviceLostError | None = None
        self._passing: tuple[deque[Run | Event], int] | None = None
        self._waiting: list[tuple[int, Latch]] = []
        self.gates: list[tuple[int, Latch]] = []
        for item in held:
            if type(item) is tuple:
                seq, items = item
                for index in range(0, len(items), ENTRY):
                    if type(items[index + VALUE]) is not Pending:
                        self._hand_on((seq + index // ENTRY, items[index : index + ENTRY]))

    @abstractmethod
    def number(self) -> None:
        """Give every entry its ``seq``; call with ``lock`` held."""

    @abstractmethod
    def _hand_on(self, item: Run | Event) -> None:
        """Append to what it has to go to, once: again is the same, before anything else is."""

    @abstractmethod
    def attend(self) -> None:
        """Do what a publisher must now and then; this begins with ``pass_on``."""

    @property
    def out(self) -> int:
        """All up to this ``seq`` has gone on."""
        held = self.held
        return first_seq(held[0]) - 1 if held else self.seq

    # --- in

    def hold(self, items: list[Any]) -> None:
        """Publish entries, values of which are pending, as part of a change; with ``lock`` held and ``busy`` set."""
        self.held.append((self.seq + 1, items))
        self.seq += len(items) // ENTRY

    def put_event(self, event: Event) -> None:
        """Append a stamped event; it is published once ``seq`` counts it. With ``lock`` held and ``busy`` set."""
        if self.held:
            self.held.append(event)
        else:
            self._hand_on(event)

    # --- out

    def let_out(self) -> None:
        """Hand on what has come, and have readers look; called by whoever brings values."""
        self.attend()

    def pass_on(self) -> None:
        """Hand on what has come; with ``lock`` held."""
        if self.busy:  # a signal handler, or somebody who keeps the log still
            return
        try:
            self.busy = True
            self._finish_passing()
            while self.held and (come := self._come()) is not None:
                self._passing = come
                self._finish_passing()
        finally:
            self.busy = False
        out = self.out
        for waiting in self._waiting[:]:
            if waiting[0] <= out:
                waiting[1].set()
                self._waiting.remove(waiting)

    def _finish_passing(self) -> None:
        passing, held = self._passing, self.held
        if passing is None:
            return
        results, last = passing
        while results:
            self._hand_on(results[0])
            results.popleft()
        while held and first_seq(held[0]) <= last:  # only now: until then, `out` counts none of it
            held.popleft()
        self._passing = None

    def _come(self) -> tuple[deque[Run | Event], int] | None:
        """Return what of the beginning has come, with its values, and the last ``seq`` of that; None if nothing has."""
        results: deque[Run | Event] = deque()
        run: list[Any] = []
        first = last = 0
        for item in islice(self.held, MERGED):
            if type(item) is not tuple:
                parts: Sequence[Run | Event] = (item,)
                end = first_seq(item)
            else:
                whole = self._with_values(*item)
                if whole is None:
                    break
                parts, end = whole, item[0] + len(item[1]) // ENTRY - 1
            if end > self.seq:
                break
            last = end
            for part in parts:
                if type(part) is not tuple:
                    results.append(part)
                    run = []
                elif run:  # the end of `results`
                    run += part[1]
                else:
                    first, run = part[0], part[1][:]
                    results.append((first, run))
            if len(run) > MERGED * ENTRY:
                break
        lost = [item.scalar for item in results if isinstance(item, ScalarLost)]
        if lost:
            logger.error("%d values are lost, of %s: %s", len(lost), ", ".join(map(repr, sorted(set(lost)))), self.lost)
        return (results, last) if results else None

    def _with_values(self, seq: int, items: list[Any]) -> Sequence[Run | Event] | None:
        """Return a run with the values that it waits for, in pieces around those that are lost; None if one is out."""
        indices = [index for index in range(VALUE, len(items), ENTRY) if type(items[index]) is Pending]
        if not indices:
            return ((seq, items),)
        for index in indices:
            if not items[index].flight.landed:
                return None
        items = items[:]
        parts: list[Run | Event] = []
        begin = 0
        for index in indices:
            error = items[index].flight.error
            if error is None:
                items[index] = items[index].value()
                continue
            self.lost = error
            start = index - VALUE
            if start > begin:
                parts.append((seq + begin // ENTRY, items[begin:start]))
            cell, time, step, _, count = items[start : start + ENTRY]
            text = f"{type(error).__name__}: {error}"
            number = seq + start // ENTRY
            parts.append(ScalarLost(seq=number, time=time, step=step, scalar=cell.key, count=count, error=text))
            begin = start + ENTRY
        if begin < len(items):
            parts.append((seq + begin // ENTRY, items[begin:]))
        return parts

    # --- waiting

    def may_not_wait(self) -> bool:
        """Tell whether this thread is one that what is held waits for: amid a change, say."""
        return self.lock._is_owned() or may_not_wait()  # type: ignore[attr-defined]  # what threading.Condition asks of it

    def drained(self) -> Latch:
        """Return a latch that is set when all that was published so far has gone on.

        Where this thread may not wait for that, it is set at once.
        """
        latch = Latch()
        if self.may_not_wait():
            latch.set()
            return latch
        with self.lock:
            self.number()
            self.pass_on()
            if not self.held:
                latch.set()
                return latch
            self._waiting.append((self.seq, latch))
        hasten()
        return latch

    def drain(self, timeout: float | None = None) -> None:
        """Wait until all that was published so far has gone on.

        Raises:
            WaitTimeoutError: the timeout, in seconds, passed.
        """
        if not self.drained().wait(timeout):
            raise _late(timeout)

    async def drain_awaited(self, timeout: float | None = None) -> None:
        """Do the same in this task."""
        latch = self.drained()
        if not latch.is_set and not await latch.waited(timeout):
            raise _late(timeout)

    def raise_lost(self) -> None:
        """Raise why a value was lost, once.

        Raises:
            DeviceLostError: one was, since the last call.
        """
        lost, self.lost = self.lost, None
        if lost is not None:
            raise lost

    # --- a gate

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Have other threads wait before they publish from devices; those that have begun to do not."""
        gate = (threading.get_ident(), Latch())
        self.gates.append(gate)
        try:
            yield
        finally:
            self.gates.remove(gate)
            gate[1].set()

    def wait_at_gate(self) -> None:
        """Wait until no other thread has the gate closed; does not wait for what this thread would keep closed."""
        here = threading.get_ident()
        while self.gates and not any(thread == here for thread, _ in self.gates):
            for _, latch in self.gates[:]:
                latch.wait(None)


def _late(timeout: float | None) -> WaitTimeoutError:
    """Return the error of who waited for values from devices."""
    return WaitTimeoutError(f"values were still on their way from their device after {timeout} s")
