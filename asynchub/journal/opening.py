"""Opening the folder of a journal for a hub: for the first time, or to go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from asynchub.codec.registry import Registry
from asynchub.errors import JournalError
from asynchub.events import InfoUpdated, Rewound
from asynchub.history import Records
from asynchub.journal.batches import encode_event
from asynchub.journal.folder import repair
from asynchub.journal.reading import read_journal
from asynchub.journal.writing import SegmentWriter, built

__all__ = ("Past", "catch_up", "open_segments")

Past = tuple[list[tuple[str, bool, Records]], list[InfoUpdated], list[tuple[int, bytes]], int]
"""What a hub had recorded that its journal does not have: histories, infos, other events encoded, and what is to be
added to every ``seq``."""


def open_segments(path: Path, hub: Any, segment_size: int) -> tuple[SegmentWriter, int]:
    """Return a writer for a folder whose lock is held, and the newest ``seq`` of what is in it.

    What a crash has torn is cut, and the tail is brought into a segment.

    Raises:
        JournalError: the folder holds the journal of another run.
        JournalCorruptError: events that the journal had promised are damaged.
        OSError: the folder cannot be written.
    """
    found = read_journal(path)
    if found.last_seq and found.run_id is not None:
        if not hub._run_id:
            raise JournalError(
                f"{path} holds the journal of a run, up to event {found.last_seq}: go on with it by "
                "hub = asynchub.recover(...), or choose another folder"
            )
        if hub.run_id != found.run_id.hex():
            raise JournalError(
                f"{path} holds the journal of run {found.run_id.hex()}, this hub is of run {hub.run_id}: "
                "choose another folder"
            )
    repair(found)
    number = found.segments[-1].index if found.segments else 0
    if not found.last_seq:
        for segment in found.segments:  # without an event, and perhaps of another run
            segment.path.unlink()
    in_segments = found.tail[0].seqs[0] - 1 if found.tail else found.last_seq
    run_id = bytes.fromhex(hub.run_id)
    writer = SegmentWriter(path, run_id, hub.instance_name, number, in_segments, segment_size)
    writer.give(map(built, found.tail))
    writer.write()
    writer.sync()
    return writer, found.last_seq


def catch_up(hub: Any, last_seq: int, registry: Registry | None) -> Past:
    """Bring the ``seq`` of a hub beyond those in its journal; return what that does not have. With the log still.

    A hub that is at an earlier state than its journal publishes a ``Rewound``, and gives everything since then a new
    ``seq``.

    Args:
        hub: the hub.
        last_seq: the newest ``seq`` in the journal.
        registry: the classes that may occur in events beyond the built-in ones.
    """
    base: int = hub._base_seq
    recorded, infos = hub.recorded(min(base, last_seq))
    if last_seq <= base:
        return recorded, infos, [], 0
    shift = last_seq + 1 - base
    rewound = Rewound(to_seq=base).stamped(last_seq + 1, time.time(), hub.step)
    hub._bus.seq += shift
    hub._log(rewound)
    hub._replayed = (*hub._replayed, rewound)  # for those attached later
    return recorded, infos, [(base, encode_event(rewound, None, registry)[0])], shift
