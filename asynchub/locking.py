"""The right to write a folder: a lock that the operating system keeps for as long as the process lives.

The lock's file names the process, or says that it has let go; so that of a killed one still names it. Who only reads
takes no lock.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socket import gethostname

if sys.platform != "win32":
    import fcntl

__all__ = ("LOCK", "FolderLock", "holder", "is_released")

LOCK = "LOCK"
"""Name of the lock's file."""
RELEASED = b"released\n"
"""What it holds when its holder has let go of it."""


class FolderLock:
    """The right to write a folder, held until ``release``.

    Args:
        folder: it is there.
        refused: returns the error to raise, given in words who has the lock.
        name: of the lock's file in it.

    Raises:
        Exception: what ``refused`` returns; another process, or somebody else in this one, has it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, refused: Callable[[str], Exception], name: str = LOCK) -> None:
        self._file: int | None = os.open(folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            self._take(self._file, refused)
        except BaseException:
            os.close(self._file)
            raise

    def _take(self, file: int, refused: Callable[[str], Exception]) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = os.pread(file, 200, 0).decode("utf-8", "replace").strip() or "somebody"
                raise refused(who) from None
        self._say(file, f"process {os.getpid()} on {gethostname()}\n".encode())

    def _say(self, file: int, text: bytes) -> None:
        with suppress(OSError):  # a full disk: the lock holds without the words; or the file system has lost it already
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, text)

    def release(self) -> None:
        """Let somebody else have it."""
        file, self._file = self._file, None
        if file is not None:
            self._say(file, RELEASED)
            if sys.platform != "win32":
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def forget(self) -> None:
        """Close it in a forked child; the parent keeps it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def is_released(folder: Path) -> bool:
    """Tell whether the last holder of a folder's lock has let go of it; False if there never was one."""
    try:
        return (folder / LOCK).read_bytes() == RELEASED
    except FileNotFoundError:
        return False


def holder(folder: Path) -> str | None:
    """Return who has a folder's lock, or was killed having it, in words; empty if nobody; None if it has no lock."""
    try:
        text = (folder / LOCK).read_bytes()
    except FileNotFoundError:
        return None
    if text == RELEASED:
        return ""
    return f"{text.decode('utf-8', 'replace').strip() or 'somebody'}: it runs, or was killed"
