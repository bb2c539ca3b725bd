"""A run, watched from another process: the events of a journal while somebody writes it.

Exact: every event once, in the order of ``seq``. Where events are missing, because segments were deleted, an
    ``EventsDropped`` stands in their place. What was rewound comes too; the ``Rewound`` behind it says so.
Fresh: with the levels ``process`` and ``disk`` an event comes some milliseconds after it was published, with ``memory``
    after the ``interval`` of the journal.
Harmless: nothing is locked, nothing is written; the writer does not know who follows.
Cheap: while nothing comes, it looks 50 times a second at the tail, and 20 times, in a worker thread, at the segments.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from asynchub.batches import Batch, Test, events_of
from asynchub.channels import Selection
from asynchub.codec.registry import Registry
from asynchub.errors import ArgumentError, JournalError
from asynchub.events import Event, EventsDropped
from asynchub.journal.folder import find_journal
from asynchub.journal.segments import SegmentReader
from asynchub.journal.tailing import TailReader
from asynchub.locking import is_released

__all__ = ("Until", "follow")

Until = Literal["closed", "now"]
"""When following ends. ``"closed"``: when the writer has left the journal whole, and all was read; one that was killed
has not. ``"now"``: at the end of what there is."""
BUSY, IDLE = 0.002, 0.02
"""Seconds between two looks at the tail while events come, and while none do."""
SEGMENTS = 0.05
"""Seconds between two looks at the segments while the tail holds what comes next."""


def follow(
    run: str | PathLike[str],
    *wanted: str | type[Event],
    since: int = 0,
    until: Until | None = None,
    registry: Registry | None = None,
) -> AsyncGenerator[Event, None]:
    """Yield the events of a run that another process writes, will write, or has written.

    It waits for a journal that is not there yet, and goes on with a run that is resumed. For asyncio and trio.

    Args:
        run: folder of the run, which holds a folder ``journal``; or of the journal itself.
        wanted: key patterns and event classes, as for ``hub.subscribe``; default everything.
        since: only events after this ``seq``.
        until: when to end; see ``asynchub.journal.following.Until``. None: never.
        registry: types of the program's own that may occur in events; without it they come as they are stored, opaque.

    Raises:
        PatternError: a pattern is malformed.
        ArgumentError: another argument is of a wrong form.
        FileNotFoundError: there is no journal, and ``until`` is ``"now"``.
        JournalError: another run has taken the place of this one.
        JournalCorruptError: events that the journal had promised are damaged.
        StateError: stored values are damaged, or ask for more than the limits allow.
    """
    if type(since) is not int or since < 0:
        raise ArgumentError(f"since must be a seq, an int from 0 on, got {since!r:.80}")
    if until not in ("closed", "now", None):
        raise ArgumentError(f"until must be 'closed', 'now' or None, got {until!r:.80}")
    return _followed(Path(run), since, until, Selection.of(wanted or ("**",)).test(), registry)


async def _followed(
    run: Path, since: int, until: Until | None, test: Test, registry: Registry | None
) -> AsyncGenerator[Event, None]:
    while (folder := find_journal(run)) is None:
        if until == "now":
            raise FileNotFoundError(f"{run} holds no journal; a run has one after hub.attach(Journal(run / 'journal'))")
        await anyio.sleep(IDLE)
    reader = _Reader(folder, since, test, registry)
    pause, due = BUSY, 0.0
    while True:
        released = until == "closed" and is_released(folder)  # before the last look
        looked, before = False, reader.last_seq
        events = reader.from_tail()
        if reader.last_seq == before and (reader.gap or until == "now" or time.monotonic() >= due):
            looked = True
            events = await anyio.to_thread.run_sync(reader.from_segments)
        for event in events:
            yield event
        if reader.last_seq > before:
            pause, due = BUSY, 0.0 if looked else due
        elif looked and not reader.more:
            if until == "now" or (released and reader.closed):
                return
            due = time.monotonic() + SEGMENTS
        if reader.more or (looked and reader.last_seq > before):
            await checkpoint()
        else:
            await anyio.sleep(pause)
            pause = min(1.5 * pause, IDLE)


class _Reader:
    """The two places where events are, read in turn.

    Attributes:
        last_seq: everything up to this ``seq`` was returned, or is not wanted.
    """

    def __init__(self, folder: Path, since: int, test: Test, registry: Registry | None) -> None:
        self.last_seq = since
        self._tail = TailReader(folder)
        self._segments = SegmentReader(folder, since)
        self._test = test
        self._registry = registry

    @property
    def gap(self) -> bool:
        """Whether what comes next is in the segments, or will be."""
        return self._tail.gap

    @property
    def more(self) -> bool:
        """Whether there is more in the tail."""
        return self._tail.more

    @property
    def closed(self) -> bool:
        """Whether the segments end as those of a journal do that was closed."""
        return self._segments.closed

    def from_tail(self) -> list[Event]:
        """Return the next events, as far as the tail holds them."""
        batches = self._tail.poll(self.last_seq)
        if batches:
            self._check(self._tail.run_id)
            self.last_seq = batches[-1].seqs[1]
        return self._events(batches)

    def from_segments(self) -> list[Event]:
        """Return the next events, as far as the segments hold them."""
        self._segments.last_seq = self.last_seq
        found = self._segments.read()
        self.last_seq = self._segments.last_seq
        return self._events(found)

    def _check(self, run_id: bytes | None) -> None:
        if self._segments.run_id not in (None, run_id):
            raise JournalError(
                f"{self._tail.path} belongs to another run than what was read before; follow that from its beginning"
            )
        self._segments.run_id = run_id

    def _events(self, found: Sequence[Batch | EventsDropped]) -> list[Event]:
        events: list[Event] = []
        for one in found:
            events += (
                [one] if isinstance(one, EventsDropped) else events_of(one, test=self._test, registry=self._registry)
            )
        return events
