"""What the tests of the journal share: what was published, what is in the files, and programs that are killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from asynchub import Journal, MessageHub
from asynchub.batches import events_of
from asynchub.events import Event, InfoUpdated
from asynchub.journal.reading import Mode, read_journal
from asynchub.taps import Commit
from tests.codec_trees import difference

ROOT = Path(__file__).parents[2]

__all__ = ("Listening", "assert_same", "flush", "run", "run_of", "state", "stored")


class Listening:
    """Everything that a hub publishes from now on, in order."""

    def __init__(self, hub: MessageHub) -> None:
        self._hub = hub
        self._subscription = hub.subscribe(max_lag=1 << 30, name="listening")
        self._channel = hub._bus.channels[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def events(self) -> list[Event]:
        self._hub._bus.collect()
        return list(self._channel.between(self._channel.base, self._channel.end))

    def close(self) -> None:
        self._subscription.close()


def stored(folder: Path, mode: Mode = "strict") -> list[Event]:
    """Return the events in the files of a journal."""
    return [event for batch in read_journal(folder, mode).batches() for event in events_of(batch)]


def fields(event: Event) -> dict[str, Any]:
    """Return the fields of an event, and its type."""
    return {"type": type(event).__name__, **{name: getattr(event, name) for name in event.__dataclass_fields__}}


def assert_same(found: list[Event], wanted: list[Event]) -> None:
    """Check that events are the same: type, order and bits."""
    assert [event.seq for event in found] == [event.seq for event in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert difference(fields(one), fields(other)) == "", (one, other)


def state(hub: MessageHub) -> dict[str, Any]:
    """Return what a hub recorded: scalars with everything their events said, infos, the step and ``seq``."""
    scalars = {
        key: [column.tolist() for column in history.records()]
        for key, history in hub.log_scalars.items()
        if hub._resumed_keys.get(key, True)
    }
    infos = {key: value for key, value in hub.runtime_info.items() if hub._resumed_keys.get(key, True)}
    return {"scalars": scalars, "infos": infos, "step": hub.step, "seq": hub.statistics().seq}


def flush(journal: Journal) -> None:
    """Have the thread of a journal flush once, and wait for that; whatever the disk says."""
    commit: Commit = journal.commit()
    assert commit.latch.wait(30)


def run(code: str, *arguments: object, check: bool = True, under: tuple[str, ...] = (), timeout: float = 120) -> Any:
    """Run code in an interpreter of its own; return what came of it."""
    command = [*under, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_of(events: list[Event]) -> Iterator[Any]:
    """Yield the values of infos, of scalars, …"""
    for event in events:
        yield event.value if isinstance(event, InfoUpdated) else getattr(event, "value", None)
