"""Where viewers keep what they have made of a run, and who of them writes it.

One writer: a lock that the operating system keeps for as long as the process lives. Readers take none.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from asynchub.statefile import make_folder

if sys.platform != "win32":
    import fcntl

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

    Attributes:
        held: whether it was taken.

    Args:
        path: the file; the lock is another one beside it.
    """

    def __init__(self, path: Path) -> None:
        self.held = False
        self._path = path.with_suffix(".lock")
        self._file: int | None = None

    def take(self) -> bool:
        """Return whether it is held now; it does not wait for another viewer.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.held:
            return True
        if self._file is None:
            make_folder(self._path.parent, sync=False)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        self.held = True
        return True

    def release(self) -> None:
        """Let another viewer have it."""
        if self._file is not None:
            os.close(self._file)
        self._file, self.held = None, False
