"""Where viewers keep what they have made of a run, and who of them writes it.

One writer: a lock that the operating system keeps for as long as the process lives. Readers take none.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from asynchub.locking import FolderLock
from asynchub.statefile import make_folder

__all__ = ("CacheLock", "cache_path")


def cache_path(journal: Path, cache: Path | None) -> Path:
    """Return the file for a journal in a cache folder; None for the user's own."""
    if cache is None:
        base = os.environ.get("XDG_CACHE_HOME", "")
        cache = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "asynchub" / "pyramids"
    name = os.fsencode(os.path.realpath(journal))
    return cache / f"{hashlib.sha256(name).hexdigest()[:32]}.ahy"


class CacheLock:
    """The right to write a file of the cache.

    Args:
        path: the file; the lock is another one beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".lock")
        self._lock: FolderLock | None = None

    @property
    def held(self) -> bool:
        """Whether it was taken."""
        return self._lock is not None

    def take(self) -> bool:
        """Return whether it is held now; it does not wait for another viewer.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._lock is None:
            make_folder(self._path.parent, sync=False)
            with suppress(BlockingIOError):  # it is another viewer's
                self._lock = FolderLock(self._path.parent, BlockingIOError, self._path.name)
        return self.held

    def release(self) -> None:
        """Let another viewer have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
