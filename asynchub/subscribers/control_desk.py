"""The run's side of its control folder: what may be asked for is written there, and what is asked is read.

Waiting: for the file system, as long as it takes: not for a loop's thread, nor for that of the training loop.
Damage: a torn line, garbage, or another file in the place of the requests is passed over.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from asynchub.control_folder import (
    FOLDER,
    LONGEST_LINE,
    OFFER,
    OLD_BYTES,
    REQUESTS,
    ControlError,
    Offer,
    Written,
    pack_offer,
    unpack_request,
)
from asynchub.locking import LOCK, FolderLock

if sys.platform != "win32":
    import fcntl

__all__ = ("ControlDesk", "Found")

READ = 2**18
"""Bytes that are read in one look,"""
LINES = 8192
"""and lines,"""
REQUESTED = 256
"""and requests: what more there is waits for the next one."""
MARK = 64
"""Bytes before the position that are read again: they tell whether it is still the same file."""
PROBED = 1.0
"""Seconds in which a lock is tried again that somebody may only have probed."""
AGAIN = 0.05
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Found(NamedTuple):
    """A line that was found.

    Attributes:
        written: what is asked; None if it is no request.
        error: why it is none; empty if it is.
        unseen: seconds that it may have been there at most.
    """

    written: Written | None
    error: str
    unseen: float


class ControlDesk:
    """One start of a run, at its control folder. Not for more than one thread at a time.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._requests = self.folder / REQUESTS
        self._lock: FolderLock | None = None
        self._position = 0
        self._seen: tuple[int, int, int] | None = None  # the file, its length and its time, when all of it was read
        self._mark = b""  # what stands right before the position
        self._skipping = False  # amid a line that is too long
        self._looked = 0.0, 0.0
        _OPEN.add(self)

    def open(self, offer: Offer) -> None:
        """Begin: make the folder, and say what may be asked for.

        Raises:
            ControlError: it cannot be written, or somebody else has it, or made it.
        """
        try:
            self._open(offer)
        except OSError as error:
            raise ControlError(
                f"{self.folder} cannot be written, so the run cannot be steered through it: {error}"
            ) from error

    def _open(self, offer: Offer) -> None:
        self._make_folder()
        self._lock = self._locked()
        try:
            (self.folder / LOCK).chmod(0o600)
            self._position = self._make_requests()
            self._mark = self._read(max(self._position - MARK, 0), MARK)
            self._looked = time.monotonic(), time.time()
            self.write(offer)
        except BaseException:
            self._lock.release()
            self._lock = None
            raise

    def _make_folder(self) -> None:
        with suppress(FileExistsError):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
        found = os.lstat(self.folder)
        if not stat.S_ISDIR(found.st_mode):
            raise ControlError(f"{self.folder} is no folder: remove it, and the run can be steered")
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise ControlError(
                f"{self.folder} belongs to another user (number {found.st_uid}), who could steer the run: remove it"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            self.folder.chmod(0o700)

    def _locked(self) -> FolderLock:
        until = time.monotonic() + PROBED
        while True:
            try:
                return FolderLock(self.folder, self._refused)
            except ControlError:  # or somebody looks whether the run lives
                if time.monotonic() > until:
                    raise
                time.sleep(AGAIN)

    def _refused(self, who: str) -> ControlError:
        return ControlError(
            f"{self.folder} is that of {who}; a run has one RemoteControl: end that process, or use another folder"
        )

    def _make_requests(self) -> int:
        """Make the file of requests if it is not there; return its length."""
        file = os.open(self._requests, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise ControlError(f"{self._requests} is no plain file: remove it, and the run can be steered")
            if hasattr(os, "fchmod"):
                os.fchmod(file, 0o600)
            return found.st_size
        finally:
            os.close(file)

    def write(self, offer: Offer) -> None:
        """Say what may be asked for from now on.

        Raises:
            OSError: the disk refuses it.
        """
        path = self.folder / OFFER
        new = path.with_name(f"{OFFER}.new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFE, 0o600)
        with open(file, "wb") as opened:
            opened.write(pack_offer(offer))
        new.replace(path)

    def look(self) -> list[Found]:
        """Return the lines that have been added since the last look, some of them if they are many.

        Raises:
            OSError: the file system does not let it look.
            ControlError: something that is no plain file stands in the place of the requests.
        """
        now = time.monotonic(), time.time()
        try:
            found = os.lstat(self._requests)
        except FileNotFoundError:  # somebody has removed it
            self._make_requests()
            return []
        state = found.st_ino, found.st_size, found.st_mtime_ns
        if self._seen == state:
            self._looked = now
            return []
        if not stat.S_ISREG(found.st_mode):
            raise ControlError(f"{self._requests} is no plain file any more: nothing can be asked")
        # a clock that jumps makes it more, never less
        unseen = max(now[0] - self._looked[0], now[1] - self._looked[1], 0.0)
        lines, rest = self._lines(unseen)
        self._seen = None if rest else state
        if not rest:
            self._looked = now
        if not rest and self._position == found.st_size > OLD_BYTES:
            self._begin_anew()
        return lines

    def _lines(self, unseen: float) -> tuple[list[Found], bool]:
        """Return the next lines, and whether there are more."""
        before = len(self._mark)
        data = self._read(self._position - before, before + READ)
        if not data.startswith(self._mark):  # somebody has cut or replaced it: what was asked before counts once
            self._position, self._skipping, before = 0, False, 0
            data = self._read(0, READ)
        whole, data = data, data[before:]
        begun = self._position
        found, rest = self._taken(_split(data), unseen)
        end = before + self._position - begun
        self._mark = whole[max(end - MARK, 0) : end]
        return found, rest or len(data) == READ

    def _read(self, start: int, size: int) -> bytes:
        file = os.open(self._requests, os.O_RDONLY | _SAFE)
        with open(file, "rb") as opened:
            opened.seek(start)
            return opened.read(size)

    def _taken(self, lines: list[bytes], unseen: float) -> tuple[list[Found], bool]:
        """Return what is in lines, and whether some are left."""
        found: list[Found] = []
        requests = 0
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                if len(line) >= LONGEST_LINE and not self._skipping:
                    found.append(Found(None, f"a line of more than {LONGEST_LINE} bytes is no request", unseen))
                    self._skipping = True
                if self._skipping:
                    self._position += len(line)
                break
            if requests == REQUESTED or number == LINES:
                return found, True
            self._position += len(line)
            skipped, self._skipping = self._skipping, False
            if not skipped and line != b"\n":
                found.append(_found(line, unseen))
                requests += found[-1].written is not None
        return found, False

    def _begin_anew(self) -> None:
        """Cut the requests to nothing, unless somebody is writing."""
        file = os.open(self._requests, os.O_RDWR | _SAFE)
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_size == self._position:
                os.ftruncate(file, 0)
                self._position, self._mark = 0, b""
        except BlockingIOError:
            self._seen = None  # at the next look
        finally:
            os.close(file)

    def close(self, offer: Offer) -> None:
        """End; ``offer`` says so."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            self.write(offer)
        finally:
            lock.release()

    def forget(self) -> None:
        """Let go of the lock in a forked child; the parent keeps it."""
        if self._lock is not None:
            self._lock.forget()
            self._lock = None


def _split(data: bytes) -> list[bytes]:
    """Return the lines of ``data``, which end in line feeds only."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + [part for part in parts[-1:] if part]


def _found(line: bytes, unseen: float) -> Found:
    try:
        return Found(unpack_request(line), "", unseen)
    except ControlError as error:
        return Found(None, str(error), unseen)


_OPEN: WeakSet[ControlDesk] = WeakSet()


def _after_fork() -> None:
    for desk in list(_OPEN):
        desk.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
