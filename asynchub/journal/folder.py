"""The folder of a journal: who writes it, and what a crash has left in it.

One writer: a lock that the operating system keeps for as long as the process lives. Readers take none.
Kept: what is cut off a torn segment is moved to ``<segment>.torn-1``, ``-2``, …; nothing is ever deleted but segments
    that a snapshot has made needless, on request.
"""

from __future__ import annotations

import logging
import shutil
from itertools import count, pairwise
from pathlib import Path

from asynchub.errors import JournalError
from asynchub.journal.reading import Journaled, Segment
from asynchub.locking import LOCK, FolderLock, holder
from asynchub.statefile import flush, flush_folder, make_folder

__all__ = ("compact", "find_journal", "lock_folder", "repair", "writer_of")

logger = logging.getLogger("asynchub")


def lock_folder(folder: Path) -> FolderLock:
    """Return the right to write a journal, whose folder is created.

    Raises:
        JournalError: another writer has it.
        OSError: the folder cannot be written.
    """
    make_folder(folder, sync=True)

    def refused(who: str) -> JournalError:
        return JournalError(
            f"{folder} is written by {who}; a journal has one writer: choose another folder, end that process, or "
            "detach the journal from the other hub"
        )

    return FolderLock(folder, refused)


def find_journal(run: Path) -> Path | None:
    """Return the folder of a run's journal: the one named ``journal`` in it, or ``run`` itself; None if neither is."""
    for folder in (run / "journal", run):
        if (folder / LOCK).is_file() or next(folder.glob("*.ahj"), None) is not None:
            return folder
    return None


def writer_of(folder: Path) -> str:
    """Return who writes a journal, in words. Takes no lock."""
    who = holder(folder)
    return "none: this is a copy" if who is None else who or "none"


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
