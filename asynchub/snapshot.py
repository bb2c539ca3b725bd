"""Snapshot files: a tree of values and long columns of numbers in one file, replaced atomically.

Cheap: columns are written in chunks of 65,536 values, each in the shortest of the codes of ``asynchub.columns`` that
    holds it bit for bit, and the data of arrays in the tree in pieces of 512 KiB. Writing takes about a megabyte of
    memory, whatever their length, and a copy of an array that is not contiguous; reading takes what is read.
Whole: every byte is covered by a checksum or must be zero, and no byte is without an owner: damage is refused, not
    read. That is no protection against somebody who edits a file on purpose.
Atomic, durable: as ``asynchub.statefile``.
Threads: both functions may be called from any thread.

The layout is written down in ``docs/formats/snapshot.md``.
"""

from __future__ import annotations

import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asynchub.chunks import PIECE, Blob, BlobReader, ChunkWriter, gap, read_chunk
from asynchub.codec.decoder import GetBlob, OnUnknown, loads
from asynchub.codec.encoder import dumps
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.columns import CONSTANT, NUMBERS, PROGRESSION, Array, decode_column, encode_column
from asynchub.errors import ArgumentError, CorruptStateError, LimitExceededError, StateError, UnknownTypeError
from asynchub.statefile import replace_file, write_all

__all__ = ("MAGIC", "Put", "SnapshotHead", "read_head", "read_snapshot", "read_whole", "write_snapshot")

Put = Callable[[Array], int]
"""Writes a column of shape ``(n,)``; returns its number."""
_Column = tuple[str, int, list[list[int]]]
"""Its dtype, its length and its chunks: code, length and checksum of each."""
MAGIC = b"\x89AHS\r\n\x1a\n"
MAJOR, MINOR = 1, 0
CHUNK = 65_536
"""Values in a chunk; the last one of a column may have fewer."""
UNPAID = 2**30
"""Values of constant chunks and progressions that may have to be spelled out; all others take room in the file."""
BLOBS = 1
"""The incompatible feature that arrays of the tree are blobs."""
CRC32 = 0
"""Number of the only checksum so far."""
_HEAD = struct.Struct("<8sHHIII16sQB11s")
_TAIL = struct.Struct("<QQQIII")
_CHECKSUM = struct.Struct("<I")
HEAD_SIZE = _HEAD.size + _CHECKSUM.size
TAIL_SIZE = _TAIL.size + _CHECKSUM.size + len(MAGIC)


class SnapshotHead(NamedTuple):
    """What a file says about itself.

    Attributes:
        run_id: identity of the run, 32 hexadecimal digits; empty for none.
        seq: ``seq`` of the newest event that it holds; None if its writer did not say.
        written: when it was written, in nanoseconds since the epoch.
    """

    run_id: str
    seq: int | None
    written: int


def write_snapshot(
    path: str | PathLike[str],
    tree: Callable[[Put], Any],
    *,
    registry: Registry | None = None,
    sync: bool = True,
    run_id: str = "",
    seq: int | None = None,
) -> None:
    """Write a file, atomically. Blocks until the disk has it.

    Args:
        path: the file; its folder is created.
        tree: called once; writes columns with the function that it is given, and returns the tree, which holds their
            numbers wherever it likes.
        registry: the classes that may occur in the tree beyond the built-in ones.
        sync: whether to wait until the data has reached the device.
        run_id: identity of the run, 32 hexadecimal digits; empty for none.
        seq: ``seq`` of the newest event that the tree holds; None if it is not of a hub.

    Raises:
        UnsupportedTypesError: values of the tree cannot be stored; each is named.
        UnsupportedTypeError: a column has a dtype that has no stored form.
        ArgumentError: ``path`` names something that is no file.
        OSError: the disk said no; the old file is untouched. If only flushing the folder failed, the new file is there.
    """

    written = time.time_ns()

    def write(descriptor: int) -> None:
        write_all(descriptor, _head(run_id, written, 0))
        chunks = ChunkWriter(descriptor, HEAD_SIZE)
        columns: list[list[Any]] = []
        blobs: list[list[Any]] = []

        def put(column: Array) -> int:
            if blobs:
                raise ArgumentError("columns are written before tree() returns, not while its values are encoded")
            described = []
            for start in range(0, len(column), CHUNK):
                code, _, _, payload = encode_column(column[start : start + CHUNK], progressions=True)
                described.append([code, len(payload), chunks.write(payload)])
            columns.append([column.dtype.str, len(column), described])
            return len(columns) - 1

        def put_blob(data: bytes | memoryview) -> int:
            blobs.append([len(data), chunks.write_blob(data)])
            return len(blobs) - 1

        # the lists stand behind the tree, so that they are complete when their turn comes
        about = {} if seq is None else {"seq": seq}
        document = {**about, "tree": tree(put), "columns": columns, "blobs": blobs}
        manifest = dumps(document, registry=registry, put_blob=put_blob)
        write_all(descriptor, manifest)
        size = chunks.end + len(manifest) + TAIL_SIZE
        tail = _TAIL.pack(chunks.end, len(manifest), size, zlib.crc32(manifest), 0, 0)
        write_all(descriptor, tail + _CHECKSUM.pack(zlib.crc32(tail)) + MAGIC)
        if blobs:
            os.lseek(descriptor, 0, os.SEEK_SET)
            write_all(descriptor, _head(run_id, written, BLOBS))

    replace_file(path, write, sync=sync)


def _head(run_id: str, written: int, incompatible: int) -> bytes:
    """Return the head of a file of a run that was written at that time, in ns since the epoch, with those features."""
    run = bytes.fromhex(run_id) if run_id else bytes(16)
    head = _HEAD.pack(MAGIC, MAJOR, MINOR, incompatible, 0, 0, run, written, CRC32, bytes(11))
    return head + _CHECKSUM.pack(zlib.crc32(head))


def read_snapshot(
    path: str | PathLike[str],
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    on_unknown: OnUnknown = "raise",
) -> tuple[Any, list[Array]]:
    """Return the tree that ``write_snapshot`` wrote to a file, and its columns.

    Args:
        path: the file.
        limits: what reading may cost; None for the defaults of ``Limits``. ``size`` is that of the manifest and of all
            arrays outside of it.
        registry: the classes that may occur beyond the built-in ones.
        on_unknown: what to do with a type that is not known here, as ``codec.loads``. One that holds arrays which are
            outside of the manifest cannot be kept.

    Raises:
        FileNotFoundError: there is none.
        CorruptStateError: it is damaged, truncated or no snapshot.
        UnknownTypeError: a newer version wrote it, or it holds a type that is not known here.
        LimitExceededError: it asks for more than the limits allow.
    """
    return read_whole(path, limits=limits, registry=registry, on_unknown=on_unknown)[1:]


def read_whole(
    path: str | PathLike[str],
    *,
    limits: Limits | None = None,
    registry: Registry | None = None,
    on_unknown: OnUnknown = "raise",
) -> tuple[SnapshotHead, Any, list[Array]]:
    """Return what a file says about itself, its tree and its columns; see ``read_snapshot``."""
    with _opened(path) as file:
        blobs = BlobReader(file)
        head, tree, columns = _read_manifest(file, limits or Limits(), registry, on_unknown, blobs, blobs.take)
        if blobs.left:
            if on_unknown == "keep":
                raise UnknownTypeError("arrays belong to nothing that is known here; what holds arrays cannot be kept")
            raise CorruptStateError(f"{blobs.left} blobs belong to nothing in the tree")
        return head, tree, _read_columns(file, columns)


def read_head(path: str | PathLike[str], *, limits: Limits | None = None) -> SnapshotHead:
    """Return what a file says about itself. Checks head, manifest and tail; leaves columns and blobs alone.

    Raises:
        StateError: as ``read_snapshot``, but not for a type that is not known here.
        FileNotFoundError: there is none.
    """
    with _opened(path) as file:
        return _read_manifest(file, limits or Limits(), None, "keep", BlobReader(file), _unread)[0]


def _unread(number: int, size: int) -> NDArray[np.uint8]:
    """Stand for the blob of that number and size; nothing looks at it."""
    return np.empty(size, np.uint8)


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[BufferedReader]:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CorruptStateError(f"{os.fspath(path)}: wanted a snapshot, got something that is no file")
    with _named(path), open(path, "rb") as file:
        yield file


def _read_manifest(
    file: BufferedReader,
    limits: Limits,
    registry: Registry | None,
    on_unknown: OnUnknown,
    blobs: BlobReader,
    get_blob: GetBlob,
) -> tuple[SnapshotHead, Any, list[_Column]]:
    """Return what a file says about itself, its tree, and its columns as they are described."""
    run_id, written, features = _checked_head(file.read(HEAD_SIZE))
    start, length, checksum = _read_tail(file)
    if length > limits.size:
        raise LimitExceededError(f"the manifest has {length} bytes, at most {limits.size} are allowed")
    file.seek(start)
    manifest = file.read(length)
    if zlib.crc32(manifest) != checksum:
        raise CorruptStateError("the checksum of the manifest is wrong: the file is damaged")
    columns: list[_Column] = []

    def described(document: Any) -> GetBlob:
        if type(document) is not dict or not {"tree", "columns"} <= document.keys():
            raise CorruptStateError(f"a manifest has a tree and columns, got {document!r:.80}")
        place = _check_columns(document["columns"], columns, limits)
        found, place = _checked_blobs(document.get("blobs", []), place, limits.size - length)
        blobs.expect(found)
        if place != start:
            raise CorruptStateError(f"the chunks end at byte {place}, and the manifest begins at {start}")
        if found and not features & BLOBS:
            raise CorruptStateError("there are blobs, but the head does not say so")
        return get_blob

    document = loads(manifest, limits=limits, registry=registry, on_unknown=on_unknown, blobs=described)
    seq = document.get("seq")
    if seq is not None and type(seq) is not int:
        raise CorruptStateError(f"the seq of a manifest is an int, got {seq!r:.80}")
    return SnapshotHead(run_id, seq, written), document["tree"], columns


@contextmanager
def _named(path: str | PathLike[str]) -> Iterator[None]:
    """Put the name of the file in front of what is said about it."""
    try:
        yield
    except StateError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"{os.fspath(path)}: {error.args[0]}", *error.args[1:])
        raise


def _checked_head(head: bytes) -> tuple[str, int, int]:
    """Return the identity of the run, when the file was written, and its incompatible features."""
    if head[: len(MAGIC)] != MAGIC:
        raise CorruptStateError(f"wanted a snapshot of asynchub, which begins with {MAGIC!r}; got {head[:8]!r}")
    if len(head) < HEAD_SIZE:
        raise CorruptStateError(f"{len(head)} bytes are not even a head: the file is truncated")
    if zlib.crc32(head[: _HEAD.size]) != _CHECKSUM.unpack_from(head, _HEAD.size)[0]:
        raise CorruptStateError("the checksum of the head is wrong: the file is damaged")
    _, major, minor, incompatible, _, _, run, written, checksum, _ = _HEAD.unpack_from(head)
    if major > MAJOR or incompatible & ~BLOBS or checksum != CRC32:
        raise UnknownTypeError(
            f"written by a newer version of asynchub, in format {major}.{minor} with flags {incompatible:#x} and "
            f"checksum {checksum}; this version reads {MAJOR}.x with no flags but {BLOBS:#x}; update asynchub"
        )
    if major < MAJOR:
        raise CorruptStateError(f"there is no format {major}.{minor}")
    return run.hex() if any(run) else "", written, incompatible


def _read_tail(file: BufferedReader) -> tuple[int, int, int]:
    """Return where the manifest begins, its length and its checksum."""
    size = os.fstat(file.fileno()).st_size
    if size < HEAD_SIZE + TAIL_SIZE:
        raise CorruptStateError(f"{size} bytes are no whole snapshot: the file is truncated")
    file.seek(size - TAIL_SIZE)
    tail = file.read(TAIL_SIZE)
    start, length, written, checksum, *spare = _TAIL.unpack_from(tail)
    right = _CHECKSUM.unpack_from(tail, _TAIL.size)[0]
    if tail[-len(MAGIC) :] != MAGIC or zlib.crc32(tail[: _TAIL.size]) != right or any(spare):
        raise CorruptStateError("it does not end as a snapshot does: the file is truncated or damaged")
    if written != size or start < HEAD_SIZE or start + length + TAIL_SIZE != size:
        raise CorruptStateError(f"the file has {size} bytes, and its end says {written}: the file is damaged")
    return start, length, checksum


def _check_columns(columns: Any, checked: list[_Column], limits: Limits) -> int:
    """Add the columns of a manifest to those that are checked, if they are not too much; return where they end."""
    if type(columns) is not list:
        raise CorruptStateError(f"the columns of a manifest are a list, got {columns!r:.80}")
    place, unpaid = HEAD_SIZE, 0
    for column in columns:
        if type(column) is not list or list(map(type, column)) != [str, int, list]:
            raise CorruptStateError(f"a column of a manifest is [dtype, length, chunks], got {column!r:.80}")
        dtype, length, chunks = column
        if dtype not in NUMBERS and dtype != "|O":
            raise CorruptStateError(f"a column has the unknown dtype {dtype!r:.80}")
        if length < 0 or len(chunks) != -(-length // CHUNK):
            raise CorruptStateError(f"a column of {length} values has {len(chunks)} chunks of {CHUNK}")
        for chunk in chunks:
            if type(chunk) is not list or list(map(type, chunk)) != [int, int, int] or chunk[1] < 0:
                raise CorruptStateError(f"a chunk is [code, length, checksum], got {chunk!r:.80}")
            place += chunk[1] + gap(chunk[1])
        if not _takes_one_cell(chunks):
            unpaid += sum(chunk[0] in (CONSTANT, PROGRESSION) for chunk in chunks) * CHUNK
        checked.append((dtype, length, chunks))
    if unpaid > min(limits.elements, UNPAID):
        raise LimitExceededError(f"{unpaid} values take no room in the file, more than are allowed")
    return place


def _checked_blobs(blobs: Any, place: int, most: int) -> tuple[list[Blob], int]:
    """Return the blobs of a manifest, of which the first begins at ``place``, and where they end.

    Raises:
        CorruptStateError: they are malformed.
        LimitExceededError: they have more than ``most`` bytes.
    """
    if type(blobs) is not list:
        raise CorruptStateError(f"the blobs of a manifest are a list, got {blobs!r:.80}")
    checked = []
    for blob in blobs:
        if type(blob) is not list or list(map(type, blob)) != [int, list] or not set(map(type, blob[1])) <= {int}:
            raise CorruptStateError(f"a blob of a manifest is [length, checksums], got {blob!r:.80}")
        length, checksums = blob
        if length < 0 or len(checksums) != -(-length // PIECE):
            raise CorruptStateError(f"a blob of {length} bytes has {len(checksums)} pieces of {PIECE}")
        checked.append(Blob(place, length, checksums))
        place += length + gap(length)
    size = sum(blob.length for blob in checked)
    if size > most:
        raise LimitExceededError(f"{size} bytes of arrays; pass limits=Limits(size=...) to read them")
    return checked, place


def _takes_one_cell(chunks: list[list[int]]) -> bool:
    """Tell whether these chunks seem to hold the same value throughout."""
    return {code for code, _, _ in chunks} == {CONSTANT} and len({checksum for _, _, checksum in chunks}) == 1


def _read_columns(file: BufferedReader, columns: list[_Column]) -> list[Array]:
    """Return the columns of a file; one that is the same value throughout is all in one cell."""
    file.seek(HEAD_SIZE)
    unpaid = 0
    arrays = []
    for dtype, length, chunks in columns:
        parts = list(_parts(file, dtype, length, chunks))
        if not parts:
            arrays.append(np.empty(0, dtype))
        elif _takes_one_cell(chunks) and len({part[:1].tobytes() for part in parts}) == 1:
            arrays.append(np.broadcast_to(parts[0][:1], length))
        else:
            if _takes_one_cell(chunks):  # somebody took the trouble to find other bytes of the same checksum
                unpaid += length
                if unpaid > UNPAID:
                    raise LimitExceededError(f"{unpaid} values take no room in the file, more than are allowed")
            arrays.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return arrays


def _parts(file: BufferedReader, dtype: str, length: int, chunks: list[list[int]]) -> Iterator[Array]:
    """Yield what each chunk of the next column of a file holds."""
    for number, (code, size, checksum) in enumerate(chunks):
        count = min(CHUNK, length - number * CHUNK)
        chunk = [code, dtype, count, read_chunk(file, size, checksum)]
        yield decode_column(chunk, max_length=CHUNK, writable=False, progressions=True)
