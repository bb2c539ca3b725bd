"""What was taken out of a run of a SQLite file, kept so that the run can become again what it was before.

    cuts        one row for each time that a run was gone back in: ``number``, from 1 in each run; ``after``, the
                ``seq`` up to which it stayed; ``aside``, the run that the rest became, NULL if there was none;
                ``size``, its rows
    unfinished  one row for each point of a stretch that the end of a life has cut short: ``seq``, and in ``life`` how
                many lives had ended so by then

Kept: rows that come back are copied, so each run that was set aside stays whole.
Unfinished: a run that is resumed from a state before the end of a life goes on with the stretches that were open, and
    has no points of that end.
Transactions: all of this is to be called in one.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from asynchub.subscribers.cut_pieces import set_aside
from asynchub.subscribers.sqlite_tables import COLUMNS, add_run

__all__ = ("add_cuts", "cut", "forget_unfinished", "go_back", "has_more", "mark_unfinished", "newest_cut")

SCHEMA = """
CREATE TABLE IF NOT EXISTS cuts (
    run INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    after INTEGER NOT NULL,
    aside INTEGER REFERENCES runs (id),
    size INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unfinished (
    run INTEGER NOT NULL REFERENCES runs (id),
    seq INTEGER NOT NULL,
    life INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID
"""
LAST = 2**63 - 1
"""No ``seq`` is larger."""
_ROWS = " UNION ALL ".join(f"SELECT seq, time FROM {name} WHERE run = ? AND seq > ? AND seq <= ?" for name in COLUMNS)


class _Piece(NamedTuple):
    """Rows of a run with ``after < seq <= upto``."""

    run: int
    after: int
    upto: int

    def values(self) -> tuple[int, ...]:
        return (*self,) * len(COLUMNS)


def add_cuts(database: sqlite3.Connection) -> None:
    """Make the tables, which files of earlier versions lack; they stay readable for those, too."""
    for statement in SCHEMA.split(";"):
        database.execute(statement)


def newest_cut(database: sqlite3.Connection, run: int) -> int:
    """Return the number of the newest cut of a run; 0 for none."""
    (number,) = database.execute("SELECT coalesce(max(number), 0) FROM cuts WHERE run = ?", (run,)).fetchone()
    return int(number)


def has_more(database: sqlite3.Connection, run: int, after: int) -> bool:
    """Tell whether a run has anything behind ``after``."""
    rest = _Piece(run, after, LAST)
    return database.execute(f"SELECT 1 FROM ({_ROWS}) LIMIT 1", rest.values()).fetchone() is not None


def cut(database: sqlite3.Connection, run: int, after: int) -> int:
    """Make what a run has behind ``after`` a run of its own, if there is anything; return the number of the cut."""
    size = _size(database, [_Piece(run, after, LAST)])
    aside = None
    if size:
        (name,) = database.execute("SELECT name FROM runs WHERE id = ?", (run,)).fetchone()
        (which,) = database.execute("SELECT count(*) + 1 FROM runs WHERE rewound_from = ?", (run,)).fetchone()
        aside = add_run(database, uuid.uuid4().hex, f"{name}, rewound {which}", run)
        for table in (*COLUMNS, "unfinished"):
            database.execute(f"UPDATE {table} SET run = ? WHERE run = ? AND seq > ?", (aside, run, after))
    number = newest_cut(database, run) + 1
    database.execute("INSERT INTO cuts VALUES (?, ?, ?, ?, ?)", (run, number, after, aside, size))
    return number


def mark_unfinished(database: sqlite3.Connection, run: int, seqs: Iterable[int], life: int) -> None:
    """Note of which rows of a run it is that the end of a life has cut them short."""
    database.executemany("INSERT OR REPLACE INTO unfinished VALUES (?, ?, ?)", [(run, seq, life) for seq in seqs])


def forget_unfinished(database: sqlite3.Connection, run: int, life: int) -> None:
    """Delete the unfinished rows of a run that ends of lives behind ``life`` have left."""
    those = "run = ? AND seq IN (SELECT seq FROM unfinished WHERE run = ? AND life > ?)"
    database.execute(f"DELETE FROM scalars WHERE {those}", (run, run, life))
    database.execute("DELETE FROM unfinished WHERE run = ? AND life > ?", (run, life))


def go_back(database: sqlite3.Connection, run: int, seq: int, number: int) -> str:
    """Make a run, up to ``seq``, what it was when ``number`` was that of its newest cut; unfinished rows may be more.

    What it has behind ``seq`` stays, unless something before has to change.

    Returns:
        Why it is not all that it was, in words; empty if it is.
    """
    problem = ""
    cuts = database.execute(
        "SELECT after, aside, size FROM cuts WHERE run = ? AND number > ? ORDER BY number", (run, number)
    )
    stop, rest = set_aside(cuts, seq)
    pieces = list[_Piece]()
    for aside, size, after, upto in rest:
        is_own = database.execute("SELECT 1 FROM runs WHERE id = ? AND rewound_from = ?", (aside, run)).fetchone()
        if is_own is None or _size(database, [_Piece(aside, -LAST, LAST)]) != size:
            problem = f"of run {aside}, which was set aside, rows were deleted"
        if is_own is not None:
            pieces.append(_Piece(aside, after, upto))
    if stop == seq or _are_alike(database, _Piece(run, stop, seq), pieces):
        return problem
    cut(database, run, stop)
    for table, size in COLUMNS.items():
        _, *columns = (row[1] for row in database.execute(f"PRAGMA table_info({table})"))
        names = ", ".join(columns[: size - 1])
        _copy(database, table, names, run, pieces)
    _copy(database, "unfinished", "seq, life", run, pieces)
    return problem


def _copy(database: sqlite3.Connection, table: str, names: str, run: int, pieces: list[_Piece]) -> None:
    copy = f"INSERT OR REPLACE INTO {table} SELECT ?, {names} FROM {table} WHERE run = ? AND seq > ? AND seq <= ?"
    database.executemany(copy, [(run, *piece) for piece in pieces])


def _are_alike(database: sqlite3.Connection, mine: _Piece, pieces: list[_Piece]) -> bool:
    """Tell whether a run has in one place what some pieces have there."""
    if _size(database, [mine]) != _size(database, pieces):
        return False
    if not pieces:
        return True
    theirs = " UNION ALL ".join([_ROWS] * len(pieces))
    values = (*mine.values(), *(value for piece in pieces for value in piece.values()))
    other = f"SELECT * FROM ({_ROWS}) EXCEPT SELECT * FROM ({theirs}) LIMIT 1"
    return database.execute(other, values).fetchone() is None


def _size(database: sqlite3.Connection, pieces: list[_Piece]) -> int:
    return sum(database.execute(f"SELECT count(*) FROM ({_ROWS})", piece.values()).fetchone()[0] for piece in pieces)
