"""Does the process live that writes a journal, or that answers in a control folder?

Asked of the operating system, which keeps a lock for as long as that process lives: the list of all locks on Linux,
else whether there is such a process. No lock is taken: that could be in the way of a run that begins.
Late: that a process is gone may be said a second after it is; the list takes milliseconds to read.
Not seen: locks of another machine, and of another container. There, only what comes tells.
Threads: any.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from socket import gethostname
from typing import Literal

from asynchub.locking import LOCK, RELEASED

__all__ = ("Writer", "writer_in")

Writer = Literal["alive", "gone", "unseen", "released", "none"]
"""``"gone"``: it has not let go of the journal, and lives no more. ``"unseen"``: the same, or it lives where locks are
not seen from here. ``"released"``: it has let go of it. ``"none"``: there is no lock, as in a copy."""
LOCKS = Path("/proc/locks")
HOLDER = re.compile(r"process (\d+)(?: on (.+))?")
ROOT = "pid:[4026531836]"
"""The name space of processes outside of all containers, on Linux."""
SECOND = 1.0
"""Seconds for which the list of locks is good for what was looked up before."""
MOST = 4096
"""Locks of which it is known since when they are looked up."""
LONGEST = 1000
"""Bytes of a lock's file that are read."""
_SAFE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
FAR = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "gpfs", "ceph", "gluster", "beegfs", "afs")
"""What the names of file systems begin with that other machines may share."""


class _Locks:
    """The system's list of locks: for whoever looks up the same as before, it is read once a second at most."""

    def __init__(self) -> None:
        self._one_reads = threading.Lock()
        self._read = float("-inf")
        self._held: set[tuple[str, str, str]] = set()
        self._since: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def has(self, status: os.stat_result, text: bytes, process: str) -> bool:
        """Tell whether somebody whose locks are seen here has locked a file.

        Args:
            status: of the file; another device may stand in the list, as of an overlay.
            text: that it holds.
            process: who says that it has locked it.
        """
        device = status.st_dev
        own = f"{os.major(device):02x}:{os.minor(device):02x}" if sys.platform != "win32" else ""
        inode, now = str(status.st_ino), time.monotonic()
        key = (device, inode, status.st_mtime_ns, text)
        with self._one_reads:
            since = self._since.setdefault(key, now)  # who takes a lock writes so, and a list from before lacks it
            self._since.move_to_end(key)
            while len(self._since) > MOST:
                self._since.popitem(last=False)
            if self._read < max(since, now - SECOND):
                self._held, self._read = set(_listed()), now
            held = self._held
        return ("", own, inode) in held or (process, "", inode) in held


_LOCKS = _Locks()  # the list is that of the system, whoever looks


def _listed() -> Iterator[tuple[str, str, str]]:
    """Yield of each lock the inode of its file, once with the file's device, and once with the process that has it."""
    try:
        lines = LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, kind, _, _, process, place, *_ = [*line.split(), "", "", "", "", "", ""]
        if kind == "FLOCK":
            device, _, inode = place.rpartition(":")
            yield "", device, inode
            yield process, "", inode


def writer_in(folder: Path) -> Writer:
    """Return how the process is that writes a journal, or answers in a control folder. Raises nothing."""
    try:
        text, status = _lock_in(folder)
    except (FileNotFoundError, NotADirectoryError):
        return "none"
    except OSError:  # it is another user's
        return "unseen"
    if text == RELEASED:
        return "released"
    found = HOLDER.match(text.decode("utf-8", "replace"))
    if _LOCKS.has(status, text, found[1] if found is not None else ""):
        return "alive"
    host = found[2].strip() if found is not None and found[2] else ""
    if host and host != gethostname():
        return "unseen"
    if not LOCKS.exists():
        return _by_process(int(found[1])) if found is not None else "unseen"
    sees_all = bool(host) or _link("/proc/self/ns/pid") == ROOT
    return "gone" if sees_all and not _is_far(folder) else "unseen"


def _lock_in(folder: Path) -> tuple[bytes, os.stat_result]:
    """Return what the lock's file of a folder holds, and its status.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    file = os.open(folder / LOCK, os.O_RDONLY | _SAFE)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{folder / LOCK} is no plain file")
        return os.read(file, LONGEST), status
    finally:
        os.close(file)


def _by_process(number: int) -> Writer:
    if sys.platform == "win32":
        return "unseen"
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:  # it is somebody else's
        return "alive"
    return "alive"


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_far(folder: Path) -> bool:
    """Tell whether a folder is on a file system that other machines may share."""
    try:
        resolved = str(folder.resolve())
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    best, kind = "", ""
    for line in mounts:
        parts = line.split()
        if len(parts) > 2:
            place = parts[1].replace("\\040", " ")
            inside = place == "/" or resolved == place or resolved.startswith(f"{place}/")
            if inside and len(place) >= len(best):
                best, kind = place, parts[2]
    return kind.startswith(FAR)
