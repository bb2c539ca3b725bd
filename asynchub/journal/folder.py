"""The folder of a journal: who writes it, and what a crash has left in it.

One writer: a lock that the operating system keeps for as long as the process lives. Readers take none.
Kept: what is cut off a torn segment is moved to ``<segment>.torn-1``, ``-2``, …; nothing is ever deleted but segments
    that a snapshot has made needless, on request.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

from asynchub.errors import JournalError
from asynchub.journal.reading import Journaled, Segment
from asynchub.statefile import flush, flush_folder, make_folder

if sys.platform != "win32":
    import fcntl

__all__ = ("FolderLock", "compact", "find_journal", "holder", "is_released", "repair")

logger = logging.getLogger("asynchub")
LOCK = "LOCK"
RELEASED = b"released\n"
"""What the lock's file holds when its writer has let go of it; that of a killed one still names the process."""


class FolderLock:
    """The right to write a journal, held until ``release``.

    Args:
        folder: of the journal; it is created.

    Raises:
        JournalError: another writer has it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder, sync=True)
        self._path = folder / LOCK
        self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            self._take(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def _take(self, file: int) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, 200, 0).decode("utf-8", "replace").strip() or "somebody"
                raise JournalError(
                    f"{self._path.parent} is written by {holder}; a journal has one writer: choose another folder, end "
                    "that process, or detach the journal from the other hub"
                ) from None
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another writer have it."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a full disk; or the file system has lost the lock already
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, RELEASED)
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def forget(self) -> None:
        """Close it in a forked child; the parent keeps it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def find_journal(run: Path) -> Path | None:
    """Return the folder of a run's journal: the one named ``journal`` in it, or ``run`` itself; None if neither is."""
    for folder in (run / "journal", run):
        if (folder / LOCK).is_file() or next(folder.glob("*.ahj"), None) is not None:
            return folder
    return None


def is_released(folder: Path) -> bool:
    """Tell whether the last writer of a journal has let go of it. Takes no lock."""
    try:
        return (folder / LOCK).read_bytes() == RELEASED
    except FileNotFoundError:
        return False


def holder(folder: Path) -> str:
    """Return who writes a journal, in words. Takes no lock."""
    try:
        text = (folder / LOCK).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return "none: this is a copy"
    return "none" if text == RELEASED.decode().strip() else f"{text or 'somebody'}: it runs, or was killed"


def repair(journal: Journaled) -> int:
    """Cut what a crash has torn off the newest segment, keep it aside, and say so; return how many bytes it was.

    A crash amid this leaves what there was, or is as if this had been done.
    """
    segment = journal.segments[-1] if journal.segments else None
    if segment is not None and not segment.size:
        segment.path.unlink()
        journal.segments.pop()
    if segment is None or not segment.torn:
        return 0
    kept = _keep_aside(segment)
    if segment.frames:
        with segment.path.open("rb+") as file:
            file.truncate(segment.whole)
            flush(file.fileno())
    else:
        segment.path.unlink()
        journal.segments.pop()
    flush_folder(segment.path.parent)
    logger.warning(
        "%s ended in %d bytes of an unfinished write, that had not been promised to be on the disk; they are in %s",
        segment.path,
        segment.torn,
        kept,
    )
    return segment.torn


def _keep_aside(segment: Segment) -> Path:
    for number in count(1):
        kept = segment.path.with_name(f"{segment.path.name}.torn-{number}")
        if not kept.exists():
            break
    with segment.path.open("rb") as source, kept.open("xb") as target:
        source.seek(segment.whole)
        shutil.copyfileobj(source, target)
        flush(target.fileno())
    return kept


def compact(journal_folder: Path, files: list[tuple[int, int, Path]], seq: int) -> list[Path]:
    """Delete the segments all of whose events are at most ``seq``, oldest first; return them.

    Args:
        journal_folder: of the journal.
        files: number, first ``seq`` and path of each segment, oldest first.
        seq: every event up to it is in a snapshot that is on the disk.
    """
    deleted = []
    for (_, _, path), (_, next_seq, _) in pairwise(files):
        if next_seq > seq + 1:
            break
        path.unlink()
        deleted.append(path)
    if deleted:
        flush_folder(journal_folder)
    return deleted
