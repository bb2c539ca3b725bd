"""The folder of a spool: who uses it, what is in it, and what a broker has of that.

One user: a lock that the operating system keeps for as long as the process lives. Who only reads takes none.
Crashes: a file is written whole under another name first; how far a broker has come is appended to a file of its own,
    where what is torn does not count.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from asynchub.bridges.failures import BridgeError
from asynchub.locking import LOCK, FolderLock, holder

__all__ = (
    "Taken",
    "find_spools",
    "foreign_files",
    "lock_spool",
    "remove_unfinished",
    "segment_files",
    "segment_path",
    "user_of",
    "write_whole",
)

TAKEN = "TAKEN"
TEMPORARY = ".tmp"
"""What the name of a file ends with that is being written; a crash may leave it."""
_SEGMENT = re.compile(r"([0-9]{20})-([0-9]{20})\.ahf")
_MARK = struct.Struct("<QQI")
MOST_MARKS = 16_384
"""Bytes at which the file that says what a broker has is written anew."""
CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def lock_spool(folder: Path) -> FolderLock:
    """Return the right to use a spool, whose folder is created.

    Raises:
        BridgeError: another process, or another spool of this one, has it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def refused(who: str) -> BridgeError:
        return BridgeError(
            f"the spool {folder} is in use by {who}, and has one user at a time: wait until that process has ended, or "
            "choose another folder; two ranks never share one"
        )

    return FolderLock(folder, refused)


class Taken:
    """How far a broker has come: of each epoch, the number of the frame up to which it has all.

    Args:
        folder: of the spool.

    Attributes:
        numbers: the number of each epoch.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TAKEN
        self.numbers: dict[int, int] = {}
        self._size = 0
        with suppress(OSError):  # there is none; or it cannot be read, and the broker is told everything again
            data = self._path.read_bytes()
            self._size = len(data)
            for start in range(0, len(data) - _MARK.size + 1, _MARK.size):
                epoch, number, checksum = _MARK.unpack_from(data, start)
                if zlib.crc32(data[start : start + 16]) == checksum:
                    self.numbers[epoch] = max(number, self.numbers.get(epoch, number))

    def add(self, epoch: int, number: int) -> None:
        """Note that a broker has all of an epoch up to a number."""
        if self.numbers.get(epoch, -1) >= number:
            return
        self.numbers[epoch] = number
        with suppress(OSError):  # nothing is lost: a broker that is told something again knows it by its id
            if self._size % _MARK.size or self._size >= MOST_MARKS:
                self._rewrite()
            else:
                self._size += _append(self._path, _mark(epoch, number))

    def forget(self, epochs: set[int]) -> None:
        """Keep only what is known of some epochs."""
        kept = {epoch: number for epoch, number in self.numbers.items() if epoch in epochs}
        if kept != self.numbers:
            self.numbers = kept
            with suppress(OSError):
                self._rewrite()

    def _rewrite(self) -> None:
        data = b"".join(_mark(epoch, number) for epoch, number in sorted(self.numbers.items()))
        write_whole(self._path, data)
        self._size = len(data)


def _mark(epoch: int, number: int) -> bytes:
    mark = _MARK.pack(epoch, number, 0)[:16]
    return mark + zlib.crc32(mark).to_bytes(4, "little")


def _append(path: Path, data: bytes) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | CLOEXEC, 0o666)
    try:
        return os.write(file, data)
    finally:
        os.close(file)


def write_whole(path: Path, data: bytes | bytearray) -> None:
    """Write a file that is there whole, or as it was before.

    Raises:
        OSError: the disk refuses; nothing has changed.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | CLOEXEC, 0o666)
        try:
            rest = memoryview(bytes(data))
            while rest:
                rest = rest[os.write(file, rest) :]
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def segment_path(folder: Path, epoch: int, number: int) -> Path:
    """Return the path of the segment that begins with a frame."""
    return folder / f"{epoch:020}-{number:020}.ahf"


def segment_files(folder: Path) -> list[tuple[int, int, Path]]:
    """Return epoch, number of the first frame, and path of each segment, oldest first."""
    matches = [(match, path) for path in folder.iterdir() if (match := _SEGMENT.fullmatch(path.name))]
    return sorted((int(match[1]), int(match[2]), path) for match, path in matches)


def foreign_files(folder: Path) -> list[Path]:
    """Return what is in a folder, and not of a spool of this version."""
    return sorted(path for path in folder.iterdir() if not _is_own(path.name) and path.name != LOCK)


def remove_unfinished(folder: Path) -> None:
    """Remove what a crash has left of files that were being written."""
    for path in folder.glob(f"*{TEMPORARY}"):
        if _is_own(path.name):
            path.unlink(missing_ok=True)


def _is_own(name: str) -> bool:
    whole = name.removesuffix(TEMPORARY)
    return whole == TAKEN or _SEGMENT.fullmatch(whole) is not None


def find_spools(folder: Path) -> list[Path]:
    """Return the spools that have segments, in a folder and below: those of several ranks, or the folder itself.

    Raises:
        FileNotFoundError: the folder is not there, or there is no spool in it.
    """
    found = {path.parent for path in folder.rglob("*.ahf") if _SEGMENT.fullmatch(path.name)}
    if not found:
        missing = "holds no spool" if folder.is_dir() else "is not there"
        raise FileNotFoundError(f"{folder} {missing}: wanted the spool of a rank, or a folder above several")
    return sorted(found, key=lambda one: (one.parent, int(one.name) if one.name.isdecimal() else -1, one))


def user_of(folder: Path) -> str:
    """Return who uses a spool, in words. Takes no lock."""
    return holder(folder) or "nobody"
