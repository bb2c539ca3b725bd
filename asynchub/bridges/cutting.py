"""Cutting what a hub publishes into frames: every ``interval`` seconds, or when there is much of it.

Order: frames, and the events in them, are in the order of ``seq``.
Threads: ``give`` is called by whoever reads the hub, one at a time; ``hurry`` by any thread; all else on the bridge's
    own loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from asynchub.batches import Batch
from asynchub.bridges.frames import BASE, END, EVENTS, Frame
from asynchub.bridges.packing import Packer
from asynchub.events import Event
from asynchub.loops import Latch

__all__ = ("Cutter", "Identity")

FULL = 65_536
"""Events that wait to be cut before the reader of the hub is made to wait."""
PIECE = 4096
"""Events of the past that are taken at once."""


class Identity(NamedTuple):
    """Whose frames they are; see ``Frame``."""

    run: str
    run_id: str
    rank: int
    world: int
    epoch: int


class Cutter:
    """Makes frames of events.

    Args:
        identity: whose they are.
        packer: packs events.
        interval: seconds that an event waits for others, at most.
        put: called on the loop with each frame, in order.
        wake: has the loop call a function soon.

    Attributes:
        step: the hub's step, as it was given last.
        number: of the newest frame; 0 before the first.
    """

    def __init__(
        self,
        identity: Identity,
        packer: Packer,
        interval: float,
        put: Callable[[Frame], object],
        wake: Callable[[Callable[[], object]], object],
    ) -> None:
        self.step = 0
        self.number = 0
        self._upto_seq = 0
        self._identity = identity
        self._packer = packer
        self._interval = interval
        self._put = put
        self._wake = wake
        self._before = 0
        self._given: deque[Sequence[Event]] = deque()
        self._given_count = 0  # only the giver counts here,
        self._cut_count = 0  # and only the loop here
        self._room: Latch | None = None
        self._asked: deque[Latch] = deque()
        self._some = asyncio.Event()
        self._urgent = asyncio.Event()
        self._told = False

    # --- any thread

    def give(self, events: Sequence[Event]) -> Latch | None:
        """Have events cut that come after all before; return what to wait for before more is given, or None."""
        self._given.append(events)
        self._given_count += len(events)
        if self._given_count - self._cut_count >= FULL:
            room = self._room = Latch()
            self._wake(self._hasten)
            return room
        if not self._told:
            self._told = True
            self._wake(self._some.set)
        return None

    def hurry(self) -> Latch:
        """Have all that was given cut now; return a latch that is set when it is."""
        latch = Latch()
        self._asked.append(latch)
        self._wake(self._hasten)
        return latch

    def left(self) -> list[Event]:
        """Return what was given and not cut, when nobody cuts any more."""
        return [event for events in self._given for event in events]

    # --- on the loop

    def _hasten(self) -> None:
        self._urgent.set()
        self._some.set()

    def begin(self, after_seq: int, base: Sequence[Event], since: Iterable[Event]) -> None:
        """Begin the epoch.

        Args:
            after_seq: what the hub had published up to there is not part of it.
            base: the newest value of each key then.
            since: what was published after it, and before what will be given.
        """
        self._upto_seq = after_seq
        batches = [batch for _, batch in self._packer.packed(base)] or [Batch([], [], [])]
        for part, batch in enumerate(batches):
            self._frame(BASE, batch, 0, after_seq, part, len(batches))
        for events in _pieces(since):
            self._cut(events)

    async def run(self) -> None:
        """Cut, again and again, until cancelled."""
        while True:
            await self._some.wait()
            if not self._urgent.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._urgent.wait()
            self.cut()
            await asyncio.sleep(0)  # or an interval of 0 leaves no time to others

    def cut(self) -> None:
        """Cut all that was given."""
        self._some.clear()
        self._urgent.clear()
        self._told = False
        asked = len(self._asked)
        events: list[Event] = []
        while self._given:
            events += self._given.popleft()
        self._cut(events)
        self._cut_count += len(events)
        room, self._room = self._room, None
        if room is not None:
            room.set()
        for _ in range(asked):
            self._asked.popleft().set()

    def end(self) -> None:
        """Cut the rest, and say that this was the last."""
        self.cut()
        self._frame(END, Batch([], [], []), 0, self._upto_seq)

    def _cut(self, events: Sequence[Event]) -> None:
        for some, batch in self._packer.packed(events):
            self._frame(EVENTS, batch, len(some), some[-1].seq)

    def _frame(self, kind: str, batch: Batch, size: int, upto_seq: int, part: int = 0, parts: int = 1) -> None:
        self.number += 1
        frame = Frame(
            kind=kind,
            **self._identity._asdict(),
            number=self.number,
            first=self.number,
            before=self._before,
            size=size,
            left_out=0,
            after_seq=self._upto_seq,
            upto_seq=upto_seq,
            time=time.time(),
            step=self.step,
            batch=batch,
            part=part,
            parts=parts,
        )
        self._before += size
        self._upto_seq = upto_seq
        self._put(frame)


def _pieces(events: Iterable[Event]) -> Iterator[list[Event]]:
    rest = iter(events)
    while piece := list(islice(rest, PIECE)):
        yield piece
