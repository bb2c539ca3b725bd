"""A recorded run in the formats of others: what a logger would have written, had it been attached from the start."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import anyio

from asynchub.errors import ArgumentError
from asynchub.events import Event, ScalarUpdated
from asynchub.recorded import recorded_events
from asynchub.runner import Subscriber
from asynchub.subscribers.csv import CsvLogger
from asynchub.subscribers.jsonl import JsonlLogger
from asynchub.subscription import Subscription

__all__ = ("FORMATS", "export_run")

Events = Callable[..., Iterator[Event]]
"""Return the events of the run that match key patterns or are of a kind."""
BATCH = 4096
FORMATS = {"jsonl": "metrics.jsonl", "csv": "metrics.csv", "tensorboard": "tensorboard"}
"""Of each format, the name of what is written, in the folder ``export`` of the run unless told otherwise."""


def export_run(run: Path, to: str, path: Path | None = None, *, rewound: bool = False) -> tuple[Path, int]:
    """Write the events of a run in another format; return where, and how many.

    Args:
        run: as of ``asynchub.recorded.recorded_events``.
        to: ``"jsonl"``: every event, one a line. ``"csv"``: scalars, one row a step, one column a key.
            ``"tensorboard"``: scalars, as event files; for that ``tensorboard`` must be installed.
        path: the file, for tensorboard the folder; nothing may be there yet.
        rewound: as of ``recorded_events``.

    Raises:
        ArgumentError: ``to`` is none of these, or ``path`` is there already.
        ModuleNotFoundError: ``tensorboard`` is not installed.
        FileNotFoundError: there is no such run.
        StateError: the run is damaged.
        OSError: the disk said no.
    """
    if to not in FORMATS:
        raise ArgumentError(f"a run can be exported to {', '.join(FORMATS)}, got {to!r:.80}")
    if path is None:
        path = (run if run.is_dir() else run.parent) / "export" / FORMATS[to]
    taken = [path, path.with_name(f"{path.stem}.late{path.suffix}")] if to == "csv" else [path]
    if there := next((one for one in taken if one.exists()), None):
        raise ArgumentError(f"{there} is there already; remove it, or name another place with -o")
    write = _tensorboard if to == "tensorboard" else _csv if to == "csv" else _jsonl
    try:
        return path, write(path, lambda *wanted: recorded_events(run, *wanted, rewound=rewound))
    except BaseException:
        for one in taken:
            shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)
        raise


def _jsonl(path: Path, events: Events) -> int:
    return _logged(JsonlLogger(path), events())


def _csv(path: Path, events: Events) -> int:
    columns = dict.fromkeys(event.key for event in events(ScalarUpdated))
    return _logged(CsvLogger(path, tuple(columns)), events(ScalarUpdated))


def _tensorboard(path: Path, events: Events) -> int:
    from asynchub.integrations.tensorboard import write_scalars

    return write_scalars(path, events(ScalarUpdated))


def _logged(logger: Subscriber, events: Iterator[Event]) -> int:
    """Have a logger handle recorded events; return how many."""
    recording = _Recording(events)
    anyio.run(logger, cast("Subscription", recording))
    return recording.count


class _Recording:
    """What a logger needs of a subscription, over recorded events."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self.count = 0

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Yield the events in lists."""
        while batch := list(islice(self._events, BATCH)):
            self.count += len(batch)
            yield batch
