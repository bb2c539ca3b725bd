"""The runs in a folder, as far as can be told without reading their values.

Cheap: of a journal the ends are read; of a snapshot, its head; of a log, its first and its last lines.
Damaged: what cannot be read is said in ``RunFound.problem``, and nothing is raised.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asynchub.batches import Batch, decode_event
from asynchub.dashboard.finding import run_folders
from asynchub.dashboard.heads import journal_head
from asynchub.dashboard.past import LOG
from asynchub.dashboard.walking import newest_batches
from asynchub.errors import AsyncHubError
from asynchub.generations import list_generations
from asynchub.journal.folder import find_journal
from asynchub.locking import is_released
from asynchub.snapshot import read_head

__all__ = ("RunFound", "find_runs")

NANOSECONDS = 1e9
PIECE = 65_536
"""Bytes that are read of the beginning and of the end of a log."""


@dataclass(frozen=True, slots=True)
class RunFound:
    """A run in a folder.

    Attributes:
        folder: of the run.
        kind: where its values are: in a journal, else in snapshots, else in a ``metrics.jsonl``.
        name: of the hub that wrote it, or of its folder.
        run_id: identity of the run, 32 hexadecimal digits; "" if it is not known.
        began: when it began, in seconds since the epoch; None if that is not known.
        newest: when its newest event was published, or the file was written; None if that is not known.
        keys: keys of scalars that its newest frame or lines have, in order; ``Pyramid.keys`` has all of them.
        ended: whether its writer has closed it.
        problem: what is wrong with it, in words; "" if nothing is.
    """

    folder: Path
    kind: Literal["journal", "snapshot", "log"]
    name: str
    run_id: str = ""
    began: float | None = None
    newest: float | None = None
    keys: tuple[str, ...] = ()
    ended: bool = False
    problem: str = ""


def find_runs(folder: str | os.PathLike[str]) -> list[RunFound]:
    """Return the runs in a folder, or the one that it is of, in the order of their paths.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    return [run for path in run_folders(Path(folder)) if (run := _run(path)) is not None]


def _run(folder: Path) -> RunFound | None:
    """Return the run that a folder is of; None if it was deleted at this moment."""
    name = folder.resolve().name
    kind: Literal["journal", "snapshot", "log"] = "log"
    try:
        if (journal := find_journal(folder)) is not None:
            kind = "journal"
            return _of_journal(folder, journal, name)
        if generations := list_generations(folder):
            kind = "snapshot"
            head = read_head(generations[0])
            return RunFound(folder, kind, name, head.run_id or "", newest=head.written / NANOSECONDS)
        return _of_log(folder, name) if (folder / LOG).exists() else None
    except (AsyncHubError, OSError, OverflowError, TypeError, ValueError) as error:  # a file may hold anything
        return RunFound(folder, kind, name, problem=str(error))


def _of_journal(folder: Path, journal: Path, name: str) -> RunFound:
    head = journal_head(journal)
    if head is None:
        return RunFound(folder, "journal", name, problem="no event yet")
    newest = newest_batches(journal, 1)[0][-1:]
    return RunFound(
        folder,
        "journal",
        head.name or name,
        head.run_id.hex(),
        head.began,
        max(map(_time, newest), default=None),
        tuple(dict.fromkeys(key for batch in newest for key, _ in batch.keys)),
        is_released(journal),
    )


def _time(batch: Batch) -> float:
    times = [float(one.times.max()) for one in batch.scalars if len(one.times)]
    if batch.events:
        times.append(float(decode_event(batch.events[-1][1])[0].time))
    return max(times)


def _of_log(folder: Path, name: str) -> RunFound:
    path = folder / LOG
    with path.open("rb") as file:
        first = file.read(PIECE).partition(b"\n")[0]
        file.seek(max(path.stat().st_size - PIECE, 0))
        last = file.read().splitlines()
    events = [event for line in (first, *last) if isinstance(event := _json(line), dict)]
    times = [event["time"] for event in events if isinstance(event.get("time"), int | float)]
    keys = [str(event.get("key")) for event in events if event.get("event") == "ScalarUpdated"]
    return RunFound(
        folder,
        "log",
        name,
        began=times[0] if times else None,
        newest=times[-1] if times else None,
        keys=tuple(dict.fromkeys(keys)),
        problem="" if events else f"{path} has no line that is an event",
    )


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # cut, or torn
        return None
