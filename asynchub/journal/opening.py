"""Opening the folder of a journal for a hub: for the first time, or to go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from asynchub.batches import RESUMED, UNSTORED, decode_event
from asynchub.errors import JournalError
from asynchub.events import InfoRemoved, InfoUpdated, Rewound
from asynchub.journal.folder import repair
from asynchub.journal.reading import Journaled, read_journal
from asynchub.journal.writing import SegmentWriter, built
from asynchub.ledger import Records
from asynchub.statefile import flush, flush_folder

__all__ = ("Past", "catch_up", "open_segments", "removed_infos")

Past = tuple[list[tuple[str, bool, Records]], list[InfoUpdated], Rewound | None, int]
"""What a hub had recorded that its journal does not have: histories, infos, what is to be published now, and what is to
be added to every ``seq``."""


def open_segments(path: Path, hub: Any, segment_size: int) -> tuple[SegmentWriter, Journaled]:
    """Return a writer for a folder whose lock is held, and what is in it.

    What a crash has torn is cut, and the tail is brought into a segment.

    Raises:
        JournalError: the folder holds the journal of another run.
        JournalCorruptError: events that the journal had promised are damaged.
        OSError: the folder cannot be written.
    """
    found = read_journal(path)
    if found.last_seq and found.run_id is not None:
        if hub._run_id is None:
            raise JournalError(
                f"{path} holds the journal of a run, up to event {found.last_seq}: go on with it by "
                "hub = asynchub.recover(...), or choose another folder"
            )
        if hub.run_id != found.run_id.hex():
            raise JournalError(
                f"{path} holds the journal of run {found.run_id.hex()}, this hub is of run {hub.run_id}: "
                "choose another folder"
            )
    number = found.segments[-1].index if found.segments else 0
    repair(found)
    if not found.last_seq:
        for segment in found.segments:  # without an event, and perhaps of another run
            segment.path.unlink()
    sure = _made_sure(found)
    writer = SegmentWriter(path, bytes.fromhex(hub.run_id), hub.instance_name, number, sure, segment_size)
    writer.give(map(built, found.batches(sure)))
    writer.write()
    writer.sync()
    return writer, found


def _made_sure(found: Journaled) -> int:
    """Wait until the disk has the newest segment; return up to which ``seq`` it has all.

    Those before it were closed, or were given up because the disk failed: what such a one has beyond the beginning of
    the next is not sure to be on the disk.
    """
    if not found.segments or not found.last_seq:
        return 0
    newest = found.segments[-1]
    with newest.path.open("rb") as file:
        flush(file.fileno())
    flush_folder(found.folder)
    before = newest.head.first_seq - 1 if newest.head is not None else 0
    return max([before, *(frame.last_seq for frame in newest.frames)])


def catch_up(hub: Any, last_seq: int) -> Past:
    """Return what a hub's journal does not have. With the log still.

    Of a hub that is at an earlier state than its journal, everything since then gets a ``seq`` beyond those in it,
    behind a ``Rewound``.

    Args:
        hub: the hub.
        last_seq: the newest ``seq`` in the journal.
    """
    base: int = hub._base_seq
    recorded, infos = hub.recorded(min(base, last_seq))
    if last_seq <= base:
        return recorded, infos, None, 0
    rewound = Rewound(to_seq=base).stamped(last_seq + 1, time.time(), hub.step)
    return recorded, infos, rewound, last_seq + 1 - base


def removed_infos(hub: Any, found: Journaled) -> list[str]:
    """Return the infos that a hub had when its journal ended, and has no more. With the log still."""
    since = min(hub._base_seq, found.last_seq)
    keys: dict[str, bool] = {}
    if hub._bus.seq > since:  # else nothing has happened
        events = [batch.events for after, upto in found.lineage(since) for batch in found.batches(after, upto)]
        for event, fields in (decode_event(data) for some in events for _, data in some):
            if isinstance(event, InfoUpdated):
                keys[event.key] = fields.get(RESUMED, True) and UNSTORED not in fields
            elif isinstance(event, InfoRemoved):
                keys.pop(event.key, None)
    return [key for key, kept in keys.items() if kept and key not in hub.runtime_info]
