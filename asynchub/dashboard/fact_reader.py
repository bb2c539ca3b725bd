"""The facts of a run, read from its folder: what it says now at once, all that it ever said in slices.

Fast: the newest events of a journal, and its first ones, are looked at before all others, so that what a run does now
    is known in milliseconds, however long it is. ``is_whole`` says whether what came between is known, too; of a short
    run it is at once.
Sources: a journal; before what is deleted of it, a snapshot; without one, the newest snapshot, or a ``metrics.jsonl``.
Harmless: the folder is only read.
Threads: one at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asynchub.batches import Batch, Scalars
from asynchub.dashboard.buckets import of_values
from asynchub.dashboard.facts import Newest, RunFacts
from asynchub.dashboard.heads import JournalHead, journal_head
from asynchub.dashboard.past import LOG
from asynchub.dashboard.sifting import is_sound
from asynchub.dashboard.walking import Taken, Walk, newer_batches, newest_batches, oldest_batches, rewinds_in
from asynchub.errors import AsyncHubError, CorruptStateError, JournalError
from asynchub.eventforms import event_from_dict
from asynchub.events import Event, InfoUpdated, Rewound, ScalarUpdated
from asynchub.generations import list_generations
from asynchub.history import NO_STEP, HistoryBuffer
from asynchub.hubfile import read_hub
from asynchub.journal.folder import find_journal
from asynchub.journal.reading import segment_files
from asynchub.journal.tailing import TailReader
from asynchub.snapshot import read_head

__all__ = ("FactReader", "Source")

Source = Literal["journal", "snapshot", "log", ""]
NANOSECONDS = 1e9
LINES = 2**22
"""Bytes of a log that are read at once."""
SMALL = 2**20
"""Bytes that a snapshot may have to be looked at for nothing but the names of rules."""
SNAPSHOT = 2**28
"""Bytes that a snapshot may have to be looked at."""
SHORT = 2**21
"""Bytes of a journal, at most, that is read to its end at the first look."""
AT_ONCE = 0.1
"""Seconds, at most, that this may take."""


class FactReader:
    """What is known of a run.

    Attributes:
        facts: it.
        source: where it comes from; "" while there is nothing.
        journal: folder of the journal; None if there is none.
        is_whole: whether all of the past is in ``facts``.
        closed: whether the journal ends as one does that was closed.
        behind: how many events are not on the disk yet, as the frames say.
        problem: what is wrong with the folder, in words; "" if nothing is.
        damages: what of the journal cannot be read, in words.
        stop: why the run was to stop, as a snapshot says that is the only source; None if it was not.

    Args:
        folder: of the run, or of its journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def _forget(self) -> None:
        self.facts = RunFacts()
        self.source: Source = ""
        self.journal: Path | None = None
        self.is_whole = self.closed = False
        self.behind = 0
        self.problem = ""
        self.stop: str | None = None
        self._head: JournalHead | None = None
        self._walk: Walk | None = None
        self._tail: TailReader | None = None
        self._growing = RunFacts()
        self._outside: tuple[str, int, int] | None = None
        self._offset = self._size = self._first = 0

    @property
    def damages(self) -> list[str]:
        """What of the journal cannot be read, in words."""
        return [] if self._walk is None else [str(damage) for damage in self._walk.damages]

    @property
    def run_id(self) -> str:
        """Identity of the run, 32 hexadecimal digits; "" while that is not known."""
        return self._head.run_id.hex() if self._head is not None else ""

    @property
    def name(self) -> str:
        """Name of the hub that wrote it; "" while that is not known."""
        return self._head.name if self._head is not None else ""

    @property
    def share(self) -> float:
        """How much of the past is in ``facts``, from 0 to 1, by the number of its events, or its bytes."""
        if self.is_whole:
            return 1.0
        if self.source == "log":
            return min(self._offset / max(self._size, 1), 1.0)
        newest = max(self.facts.seq - self._first, 1)
        return 0.0 if self._walk is None else min(max((self._walk.seq - self._first) / newest, 0.0), 1.0)

    def update(self, seconds: float = float("inf"), only_ends: bool = False) -> bool:
        """Take what has come since; return whether there is more.

        It raises nothing about the run: what is wrong with it is in ``problem``.

        Args:
            seconds: how long to go on at most, about; a short past is read to its end when it is first looked at.
            only_ends: whether to look at nothing but the ends of a journal whose past was not looked at before.
        """
        deadline = time.monotonic() + seconds
        try:
            if only_ends and self._walk is None and self._head is not None and not self._look_at_newest():
                self._forget()
            opens = self._head is None
            if opens:
                journal = find_journal(self.folder)
                if journal is None:
                    return self._look_outside(deadline)
                if not self._open(journal):
                    return False
            if only_ends and self._walk is None:
                return True
            if self._walk is None and self.journal is not None and _size_of(self.journal) <= SHORT:
                deadline = max(deadline, time.monotonic() + AT_ONCE)
            elif opens and time.monotonic() > deadline:
                return True
            return self._follow(deadline)
        except JournalError as error:  # another run has taken its place
            self._forget()
            self.problem = str(error)
            return True
        except (AsyncHubError, OSError) as error:
            self.problem = str(error)
            return False

    # --- a journal

    def _open(self, journal: Path) -> bool:
        """Look at the ends of a journal; return whether there is something in it to follow."""
        if self.source != "journal":
            self._forget()
        self.source, self.journal = "journal", journal
        head = journal_head(journal)
        if head is None:
            self.problem, self.is_whole = f"{journal} holds no event yet", True
            return False
        self.problem = ""
        self._look_at_ends(journal)
        self._head = head
        return True

    def _look_at_ends(self, journal: Path) -> None:
        newest, self.closed = newest_batches(journal)
        first = newest[0].seqs[0] if newest else 0
        oldest = [batch for batch in oldest_batches(journal) if batch.seqs[1] < first]
        facts = RunFacts()
        while any(not facts.take(batch) for batch in (*oldest, *newest)):
            facts = RunFacts(facts.rewinds)  # a rewind is in it: begin again without what does not count
        self.facts, self._tail = facts, TailReader(journal)

    def _look_at_newest(self) -> bool:
        """Take what has come since the ends were looked at; return whether that could be done."""
        journal, tail, head = self.journal, self._tail, self._head
        if journal is None or tail is None or head is None:
            return False
        try:
            now = journal_head(journal)
            found = newer_batches(journal, tail, self.facts.seq)
        except (AsyncHubError, OSError):  # whoever begins anew says so
            return False
        if found is None or now is None or now.run_id != head.run_id or tail.run_id not in (None, head.run_id):
            return False
        batches, self.closed = found
        return all(self.facts.take(batch) for batch in batches)

    def _begin(self, journal: Path, head: JournalHead, rewinds: list[tuple[int, int]]) -> Walk:
        """Go through the journal from its beginning; before what is deleted of it, from a snapshot."""
        walk = self._walk = Walk(journal, head.run_id)
        self._growing = RunFacts(rewinds)
        self.is_whole = False
        files = segment_files(journal)
        first = files[0][1] if files else 1
        if first > 1 and self._take_snapshot(first - 1, head.run_id.hex()):
            walk.seq = self._growing.seq = first - 1
        self._first = first - 1
        return walk

    def _follow(self, deadline: float) -> bool:
        journal, head = self.journal, self._head
        if journal is None or head is None:
            return False
        walk = self._walk or self._begin(journal, head, rewinds_in(journal))
        while found := walk.read():
            for one in found:
                if not self._take(one):
                    rewinds = sorted({*self._growing.rewinds, *rewinds_in(journal)})
                    was_whole, before = self.is_whole, self.facts
                    self._begin(journal, head, rewinds)
                    self.facts = before if was_whole else self.facts
                    return True
            if time.monotonic() > deadline:
                return True
        if not self.is_whole:
            self._look_for_states()
        self.facts, self.is_whole = self._growing, True
        self.closed, self.behind = walk.closed, max(walk.seq - walk.durable_seq, 0)
        self.problem = ""
        return False

    def _take(self, taken: Taken) -> bool:
        return self._growing.take(taken.batch, taken.begins)

    # --- snapshots

    def _take_snapshot(self, upto: int, run_id: str) -> bool:
        """Take what the oldest snapshot has that reaches as far as an event; return whether there is one."""
        run = self.folder if self.journal != self.folder else self.folder.parent
        for path in reversed(list_generations(run)):
            try:
                head = read_head(path)
                if (head.seq or 0) < upto or head.run_id != run_id:
                    continue
                self._take_state(path, self._growing)
                return True
            except (AsyncHubError, OSError):
                continue
        return False

    def _look_for_states(self) -> None:
        """Take from the newest snapshot which rules there are, if no event has said so and it is small."""
        facts, run = self._growing, self.folder if self.journal != self.folder else self.folder.parent
        for path in [] if facts.states else list_generations(run)[:1]:
            with suppress(AsyncHubError, OSError):
                if path.stat().st_size <= SMALL:
                    facts.states = _states_in(read_hub(path, None, None, on_unknown="keep"))

    def _take_state(self, path: Path, facts: RunFacts) -> None:
        """Take the newest values, the infos and the step that a snapshot has."""
        if path.stat().st_size > SNAPSHOT:
            return
        state = read_hub(path, None, None, on_unknown="keep")
        extra = state.get("asynchub", {})
        step = extra.get("step") if isinstance(extra.get("step"), int) else None
        facts.pace.see(Event(step=step, time=0.0))
        for key, history in state["log_scalars"].items():
            if isinstance(history, HistoryBuffer):
                values, counts = history.data
                _take_history(facts, key, values, counts)
        for key, value in state["runtime_info"].items():
            facts.take_event(InfoUpdated(key=key, value=value, step=step), "InfoUpdated")
        facts.pace.restart()
        facts.states = _states_in(state)
        stop = extra.get("stop")
        self.stop = str(stop.get("reason", "")) if isinstance(stop, dict) else None

    def _look_outside(self, deadline: float) -> bool:
        """Take what there is of a run without a journal, if it is something else than before; return as ``update``."""
        log = self.folder / LOG if self.folder.is_dir() else self.folder
        generations = list_generations(self.folder) if self.folder.is_dir() else []
        if not generations and not log.is_file():
            self._forget()
            self.is_whole = True
            self.problem = f"{self.folder} holds neither a journal nor a snapshot nor {LOG}"
            return False
        if not generations:
            return self._follow_log(log, deadline)
        path = generations[0]
        status = path.stat()
        if (now := (path.name, status.st_size, status.st_mtime_ns)) != self._outside:
            facts = RunFacts()
            head = read_head(path)
            self._take_state(path, facts)
            facts.time, facts.seq = head.written / NANOSECONDS, head.seq or 0
            self.facts, self.source, self._outside, self.problem = facts, "snapshot", now, ""
        self.is_whole = True
        return False

    # --- a log

    def _follow_log(self, path: Path, deadline: float) -> bool:
        """Take the lines of a log that are new; one that was cut is begun again. Return whether there are more."""
        size = path.stat().st_size
        if self.source != "log" or size < self._offset:
            self._forget()
            self.source = "log"
        self.is_whole, self._size = True, size
        with path.open("rb") as file:
            while self._offset < size:
                file.seek(self._offset)
                data = file.read(LINES)
                end = data.rfind(b"\n") + 1
                if not end:
                    if len(data) == LINES:
                        raise CorruptStateError(f"{path}: a line of more than {LINES:,} bytes is no event")
                    break
                self._take_lines(data[:end].splitlines(), path)
                self._offset += end
                if time.monotonic() > deadline:
                    self.is_whole = self._offset >= size
                    return not self.is_whole
        return False

    def _take_lines(self, lines: Sequence[bytes], path: Path) -> None:
        scalars: list[ScalarUpdated] = []
        for line in lines:
            try:
                fields = json.loads(line)
                event = event_from_dict(fields)
                if not is_sound(event):
                    raise CorruptStateError(f"it is no {fields['event']!r:.80}")
                if isinstance(event, ScalarUpdated):
                    scalars.append(event)
                elif isinstance(event, Rewound):  # the lines that do not count are in another file
                    self.facts.marks.take(event)
                else:
                    self.facts.take_event(event, str(fields["event"]))
                    self.facts.seq = max(self.facts.seq, event.seq)
            except (ValueError, TypeError, KeyError, AttributeError, AsyncHubError) as error:
                self.problem = f"{path}: a line is no event: {error}"
        if scalars:
            try:
                self.facts.take(_batch_of(scalars))
            except (ValueError, TypeError, OverflowError) as error:
                self.problem = f"{path}: a line is no event: {error}"


def _size_of(journal: Path) -> int:
    """Return how many bytes the segments of a journal have."""
    return sum(path.stat().st_size for _, _, path in segment_files(journal))


def _batch_of(events: Sequence[ScalarUpdated]) -> Batch:
    """Return scalars as a batch."""
    keys = {key: number for number, key in enumerate(dict.fromkeys(event.key for event in events))}
    values, counts = np.empty(len(events), object), np.empty(len(events), object)
    values[:], counts[:] = [event.value for event in events], [event.count for event in events]
    columns = Scalars(
        np.array([event.seq for event in events], np.int64),
        np.array([event.time for event in events], np.float64),
        np.array([NO_STEP if event.step is None else event.step for event in events], np.int64),
        values,
        counts,
        np.array([keys[event.key] for event in events], np.int64),
    )
    return Batch([(key, True) for key in keys], [columns], [])


def _states_in(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the states of control subscribers in that of a hub."""
    found = state.get("asynchub", {}).get("subscribers", {})
    return found if isinstance(found, Mapping) else {}


def _take_history(facts: RunFacts, key: str, values: Any, counts: Any) -> None:
    """Take the newest value of a history, and what in it is not finite."""
    if not len(values):
        return
    facts.newest[key] = Newest(values[-1:].tolist()[0], counts[-1:].tolist()[0], None, 0)
    rows = of_values(np.full(len(values), NO_STEP), values, counts)
    facts.add_not_finite(key, rows.take(rows.not_finite > 0))
