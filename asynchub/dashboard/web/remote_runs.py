"""Runs at a broker, kept as journals of this viewer's for as long as it looks: then they are looked at as any run is.

Kept: everything that the broker has of a run, and what comes; the folders are removed when nobody looks any more, those
    of a viewer that was killed when the next one begins.
Asked: requests go to the run through the broker; what becomes of them comes as events of the run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from asynchub.allowing import in_words
from asynchub.bridges.remote import RemoteHub, attach
from asynchub.dashboard.keeping import cache_path
from asynchub.dashboard.screen import Asked
from asynchub.journal.journal import Journal
from asynchub.locking import FolderLock
from asynchub.requests import Request

__all__ = ("RemoteRuns", "following")

FOLDER = "remote"
HELD = "viewer.lock"
"""Of the folder of one viewer: another name than that of a journal's lock, which would make it one."""
INTERVAL = 0.05
"""Seconds between two writings of a journal."""


class RemoteRuns(NamedTuple):
    """Runs that are followed.

    Attributes:
        folder: in which there is one for each.
        hubs: they, by their folders.
    """

    folder: Path
    hubs: Mapping[Path, RemoteHub]

    def ask(self, folder: Path, request: Request) -> Asked:
        """Ask something of a run.

        Raises:
            LookupError: it is none of these.
            AsyncHubError: it cannot be asked.
        """
        hub = self.hubs.get(folder)
        if hub is None:
            raise LookupError(f"{folder} is no run at the broker")
        asked = hub.request(request)
        return Asked(asked.id, in_words(asked), asked.author, asked.reason, "requested", time=asked.time)


@contextmanager
def following(broker: str, runs: Sequence[str], cache: Path | None, author: str) -> Iterator[RemoteRuns]:
    """Follow runs while the block lasts.

    Args:
        broker: its URL.
        runs: their names.
        cache: folder for what viewers keep; None for the user's own.
        author: whom requests are from, if they do not say so.

    Raises:
        AsyncHubError: a name is none, or the broker is not to be had.
        OSError: the folder cannot be written.
    """
    top = cache_path(Path(FOLDER), cache).parent / FOLDER
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_left(top)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=top, ignore_cleanup_errors=True)))
        lock = FolderLock(folder, BlockingIOError, HELD)
        stack.callback(lock.release)
        hubs = {}
        for number, run in enumerate(dict.fromkeys(runs)):
            hub = attach(broker, run=run, past="all", author=author)
            place = folder / (re.sub(r"[^\w.-]", "_", run).strip(".")[:80] or f"run-{number}")
            place = place if place not in hubs else folder / f"{place.name}-{number}"
            hub.attach(Journal(place / "journal", interval=INTERVAL))
            stack.enter_context(hub)
            hubs[place] = hub
        yield RemoteRuns(folder, hubs)


def _remove_left(top: Path) -> None:
    """Remove what killed viewers have left."""
    for folder in top.iterdir():
        with suppress(OSError):  # another viewer is at it, or this is no folder of one
            if not os.access(folder / HELD, os.F_OK):
                continue
            lock = FolderLock(folder, BlockingIOError, HELD)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
