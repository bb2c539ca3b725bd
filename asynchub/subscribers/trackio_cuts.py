"""What was taken out of a run of Trackio, kept so that the run can become again what it was before.

    asynchub_cuts   one row for each time that a run was gone back in: ``run_id``; ``number``, from 1 in each run;
                    ``after``, the ``seq`` up to which it stayed; ``aside``, the ``run_id`` that the rest got, NULL if
                    there was none; ``size``, its rows

A table in Trackio's own file, which passes over it.

Identities: a row's ``log_id`` begins with its ``seq``. One that the end of a life has cut short ends in
    ``:unfinished-<lives that had ended by then>``; one that was set aside gets ``-rewound-<number>``, as Trackio knows
    each once.
Kept: rows that come back are copied, so each run that was set aside stays whole.
Transactions: all of this is to be called in one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from asynchub.subscribers.cut_pieces import set_aside

__all__ = ("UNFINISHED", "add_cuts", "cut", "forget_unfinished", "go_back", "has_more", "newest_cut")

UNFINISHED = ":unfinished-"
"""What the identity of a row goes on with that the end of a life has cut short."""
ASIDE = "-rewound-"
LAST = 2**63 - 1
"""No ``seq`` is larger."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS asynchub_cuts (
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    after INTEGER NOT NULL,
    aside TEXT,
    size INTEGER NOT NULL,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID
"""
_THOSE = "run_id = ? AND CAST(log_id AS INTEGER) > ? AND CAST(log_id AS INTEGER) <= ?"
_OWN = f"CASE instr(log_id, '{ASIDE}') WHEN 0 THEN log_id ELSE substr(log_id, 1, instr(log_id, '{ASIDE}') - 1) END"
_LIFE = f"CAST(substr(log_id, instr(log_id, '{UNFINISHED}') + {len(UNFINISHED)}) AS INTEGER)"


class _Piece(NamedTuple):
    """Rows of a run with ``after < seq <= upto``."""

    run_id: str
    after: int
    upto: int


def add_cuts(database: sqlite3.Connection) -> None:
    """Make the table if it is not there."""
    database.execute(SCHEMA)


def newest_cut(database: sqlite3.Connection, run_id: str) -> int:
    """Return the number of the newest cut of a run; 0 for none."""
    (number,) = database.execute(
        "SELECT coalesce(max(number), 0) FROM asynchub_cuts WHERE run_id = ?", (run_id,)
    ).fetchone()
    return int(number)


def has_more(database: sqlite3.Connection, run_id: str, after: int) -> bool:
    """Tell whether a run has anything behind ``after``."""
    return (
        database.execute(f"SELECT 1 FROM metrics WHERE {_THOSE} LIMIT 1", (run_id, after, LAST)).fetchone() is not None
    )


def cut(database: sqlite3.Connection, run_id: str, name: str | None, after: int) -> int:
    """Make what a run has behind ``after`` a run of its own, if there is anything; return the number of the cut."""
    size = _size(database, [_Piece(run_id, after, LAST)])
    aside = None
    if size:
        (which,) = database.execute("SELECT count(aside) + 1 FROM asynchub_cuts WHERE run_id = ?", (run_id,)).fetchone()
        while _is_taken(database, f"{name}, rewound {which}"):
            which += 1
        aside = f"{run_id}{ASIDE}{which}"
        renamed = f"SET run_id = ?, run_name = ?, log_id = log_id || '{ASIDE}{which}'"
        database.execute(
            f"UPDATE metrics {renamed} WHERE {_THOSE}", (aside, f"{name}, rewound {which}", run_id, after, LAST)
        )
    number = newest_cut(database, run_id) + 1
    database.execute("INSERT INTO asynchub_cuts VALUES (?, ?, ?, ?, ?)", (run_id, number, after, aside, size))
    return number


def go_back(database: sqlite3.Connection, run_id: str, name: str | None, seq: int, number: int) -> str:
    """Make a run, up to ``seq``, what it was when ``number`` was that of its newest cut; unfinished rows may be more.

    What it has behind ``seq`` stays, unless something before has to change.

    Returns:
        Why it is not all that it was, in words; empty if it is.
    """
    problem = ""
    cuts = database.execute(
        "SELECT after, aside, size FROM asynchub_cuts WHERE run_id = ? AND number > ? ORDER BY number", (run_id, number)
    )
    stop, rest = set_aside(cuts, seq)
    for one in rest:
        if _size(database, [_Piece(one.name, -LAST, LAST)]) != one.size:
            problem = f"of run {one.name}, which was set aside, rows were deleted"
    pieces = [_Piece(one.name, one.after, one.upto) for one in rest]
    if stop == seq or _are_alike(database, _Piece(run_id, stop, seq), pieces):
        return problem
    cut(database, run_id, name, stop)
    columns = [row[1] for row in database.execute("PRAGMA table_info(metrics)")]
    others = ", ".join(column for column in columns if column not in ("id", "run_id", "run_name", "log_id"))
    copied = f"SELECT ?, ?, {_OWN}, {others} FROM metrics WHERE {_THOSE} ORDER BY id"
    statement = f"INSERT OR IGNORE INTO metrics (run_id, run_name, log_id, {others}) {copied}"
    for piece in pieces:
        database.execute(statement, (run_id, name, *piece))
    return problem


def forget_unfinished(database: sqlite3.Connection, run_id: str, life: int) -> None:
    """Delete the unfinished rows of a run that ends of lives behind ``life`` have left."""
    database.execute(
        f"DELETE FROM metrics WHERE run_id = ? AND instr(log_id, '{UNFINISHED}') AND {_LIFE} > ?", (run_id, life)
    )


def _are_alike(database: sqlite3.Connection, mine: _Piece, pieces: Sequence[_Piece]) -> bool:
    """Tell whether a run has in one place what some pieces have there."""
    if _size(database, [mine]) != _size(database, pieces):
        return False
    if not pieces:
        return True
    rows = f"SELECT {_OWN} FROM metrics WHERE {_THOSE}"
    theirs = " UNION ALL ".join([rows] * len(pieces))
    values = (*mine, *(value for piece in pieces for value in piece))
    return database.execute(f"{rows} EXCEPT SELECT * FROM ({theirs}) LIMIT 1", values).fetchone() is None


def _size(database: sqlite3.Connection, pieces: Sequence[_Piece]) -> int:
    return sum(
        database.execute(f"SELECT count(*) FROM metrics WHERE {_THOSE}", piece).fetchone()[0] for piece in pieces
    )


def _is_taken(database: sqlite3.Connection, name: str) -> bool:
    return database.execute("SELECT 1 FROM metrics WHERE run_name = ?", (name,)).fetchone() is not None
