"""Does the process live that writes a journal?

Asked of the operating system, which keeps a lock for as long as that process lives: the list of all locks on Linux,
else whether there is such a process. No lock is taken: that could be in the way of a run that begins.
Not seen: locks of another machine, and of another container. There, only what comes tells.
"""

from __future__ import annotations

import os
import re
import sys
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
FAR = ("nfs", "cifs", "smb", "fuse", "9p", "lustre", "gpfs", "ceph", "gluster", "beegfs", "afs")
"""What the names of file systems begin with that other machines may share."""


def writer_in(journal: Path) -> Writer:
    """Return how the writer of a journal is. Raises nothing."""
    path = journal / LOCK
    try:
        text, status = path.read_bytes(), path.stat()
    except OSError:
        return "none"
    if text == RELEASED:
        return "released"
    found = HOLDER.match(text.decode("utf-8", "replace"))
    if _is_locked(status.st_dev, status.st_ino, found[1] if found is not None else ""):
        return "alive"
    host = found[2].strip() if found is not None and found[2] else ""
    if host and host != gethostname():
        return "unseen"
    if not LOCKS.exists():
        return _by_process(int(found[1])) if found is not None else "unseen"
    sees_all = bool(host) or _link("/proc/self/ns/pid") == ROOT
    return "gone" if sees_all and not _is_far(journal) else "unseen"


def _is_locked(device: int, inode: int, process: str) -> bool:
    """Tell whether somebody whose locks are seen here has locked a file.

    Args:
        device: that the file is on, as it says; another one may stand in the list, as of an overlay.
        inode: of the file.
        process: who says that it has locked it.
    """
    try:
        lines = LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    own = f"{os.major(device):02x}:{os.minor(device):02x}" if sys.platform != "win32" else ""
    for line in lines:
        _, kind, _, _, who, place, *_ = [*line.split(), "", "", "", "", "", ""]
        where, _, number = place.rpartition(":")
        if kind == "FLOCK" and number == str(inode) and (where == own or who == process):
            return True
    return False


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
