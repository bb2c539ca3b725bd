"""The folders of runs, from the names of files only: of thousands in a moment.

Links: a folder that is a link is followed, but for one that leads back to where it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asynchub.dashboard.past import LOG
from asynchub.journal.folder import find_journal
from asynchub.locking import LOCK

__all__ = ("DEPTH", "Trace", "run_folders", "trace_of")

DEPTH = 4
"""Folders in one another, at most, in which runs are looked for."""
Trace = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of files; another one where a run has written a segment, or was resumed, ended or begun."""


def run_folders(top: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, or itself if it is one, in the order of their paths.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top} is no folder; give the one in which the folders of runs are")
    yield from _folders(top, DEPTH)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        if LOG in names or any(name.endswith((".ahs", ".ahj")) for name in names) or find_journal(folder) is not None:
            yield folder
            return
        inner = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        inner = [one for one in inner if not (one.is_symlink() and folder.resolve().is_relative_to(one.resolve()))]
    except OSError:  # it may not be read, or was deleted at this moment
        return
    for one in inner if depth else []:
        yield from _folders(one, depth - 1)


def trace_of(run: Path) -> Trace:
    """Return what the newest files of a run look like from outside."""
    found: list[tuple[str, int, int]] = []
    try:
        journal = find_journal(run)
        with os.scandir(journal or run) as entries:
            kept = [entry for entry in entries if entry.name == LOCK or entry.name.endswith((".ahj", ".ahs", ".jsonl"))]
        kept.sort(key=lambda entry: entry.name)
        for entry in kept[-3:]:  # a lock, and the newest segment; or the newest snapshots and the log
            status = entry.stat()
            found.append((entry.name, status.st_size, status.st_mtime_ns))
    except OSError:  # deleted at this moment
        return ()
    return tuple(found)
