"""The runs in a folder, as far as can be told without reading their values.

Cheap: of a journal the heads of the frames of its newest segment are read, and the newest frame; of a snapshot, its
    head; of a log, its first and its last lines.
Damaged: what cannot be read is said in ``RunFound.problem``, and nothing is raised.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asynchub.batches import Batch, decode_event
from asynchub.dashboard.heads import journal_head
from asynchub.dashboard.points import newest_batch
from asynchub.errors import AsyncHubError
from asynchub.generations import list_generations
from asynchub.journal.folder import find_journal
from asynchub.journal.tailing import contents
from asynchub.locking import is_released
from asynchub.snapshot import read_head

__all__ = ("RunFound", "find_runs")

DEPTH = 4
"""Folders in one another, at most, in which runs are looked for."""
LOG = "metrics.jsonl"
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
    top = Path(folder)
    if not top.is_dir():
        raise FileNotFoundError(f"{top} is no folder; give the one in which the folders of runs are")
    return list(_runs(top, DEPTH))


def _runs(folder: Path, depth: int) -> Iterator[RunFound]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if (found := _run(folder, {entry.name for entry in entries})) is not None:
            yield found
            return
        folders = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:  # it may not be read, or was deleted at this moment
        return
    for inner in folders if depth else []:
        yield from _runs(inner, depth - 1)


def _run(folder: Path, names: set[str]) -> RunFound | None:
    """Return the run that a folder is of; None if it is of none."""
    journal = find_journal(folder)
    if journal is not None:
        return _of_journal(folder, journal)
    if any(name.endswith(".ahs") for name in names) and (generations := list_generations(folder)):
        return _of_snapshot(folder, generations[0])
    return _of_log(folder) if LOG in names else None


def _of_journal(folder: Path, journal: Path) -> RunFound:
    name = folder.resolve().name
    try:
        head = journal_head(journal)
        _, tail = contents(journal)
        batches = [*([newest] if (newest := newest_batch(journal)) is not None else []), *tail[-1:]]
        if head is None:
            return RunFound(folder, "journal", name, problem="no event yet")
        return RunFound(
            folder,
            "journal",
            head.name or name,
            head.run_id.hex(),
            head.began,
            max((_time(batch) for batch in batches), default=None),
            tuple(dict.fromkeys(key for batch in batches for key, _ in batch.keys)),
            is_released(journal),
        )
    except (AsyncHubError, OSError) as error:
        return RunFound(folder, "journal", name, problem=str(error))


def _time(batch: Batch) -> float:
    times = [float(one.times.max()) for one in batch.scalars if len(one.times)]
    if batch.events:
        times.append(float(decode_event(batch.events[-1][1])[0].time))
    return max(times)


def _of_snapshot(folder: Path, path: Path) -> RunFound:
    name = folder.resolve().name
    try:
        head = read_head(path)
    except (AsyncHubError, OSError) as error:
        return RunFound(folder, "snapshot", name, problem=str(error))
    return RunFound(folder, "snapshot", name, head.run_id or "", newest=head.written / NANOSECONDS)


def _of_log(folder: Path) -> RunFound:
    path = folder / LOG
    try:
        with path.open("rb") as file:
            first = file.read(PIECE).partition(b"\n")[0]
            file.seek(max(path.stat().st_size - PIECE, 0))
            last = file.read().splitlines()
        events = [event for line in (first, *last) if isinstance(event := _json(line), dict)]
    except OSError as error:
        return RunFound(folder, "log", folder.resolve().name, problem=str(error))
    times = [event["time"] for event in events if isinstance(event.get("time"), int | float)]
    keys = [str(event.get("key")) for event in events if event.get("event") == "ScalarUpdated"]
    return RunFound(
        folder,
        "log",
        folder.resolve().name,
        began=times[0] if times else None,
        newest=times[-1] if times else None,
        keys=tuple(dict.fromkeys(keys)),
        problem="" if events else f"{path} has no line that is an event",
    )


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:  # cut, or torn
        return None
