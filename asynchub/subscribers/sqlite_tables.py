"""The tables of a SQLite file of runs.

    runs      one row for each run: its name, when it began and ended, and what it was part of before it was set aside
    scalars   one row for each update of a scalar, or each point: value per sample (NULL: NaN), count, step, time
    infos     one row for each change of a runtime info, as JSON; NULL when it was removed
    events    one row for each other event, as JSON

``(run, seq)`` is the primary key of the last three. A file says in its header whose it is, and the version of its
tables.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asynchub.errors import CorruptStateError

__all__ = ("add_run", "connect", "damaged", "insert", "is_ours", "prepare", "times", "transaction")

logger = logging.getLogger("asynchub")

APPLICATION_ID = int.from_bytes(b"ahub")
VERSION = 1
SETTING = 2.0
"""Seconds that setting the journal mode waits for others who do."""
SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    began REAL NOT NULL,
    ended REAL,
    rewound_from INTEGER REFERENCES runs (id)
);
CREATE TABLE scalars (
    run INTEGER NOT NULL REFERENCES runs (id),
    seq INTEGER NOT NULL,
    time REAL,
    step INTEGER,
    key TEXT NOT NULL,
    value REAL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE INDEX scalars_by_key ON scalars (run, key, step, value);
CREATE TABLE infos (
    run INTEGER NOT NULL REFERENCES runs (id),
    seq INTEGER NOT NULL,
    time REAL,
    step INTEGER,
    key TEXT NOT NULL,
    value TEXT,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;
CREATE TABLE events (
    run INTEGER NOT NULL REFERENCES runs (id),
    seq INTEGER NOT NULL,
    time REAL,
    step INTEGER,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID
"""
COLUMNS = {"scalars": 7, "infos": 6, "events": 7}
"""How many columns each table of events has."""

_INSERT = {name: f"INSERT OR REPLACE INTO {name} VALUES ({', '.join('?' * size)})" for name, size in COLUMNS.items()}
_TIMES = " UNION ALL ".join(
    f"SELECT seq, time FROM {name} WHERE run = :run AND seq BETWEEN :first AND :last" for name in COLUMNS
)


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a file; a statement waits up to ``timeout`` seconds for another writer. Transactions are begun by hand."""
    # a run may end in another thread than it began in; never in two at once
    return sqlite3.connect(path, timeout, isolation_level=None, check_same_thread=False)


def prepare(database: sqlite3.Connection, path: Path, journal_mode: str, synchronous: str) -> None:
    """Bring a file that was just opened into the modes that are wanted; make the tables of a new one.

    Raises:
        CorruptStateError: it is not such a database, or a newer one.
        sqlite3.OperationalError: it cannot be used now.
    """
    try:
        is_ours(database, path)  # before anything is changed
        mode = _set_journal_mode(database, journal_mode)
        if mode != journal_mode:
            logger.warning("%s stays in journal mode %s: SQLite cannot have %s there", path, mode, journal_mode)
        database.execute(f"PRAGMA synchronous = {synchronous}")
        with transaction(database):
            if not is_ours(database, path):  # asked again: another logger may have made them meanwhile
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error


def _set_journal_mode(database: sqlite3.Connection, wanted: str) -> str:
    """Return the mode that a file is in by then; wait for others who set it, for which SQLite does not wait."""
    deadline = time.monotonic() + SETTING
    while True:
        try:
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
            if mode != wanted:
                (mode,) = database.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
            return str(mode)
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def is_ours(database: sqlite3.Connection, path: Path) -> bool:
    """Tell whether the tables are there; False if the file is empty.

    Raises:
        CorruptStateError: it is of another kind, or newer.
    """
    # in this order: another logger may make the tables, and then say whose they are, in one transaction, meanwhile
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master LIMIT 9")]
    (kind,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if kind == APPLICATION_ID:
        if version != VERSION:
            raise CorruptStateError(f"{path} has tables of version {version}, wanted {VERSION}: use a newer asynchub")
        return True
    if tables:
        raise CorruptStateError(f"{path} is a database of something else, with {tables}: give a file of its own")
    return False


def damaged(path: Path, error: sqlite3.DatabaseError) -> CorruptStateError:
    """Return what to raise when SQLite has said that ``path`` is no database, or not a whole one."""
    return CorruptStateError(f"{path} is not a whole SQLite database: {error}; give another file, or move it away")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Do it wholly or not at all."""
    database.execute("BEGIN IMMEDIATE")  # a reader that becomes a writer amid it may be refused
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def add_run(database: sqlite3.Connection, uid: str, name: str | None, rewound_from: int | None = None) -> int:
    """Add a row to ``runs``; return its id."""
    (number,) = database.execute("SELECT coalesce(max(id), 0) + 1 FROM runs").fetchone()
    row = (number, uid, f"run {number}" if name is None else name, time.time(), None, rewound_from)
    database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)", row)
    return int(number)


def insert(database: sqlite3.Connection, rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
    """Add rows to each table; one that is there already is replaced."""
    for table, some in rows.items():
        if some:
            database.executemany(_INSERT[table], some)


def times(database: sqlite3.Connection, run: int, first: int, last: int) -> dict[int, float]:
    """Return the times of what a run has, by their ``seq``, from ``first`` to ``last``."""
    return dict(database.execute(_TIMES, {"run": run, "first": first, "last": last}).fetchall())
