"""The events of a run that is in a folder: of one that ended, or so far of one that goes on.

They come from its journal; from its newest snapshot where the journal begins later, or if there is none; or from a
``metrics.jsonl`` of ``JsonlLogger``, if there is nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asynchub.batches import Batch, Test, events_of
from asynchub.channels import Selection
from asynchub.dashboard.sifting import counted_in, counting
from asynchub.errors import JournalError
from asynchub.events import Event, EventsDropped, Rewound
from asynchub.journal.folder import find_journal
from asynchub.journal.reading import Journaled, read_journal, segment_files
from asynchub.journal.recovering import recover
from asynchub.journal.segments import SegmentReader
from asynchub.journal.tailing import TailReader
from asynchub.ledger import Records
from asynchub.past import past_events
from asynchub.subscribers.jsonl import read_jsonl

__all__ = ("newest_events", "recorded_events", "streamed_events")

LOG = "metrics.jsonl"


def recorded_events(run: Path, *wanted: str | type[Event], rewound: bool = False) -> Iterator[Event]:
    """Yield the events of a run, in the order of ``seq``.

    Args:
        run: its folder, or that of its journal, or a file of ``JsonlLogger``.
        wanted: key patterns and event classes; default everything.
        rewound: whether those come, too, that do not count because the run was resumed from an earlier state; and the
            ``Rewound`` that say so.

    Raises:
        FileNotFoundError: there is no such run.
        PatternError: a pattern is malformed.
        JournalCorruptError: events that the journal had promised are damaged.
        CorruptStateError: something else in it is damaged, or foreign.
    """
    test = Selection.of(wanted or ("**",)).test()
    folder = find_journal(run)
    if folder is not None:
        return _journaled(run, read_journal(folder), test, rewound)
    log = run / LOG if run.is_dir() else run
    if log.is_file():
        return (event for event in read_jsonl(log) if test(event.key, type(event)))
    _refuse_foreign(run)
    return _recovered(run, float("inf"), test)


def streamed_events(
    run: Path,
    *wanted: str | type[Event],
    rewinds: Sequence[tuple[int, int]],
    upto: float = float("inf"),
    between: Callable[[], None] = lambda: None,
) -> Iterator[Event]:
    """Yield what ``recorded_events`` does, holding one frame of the journal at a time, however long that is.

    A frame that has none of the wanted keys costs what it takes to read it; of the others, only wanted events are made.

    Args:
        run: as of ``recorded_events``.
        wanted: as of ``recorded_events``.
        rewinds: ``seq`` and ``to_seq`` of each ``Rewound`` up to ``upto``.
        upto: ``seq`` of the last event that is wanted.
        between: called after each frame that was read; what it raises ends the reading.

    Raises:
        FileNotFoundError: there is no such run.
        StateError: as ``recorded_events``, but only when the damage is reached.
    """
    folder = find_journal(run)
    if folder is None:
        yield from recorded_events(run, *wanted)
        return
    test = Selection.of(wanted or ("**",)).test()
    files = segment_files(folder)
    before = files[0][1] - 1 if files else 0
    if before:
        yield from _before(run, before, test)
    stretches = [(after, min(end, upto)) for after, end in counting(rewinds)]
    for batch in _read_on(folder, before):
        between()
        if isinstance(batch, EventsDropped):
            yield batch
        elif batch.seqs[0] > upto:
            return
        else:
            for part in counted_in(batch, stretches):
                yield from (event for event in events_of(part, test=test) if not isinstance(event, Rewound))


def _read_on(folder: Path, after: int) -> Iterator[Batch | EventsDropped]:
    """Yield what the segments of a journal have behind a ``seq``, frame by frame, then what its tail has."""
    segments = SegmentReader(folder, after)
    while found := segments.read():
        yield from found
    tail, after = TailReader(folder), segments.last_seq
    while batches := tail.poll(after):
        if segments.run_id not in (None, tail.run_id):
            raise JournalError(f"{tail.path} belongs to another run than the segments beside it")
        yield from batches
        after = batches[-1].seqs[1]


def newest_events(run: Path, *wanted: str | type[Event], count: int | None, since: int = 0) -> tuple[list[Event], int]:
    """Return the newest events of a run, oldest first, and the ``seq`` up to which it was read.

    Args:
        run: as of ``recorded_events``.
        wanted: as of ``recorded_events``; what was rewound comes too.
        count: how many; None for all.
        since: only events after this ``seq``.

    Raises:
        FileNotFoundError: there is no such run.
        StateError: as ``recorded_events``.
    """
    test = Selection.of(wanted or ("**",)).test()
    folder = find_journal(run)
    if folder is None:
        found = deque((one for one in recorded_events(run, *wanted) if one.seq > since), count)
        return list(found), found[-1].seq if found else since
    journal = read_journal(folder)
    parts: list[list[Event]] = []
    left = float("inf") if count is None else count
    for batch in journal.newest_first(since):
        if left <= 0:
            break
        parts.append(list(events_of(batch, test=test)))
        left -= len(parts[-1])
    events = [event for part in reversed(parts) for event in part]
    return events if count is None else events[len(events) - min(count, len(events)) :], max(journal.last_seq, since)


def _journaled(run: Path, journal: Journaled, test: Test, rewound: bool) -> Iterator[Event]:
    if journal.first_seq > 1:
        yield from _before(run, journal.first_seq - 1, test)
    for after, upto in [(0, float("inf"))] if rewound else journal.lineage():
        for batch in journal.batches(after, upto):
            for event in events_of(batch, test=test):
                if rewound or not isinstance(event, Rewound):
                    yield event


def _before(run: Path, upto: int, test: Test) -> Iterator[Event]:
    """Yield what snapshots have of the events whose segments were deleted."""
    try:
        yield from _recovered(run, upto, test)
    except JournalError:  # no snapshot reaches that far
        yield EventsDropped(seq=upto, missed=upto)


def _recovered(run: Path, upto: float, test: Test) -> Iterator[Event]:
    """Yield what a run's newest state has of the events up to a ``seq``: its scalars, and the newest infos."""
    record = recover(run, on_unknown="keep")
    scalars, infos = record.recorded(0)
    kept = []
    for key, _, records in scalars:
        end = int((records.seqs <= upto).sum())
        kept.append((key, Records(*(column[:end] for column in records))))
    for event in past_events(kept, [info for info in infos if info.seq <= upto]):
        if test(event.key, type(event)):
            yield event


def _refuse_foreign(run: Path) -> None:
    if not run.exists():
        raise FileNotFoundError(f"{run} is not there; give the folder of a run, e.g. the one that holds journal/")
    if not run.is_dir() or not any(run.glob("*.ahs")):
        raise FileNotFoundError(
            f"{run} holds neither a journal nor a snapshot nor {LOG}; give the folder of a run, the one that "
            "hub.attach(Journal(run / 'journal')) or hub.save(run) was given"
        )
