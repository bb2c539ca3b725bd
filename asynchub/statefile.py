"""State files: a tree of values in one file, replaced atomically.

Atomic: the path names the old file or the new one, whole, at every moment, also through ``kill -9``, a full disk, a
    power loss. A save that fails leaves the old file as it was, and nothing beside it.
Durable: with ``sync``, a save that returned survives a power loss, if the device honours a flush. Windows has no way to
    flush a folder; there the new name may be lost, and the old file is found.
Whole: every byte of a file is covered by a checksum or a check; damage is refused, not read. That is no protection
    against somebody who edits a file on purpose.
Threads: both functions may be called from any thread. Of two that write the same path, the later to end wins.

The layout is written down in ``docs/formats/state.md``.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from asynchub.codec.decoder import OnUnknown, loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.errors import ArgumentError, CorruptStateError, LimitExceededError, UnknownTypeError

if sys.platform != "win32":
    import fcntl

__all__ = (
    "MAGIC",
    "flush",
    "flush_folder",
    "make_folder",
    "read_state",
    "remove_orphans",
    "replace_file",
    "write_all",
    "write_state",
)

MAGIC = b"\x89AHC\r\n\x1a\n"
MAJOR, MINOR = 1, 0
_HEADER = struct.Struct("<8sHHIQI")
_CHECKSUM = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CHECKSUM.size
_PIECE = 2**20
"""Bytes given to one write, between which an interrupt is heard."""
_ORPHAN_AGE = 60.0
"""Seconds since its last change after which a temporary file may be an orphan."""
_FOREIGN = (
    (b"\x89AHS", "a snapshot of asynchub"),
    (b"\x89AHJ", "a journal of asynchub"),
    (b"\x89PNG", "a PNG image"),
    (b"PK\x03\x04", "a zip file, as torch.save writes"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"{", "JSON"),
)


def write_state(path: str | PathLike[str], tree: Any, *, registry: Registry | None = None, sync: bool = True) -> None:
    """Write ``tree`` to a file, atomically.

    Blocks until the disk has it. The mode of the file is 0666 without the bits of the umask, and a symbolic link is
    followed.

    Args:
        path: the file; its folder is created.
        tree: what ``codec.dumps`` takes.
        registry: the classes that may occur in it beyond the built-in ones.
        sync: whether to wait until the data has reached the device. Without it, a power loss may leave neither the old
            file nor the new one.

    Raises:
        UnsupportedTypesError: values of the tree cannot be stored; each is named.
        ArgumentError: ``path`` names something that is no file.
        OSError: the disk said no; the old file is untouched. If only flushing the folder failed, the new file is there.
    """
    payload = dumps(tree, registry=registry)
    head = _HEADER.pack(MAGIC, MAJOR, MINOR, 0, len(payload), zlib.crc32(payload))

    def write(descriptor: int) -> None:
        write_all(descriptor, head + _CHECKSUM.pack(zlib.crc32(head)))
        write_all(descriptor, payload)

    replace_file(path, write, sync=sync)


def replace_file(path: str | PathLike[str], write: Callable[[int], None], *, sync: bool = True) -> None:
    """Replace a file by a new one, atomically; see ``write_state`` for what is promised.

    Args:
        path: the file; its folder is created.
        write: writes all that the new one is to hold to a file descriptor.
        sync: whether to wait until the data has reached the device.

    Raises:
        ArgumentError: ``path`` names something that is no file.
        OSError: the disk said no; the old file is untouched. If only flushing the folder failed, the new file is there.
        BaseException: whatever ``write`` raises; the old file is untouched.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ArgumentError(f"{target} is not a file; choose a path that is one or does not exist")
    make_folder(target.parent, sync)
    remove_orphans(target.parent, re.escape(_prefix(target)))
    temporary = target.with_name(f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            _lock(descriptor)
            write(descriptor)
            if sync:
                flush(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        flush_folder(target.parent)


def read_state(
    path: str | PathLike[str],
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    on_unknown: OnUnknown = "raise",
) -> Any:
    """Return the tree that ``write_state`` wrote to a file.

    Args:
        path: the file.
        limits: what reading may cost; None for the defaults of ``Limits``.
        registry: the classes that may occur beyond the built-in ones.
        on_unknown: what to do with a type that is not known here; see ``codec.loads``.

    Raises:
        FileNotFoundError: there is none.
        CorruptStateError: it is damaged, truncated or no state file.
        UnknownTypeError: a newer version wrote it, or it holds a type that is not known here.
        LimitExceededError: it asks for more than the limits allow.
    """
    limits = limits or Limits()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CorruptStateError(f"{os.fspath(path)}: wanted a state file, got something that is no file")
    with open(path, "rb") as file:
        head = file.read(HEADER_SIZE)
        size = os.fstat(file.fileno()).st_size - HEADER_SIZE
        minor, length, checksum = _checked_head(path, head)
        if length != size:
            raise CorruptStateError(
                f"{os.fspath(path)}: {length} bytes were written behind the header, {size} are there"
            )
        if length > limits.size:
            raise LimitExceededError(
                f"{os.fspath(path)}: {length} bytes, {limits.size} allowed; pass limits=Limits(size=...)"
            )
        payload = file.read(length)
    if len(payload) != length or zlib.crc32(payload) != checksum:
        raise CorruptStateError(f"{os.fspath(path)}: the checksum of the data is wrong: the file is damaged")
    try:
        return loads(payload, limits=limits, registry=registry, on_unknown=on_unknown)
    except UnknownTypeError as error:
        if minor > MINOR:
            error.add_note(f"{os.fspath(path)} is of format {MAJOR}.{minor}; this version reads {MAJOR}.{MINOR}")
        raise


def _checked_head(path: str | PathLike[str], head: bytes) -> tuple[int, int, int]:
    """Return the minor version, the length of the data and its checksum."""
    name = os.fspath(path)
    if not head:
        raise CorruptStateError(f"{name}: wanted a state file, got an empty one")
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        known = next((kind for start, kind in _FOREIGN if head.startswith(start)), "something else")
        raise CorruptStateError(f"{name}: wanted a state file of asynchub, which begins with {MAGIC!r}; got {known}")
    if len(head) < HEADER_SIZE:
        raise CorruptStateError(f"{name}: {len(head)} bytes are not even a header: the file is truncated")
    if zlib.crc32(head[: _HEADER.size]) != _CHECKSUM.unpack_from(head, _HEADER.size)[0]:
        raise CorruptStateError(f"{name}: the checksum of the header is wrong: the file is damaged")
    _, major, minor, flags, length, checksum = _HEADER.unpack_from(head)
    if major > MAJOR or flags:
        raise UnknownTypeError(
            f"{name}: written by a newer version of asynchub, in format {major}.{minor} with flags {flags:#x}; "
            f"this version reads {MAJOR}.x without flags; update asynchub"
        )
    if major < MAJOR:
        raise CorruptStateError(f"{name}: there is no format {major}.{minor}")
    return minor, length, checksum


# --- the disk


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` to a file descriptor."""
    rest = memoryview(data)
    while rest:  # a write may be short
        written = os.write(descriptor, rest[:_PIECE])
        rest = rest[written:]


def flush(descriptor: int) -> None:
    """Wait until the device has what was written; a failure is final, as the data may be gone from the cache."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync there does not empty the cache of the device
            return
        except OSError:
            os.fsync(descriptor)  # a file system without it
    else:
        os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the device has the names in a folder; on Windows there is no way to."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, sync: bool) -> None:
    """Create a folder and those above it, and flush the names of the new ones."""
    missing = []
    for parent in (folder, *folder.parents):
        if parent.exists():
            break
        missing.append(parent)
    folder.mkdir(parents=True, exist_ok=True)
    if sync:
        for made in missing:
            flush_folder(made.parent)


# --- temporary files


def _prefix(target: Path) -> str:
    """Return what the temporary files for a path begin with; short, as a name has at most 255 bytes."""
    return f".{target.name[:40]}."


def _lock(descriptor: int) -> bool:
    """Lock a file against other processes for as long as it is open, if the system can; return whether it is."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or no locks on this file system
        return False
    return True


def remove_orphans(folder: Path, prefix: str) -> None:
    """Remove the temporary files that killed processes left for paths in a folder.

    Those that are old and that nobody holds a lock on. A process that still writes holds one, on whatever machine it
    runs.

    Args:
        folder: the folder.
        prefix: a regular expression of what their names begin with: a dot, the name of the path, and a dot.
    """
    pattern = re.compile(prefix + r"\d+-[0-9a-f]{16}\.tmp")
    with os.scandir(folder) as entries:
        names = [entry.path for entry in entries if pattern.fullmatch(entry.name)]
    for name in names:
        with suppress(OSError):  # gone, somebody else's, or, on Windows, still open
            if time.time() - os.stat(name).st_mtime >= _ORPHAN_AGE:
                _remove_unless_held(name)


def _remove_unless_held(name: str) -> None:
    if sys.platform == "win32":  # which refuses to remove a file that is open
        os.unlink(name)
        return
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if _lock(descriptor):
            os.unlink(name)
    finally:
        os.close(descriptor)
