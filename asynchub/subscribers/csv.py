"""A run as a table that opens in pandas or a spreadsheet: one row a step, one column a key.

Two files, both only ever appended to, both valid CSV after every write:

``metrics.csv``       ``step``, ``time`` and a column for each key in ``columns=`` and each key of the first row
``metrics.late.csv``  ``step``, ``time``, ``key``, ``value``, ``count``: one row for each value of any other key, and of
                      a key that is itself named ``step`` or ``time``

Why two: a table's header stands before its rows, so a column that appears later would mean writing the whole file
anew, which costs more with every row and loses the file if the process dies meanwhile. Name what comes late, such as
validation results, in ``columns=`` and it is a column from the start; what was not foreseen is still recorded.

Cells: the mean per sample (``value / count``), written so that it reads back exactly. A key that comes twice in a
    step begins another row of that step, so no value is lost.
Rows: a row is written when the next begins, or when the hub is left. A killed process loses at most that row, and a
    resumed run not even that: after a resume both files are those that an uninterrupted run would have written, even
    if it goes back to a past that an earlier resume had left. Rows that do not count are kept, see ``cuts``.
Lost events: a row of ``metrics.late.csv`` with the key ``hub/events_dropped``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import anyio.to_thread

from asynchub.errors import ArgumentError, CorruptStateError, StateDictError
from asynchub.events import Event, EventsDropped, ScalarUpdated
from asynchub.subscribers.appending import AppendingFile
from asynchub.subscription import Subscription

__all__ = ("CsvLogger",)

COMMON = ["step", "time"]
LATE_HEADER = [*COMMON, "key", "value", "count"]


class CsvLogger:
    """Append scalars to a table, one row a step.

    Args:
        path: file to append to; its folder is created. An existing table keeps its columns.
        columns: keys that have a column from the start, before those of the first row.

    Raises:
        ArgumentError: ``columns`` is a single string.
    """

    keys = (ScalarUpdated,)
    role = "observer"

    def __init__(self, path: str | PathLike[str], columns: Sequence[str] = ()) -> None:
        if isinstance(columns, str):
            raise ArgumentError(f"columns must be a sequence of keys, got the str {columns!r}; write ({columns!r},)")
        path = Path(path)
        self._named = tuple(key for key in columns if key not in COMMON)
        self._table = AppendingFile(path, quoted=True)
        self._late = AppendingFile(path.with_name(f"{path.stem}.late{path.suffix or '.csv'}"), quoted=True)
        self._columns: dict[str, None] | None = None  # ordered; None until the header is written
        self._late_begun = False
        self._step: int | None = None
        self._time = 0.0
        self._row: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return how far the files have come with what was handled, and the row begun."""
        row = {"step": self._step, "time": self._time, "values": dict(self._row)}
        return {"table": self._table.state_dict(), "late": self._late.state_dict(), "row": row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved; columns stay those of the file.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        try:
            step, time, values = (state["row"][name] for name in ("step", "time", "values"))
            row = {str(key): value for key, value in values.items()}
            offsets = state["table"], state["late"]
        except (AttributeError, KeyError, TypeError) as error:
            raise StateDictError(f"wanted the files' offsets and a row, got {state!r:.200}") from error
        files = tuple(AppendingFile(file.path, quoted=True) for file in (self._table, self._late))
        for file, offset in zip(files, offsets, strict=True):
            file.load_state_dict(offset)
        self._table, self._late = files
        self._step, self._time, self._row = step, time, row

    async def __call__(self, events: Subscription) -> None:
        for file in (self._table, self._late):
            await file.begin()
        await anyio.to_thread.run_sync(self._read_headers)
        await self._flush()
        async for batch in events.batches():
            for event in batch:
                if isinstance(event, ScalarUpdated):
                    self._take(event)
                elif isinstance(event, EventsDropped):
                    self._add_late(event, event.missed, 1)
            await self._flush()
        self._end_row()
        await self._flush()

    def _take(self, event: ScalarUpdated) -> None:
        if event.step != self._step or event.key in self._row:
            self._end_row()
        if event.key in COMMON or (self._columns is not None and event.key not in self._columns):
            self._add_late(event, event.value, event.count)
            return
        if not self._row:
            self._step, self._time = event.step, event.time
        self._row[event.key] = event.value / event.count if event.count not in (0, 1) else event.value

    def _end_row(self) -> None:
        if not self._row:
            return
        if self._columns is None:
            self._columns = dict.fromkeys((*self._named, *self._row))
            self._table.add(_record([*COMMON, *map(_text, self._columns)]))
        cells = (self._row.get(key) for key in self._columns)
        self._table.add(_record([_cell(self._step), _cell(self._time), *map(_cell, cells)]))
        self._row = {}

    def _add_late(self, event: Event, value: float, count: int) -> None:
        if not self._late_begun:
            self._late.add(_record(LATE_HEADER))
            self._late_begun = True
        self._late.add(_record([_cell(event.step), _cell(event.time), _text(event.key), _cell(value), _cell(count)]))

    async def _flush(self) -> None:
        await self._table.flush()
        await self._late.flush()

    def _read_headers(self) -> None:
        header = _header(self._table.path)
        if header is not None and header[:2] != COMMON:
            raise CorruptStateError(f"{self._table.path} begins with {header!r:.80}, not a table of this logger")
        self._columns = None if header is None else dict.fromkeys(header[2:])
        self._late_begun = _header(self._late.path) is not None


def _header(path: Path) -> list[str] | None:
    """Return the first row of a CSV file; None when there is none."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), None)


def _cell(value: float | None) -> str:
    """Return a number so that it reads back exactly."""
    if value is None:
        return ""
    return repr(int(value)) if isinstance(value, int) else repr(value)  # a bool is 0 or 1


def _text(key: str) -> str:
    if not key or any(special in key for special in ',"\r\n'):
        return '"' + key.replace('"', '""') + '"'
    return key


def _record(cells: Iterable[str]) -> str:
    return ",".join(cells) + "\n"
