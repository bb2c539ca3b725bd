"""Runs as tables of one SQLite file: for those who ask with SQL, or with pandas, while a run goes on or after it.

    runs      one row for each run: its name, when it began and ended
    scalars   one row for each update of a scalar, or each point of ``every``: value per sample, count, step, time
    infos     one row for each change of a runtime info, as JSON; NULL when it was removed
    events    one row for each other event, decisions and requests among them, as JSON

Exact: a value is the float that was published, for each sample; NaN, which SQLite lacks, is NULL, as in pandas, and
    nothing else is; infinities are kept; -0.0 is 0.0, an int is the float next to it.
Killed: a write is one transaction. What is handled survives the kill of the process, and in a mode that is not
    ``synchronous="full"`` a power failure may take the last of it; the file stays whole. What was not handled comes
    from the journal when the run is resumed.
Twice: ``(run, seq)`` is the primary key, so a row that is written again replaces itself.
Rewound: what a resumed run does not come to again is not deleted, and is in nobody's way: it becomes a run of its own,
    whose ``rewound_from`` names the run that it was part of. A run that goes back to a state which an earlier resume
    had left has its rows again; see ``sqlite_cuts``.
Read while it is written: in WAL mode readers and the writer do not wait for each other.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

from asynchub.errors import ArgumentError, CorruptStateError, StateDictError
from asynchub.eventforms import event_from_dict, event_to_json
from asynchub.events import Event, InfoRemoved, InfoUpdated, ScalarUpdated
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.rows import as_float, sound
from asynchub.subscribers.sqlite_cuts import (
    add_cuts,
    cut,
    forget_unfinished,
    go_back,
    has_more,
    mark_unfinished,
    newest_cut,
)
from asynchub.subscribers.sqlite_tables import (
    COLUMNS,
    add_run,
    connect,
    damaged,
    insert,
    is_ours,
    prepare,
    times,
    transaction,
)
from asynchub.subscription import Subscription

__all__ = ("SQLiteLogger", "read_sqlite")

logger = logging.getLogger("asynchub")

BUSY = 2.0
"""Seconds that a write waits for another writer; below the time of grace, so that an error says what it waits for."""
JOURNAL_MODES = ("wal", "delete", "truncate", "persist", "memory", "off")
SYNCHRONOUS = ("off", "normal", "full", "extra")

_Row = tuple[Any, ...]


class SQLiteLogger(TrackerLogger):
    """Write a run to a SQLite file.

    Args:
        path: the file, which may hold other runs; it and its folder are created.
        run: a name for the run, for people; several may have the same. Default ``"run <id>"``.
        journal_mode: of SQLite; ``"wal"``, because then those who read hold up no write, nor it them. ``"delete"`` for
            a disk of the network, where WAL does not work.
        synchronous: of SQLite; ``"normal"``: the disk is waited for now and then, not by each write. ``"full"`` if a
            write is to survive a power failure.
        options: as of ``TrackerLogger``.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        ScheduleError: ``every`` is malformed.
    """

    keys = ("**",)

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        run: str | None = None,
        journal_mode: str = "wal",
        synchronous: str = "normal",
        **options: Any,
    ) -> None:
        if journal_mode not in JOURNAL_MODES:
            raise ArgumentError(f"journal_mode must be one of {', '.join(JOURNAL_MODES)}, got {journal_mode!r:.80}")
        if synchronous not in SYNCHRONOUS:
            raise ArgumentError(f"synchronous must be one of {', '.join(SYNCHRONOUS)}, got {synchronous!r:.80}")
        if run is not None and (not isinstance(run, str) or not run):
            raise ArgumentError(f"run must be a name, not empty, or None, got {run!r:.80}")
        super().__init__(**options)
        self.path = Path(path)
        self._name = run
        self._modes = journal_mode, synchronous
        self._uid = uuid.uuid4().hex
        self._id = 0
        self._database: sqlite3.Connection | None = None
        self._common: int | None = None  # after a resume: seq up to which the rows are known to be of this life, too
        self._rewound = 0  # number of the newest cut of the run
        self._lives = 0  # that have ended with stretches cut short

    async def __call__(self, events: Subscription) -> None:
        if not self.resumed and events.last_seq < self._backlog.taken:
            self._uid, self._rewound, self._lives = uuid.uuid4().hex, 0, 0  # of another hub, which is another run
        await super().__call__(events)

    def open(self) -> None:
        """Open the file, and begin the run in it, or go on with it."""
        self._close_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = connect(self.path, BUSY)
        try:
            prepare(database, self.path, *self._modes)
            with transaction(database):
                add_cuts(database)
                found = database.execute("SELECT id FROM runs WHERE uid = ?", (self._uid,)).fetchone()
                number = add_run(database, self._uid, self._name) if found is None else self._go_on(database, *found)
        except BaseException:
            database.close()
            raise
        if found is None and self._common:
            logger.warning("%s does not have the run that is resumed: it begins anew there", self.path)
        self._database, self._id = database, number
        self._rewound = newest_cut(database, number)

    def _go_on(self, database: sqlite3.Connection, number: int) -> int:
        set_name = "UPDATE runs SET ended = NULL, name = coalesce(?, name) WHERE id = ?"
        database.execute(set_name, (self._name, number))
        if self._common is not None and (problem := go_back(database, number, self._common, self._rewound)):
            logger.warning("%s, run %d, is not what it was when its state was saved: %s", self.path, number, problem)
        forget_unfinished(database, number, self._lives)
        return number

    def write(self, items: Sequence[Item]) -> None:
        """Write ``items`` in one transaction."""
        self._write(items, 0)

    def write_last(self, items: Sequence[Item]) -> None:
        """Write points of stretches that the end of a life has cut short, in one transaction."""
        self._write(items, self._lives + 1)
        self._lives += 1

    def _write(self, items: Sequence[Item], life: int) -> None:
        rows: dict[str, list[_Row]] = {name: [] for name in COLUMNS}
        for item in items:
            if isinstance(item, Point):
                rows["scalars"].append((self._id, *_of_point(item)))
            else:
                table, row = _of_event(item)
                rows[table].append((self._id, *row))
        common, rewound = self._common, self._rewound
        with transaction(database := self._file()):
            if common is not None:
                common, rewound = self._parting(database, items, common)
            insert(database, rows)
            if life:
                mark_unfinished(database, self._id, [item.seq for item in items], life)
        self._common, self._rewound = common, rewound

    def _parting(self, database: sqlite3.Connection, items: Sequence[Item], common: int) -> tuple[int | None, int]:
        """Find the first of ``items`` that is not there already: from there on, what is there does not count.

        Returns:
            The ``seq`` up to which the rows are known to count, if that goes on, or None if it is over; and the number
            of the newest cut.
        """
        there = times(database, self._id, items[0].seq, items[-1].seq)
        for item in items:
            if there.get(item.seq) != item.time:
                return None, cut(database, self._id, common)
            common = item.seq
        return common, self._rewound

    def close(self) -> None:
        """Note when the run ended, and close the file."""
        try:
            rewound = self._rewound
            with transaction(database := self._file()):
                if self._common is not None and has_more(database, self._id, self._common):
                    rewound = cut(database, self._id, self._common)
                database.execute("UPDATE runs SET ended = ? WHERE id = ?", (time.time(), self._id))
            self._common, self._rewound = None, rewound
        finally:
            self._close_file()

    def _close_file(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _file(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.OperationalError(f"{self.path} is not open")
        return self._database

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return which run of the file it is, how often that was gone back in, and how often it has ended."""
        return {"uid": self._uid, "rewound": self._rewound, "lives": self._lives}

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of ``state``.

        Raises:
            StateDictError: ``state`` is not what ``tracker_state`` returned.
        """
        uid = state.get("uid")
        rewound, lives = state.get("rewound", 0), state.get("lives", 0)  # earlier versions knew neither
        if not isinstance(uid, str) or any(type(number) is not int or number < 0 for number in (rewound, lives)):
            raise StateDictError(f"wanted the uid of a run and two numbers, got {state!r:.200}")
        self._uid, self._rewound, self._lives = uid, rewound, lives

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved; rows that the run does not come to again are set aside.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        super().load_state_dict(state)
        self._common = state["sent"]


def read_sqlite(path: str | PathLike[str], run: int | str | None = None) -> Iterator[Event]:
    """Yield the events of a run that ``SQLiteLogger`` wrote, in the order of ``seq``.

    A scalar's mean per sample is what was published, exactly; its sum over several samples is so if it was a whole
    number, and may else differ in its last bit. Infos come back as JSON has them, a tuple as a list, say.

    Args:
        path: the file.
        run: the id of a run, or its name, of which the newest is taken; None for the newest of all that were not
            rewound.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptStateError: it is not such a database, or is damaged.
        ArgumentError: it has no such run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the file that SQLiteLogger was given")
    with closing(connect(path, 5.0)) as database:
        try:
            if not is_ours(database, path):
                raise CorruptStateError(f"{path} is empty, not a file of SQLiteLogger")
            yield from _events(database, _wanted(database, path, run))
        except sqlite3.DatabaseError as error:
            raise damaged(path, error) from error


def _wanted(database: sqlite3.Connection, path: Path, run: int | str | None) -> int:
    """Return the id of the run that is meant."""
    if run is None:
        found = database.execute("SELECT max(id) FROM runs WHERE rewound_from IS NULL").fetchone()
    elif isinstance(run, str):
        found = database.execute("SELECT max(id) FROM runs WHERE name = ?", (run,)).fetchone()
    else:
        found = database.execute("SELECT id FROM runs WHERE id = ?", (run,)).fetchone()
    if found is None or found[0] is None:
        runs = database.execute("SELECT id, name FROM runs ORDER BY id DESC LIMIT 20").fetchall()
        raise ArgumentError(f"{path} has no run {run!r:.80}; it has, newest first, {runs}")
    number: int = found[0]
    return number


def _events(database: sqlite3.Connection, run: int) -> Iterator[Event]:
    rows = database.execute(
        "SELECT seq, time, step, key, value, count, NULL AS kind FROM scalars WHERE run = :run "
        "UNION ALL SELECT seq, time, step, key, value, NULL, 'info' FROM infos WHERE run = :run "
        "UNION ALL SELECT seq, time, step, key, event, NULL, 'event' FROM events WHERE run = :run ORDER BY seq",
        {"run": run},
    )
    for seq, stamp, step, key, value, count, kind in rows:
        at = math.nan if stamp is None else stamp  # of an event that was never published
        if kind is None:
            total = _total(math.nan if value is None else value, count)
            yield ScalarUpdated(seq=seq, time=at, step=step, key=key, value=total, count=count)
        elif kind == "event":
            yield event_from_dict({**json.loads(value), "time": at})
        elif value is None:
            yield InfoRemoved(seq=seq, time=at, step=step, key=key)
        else:
            yield InfoUpdated(seq=seq, time=at, step=step, key=key, value=json.loads(value))


def _total(mean: float, count: int) -> float:
    """Return a sum over ``count`` samples whose mean is ``mean``; the whole number, if there is one."""
    if count in (0, 1) or not math.isfinite(mean):
        return mean
    total = mean * count
    if not math.isfinite(total):
        return total
    around = (float(round(total)), total, math.nextafter(total, math.inf), math.nextafter(total, -math.inf))
    return next((one for one in around if one / count == mean), total)


# --- rows


def _of_point(point: Point) -> _Row:
    value = point.value if type(point.value) is float else as_float(point.value)
    return point.seq, point.time, point.step, sound(point.key), value, point.samples


def _of_event(event: Event) -> tuple[str, _Row]:
    """Return the table that ``event`` belongs in, and its row there."""
    common = event.seq, event.time, event.step, sound(event.key)
    if isinstance(event, InfoRemoved):
        return "infos", (*common, None)
    text = event_to_json(event)
    if isinstance(event, InfoUpdated):
        return "infos", (*common, json.dumps(json.loads(text)["value"], separators=(",", ":")))
    return "events", (*common, type(event).__name__, sound(text))
