"""The chunks of a snapshot: stretches of bytes, each with a checksum, that follow each other without a hole.

A chunk begins at a multiple of 64; zeros fill the file up to the next one. A blob is many bytes in a row, in pieces of
512 KiB of which the last may be shorter, each with a checksum of its own: so no step takes much memory, nor holds the
interpreter lock for long.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BufferedReader
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asynchub.errors import CorruptStateError
from asynchub.statefile import write_all

__all__ = ("PIECE", "Blob", "BlobReader", "ChunkWriter", "gap", "read_chunk")

ALIGN = 64
PIECE = 2**19
"""Bytes in a piece of a blob; a multiple of ``ALIGN``."""


def gap(end: int) -> int:
    """Return how many zeros follow what ends at byte ``end``."""
    return -end % ALIGN


class ChunkWriter:
    """Writes chunks to a file descriptor, from byte ``end`` of the file on; ``end`` is a multiple of ``ALIGN``."""

    def __init__(self, descriptor: int, end: int) -> None:
        self.end = end
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        """Write a chunk; return its checksum."""
        zeros = gap(len(data))
        write_all(self._descriptor, data)
        write_all(self._descriptor, bytes(zeros))
        self.end += len(data) + zeros
        return zlib.crc32(data)

    def write_blob(self, data: bytes | memoryview) -> list[int]:
        """Write a blob; return the checksums of its pieces."""
        # of each piece a copy, so that a thread that changes the data meanwhile cannot come between it and its checksum
        return [self.write(bytes(data[start : start + PIECE])) for start in range(0, len(data), PIECE)]


def read_chunk(file: BufferedReader, size: int, checksum: int) -> bytes:
    """Return the chunk of ``size`` bytes at which a file stands, which then stands at the next one.

    Raises:
        CorruptStateError: it is not what was written.
    """
    begin = file.tell()
    data = file.read(size)
    _check(data, size, checksum, file.read(gap(size)), begin)
    return data


def _check(data: bytes | memoryview, size: int, checksum: int, zeros: bytes, begin: int) -> None:
    if len(data) != size or zlib.crc32(data) != checksum or any(zeros):
        raise CorruptStateError(f"bytes {begin} to {begin + size} are not what was written: the file is damaged")


class Blob(NamedTuple):
    """Where a blob begins, its length and the checksums of its pieces."""

    begin: int
    length: int
    checksums: list[int]


class BlobReader:
    """The blobs of a file. Each can be had once: so what comes out of a file is not larger than the file."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._left: dict[int, Blob] = {}

    @property
    def left(self) -> int:
        """How many blobs nobody has taken."""
        return len(self._left)

    def expect(self, blobs: Sequence[Blob]) -> None:
        """Name the blobs of the file, in the order of their numbers."""
        self._left = dict(enumerate(blobs))

    def take(self, number: int, size: int) -> NDArray[np.uint8]:
        """Return the blob of that number, in memory of its own.

        Raises:
            CorruptStateError: it is not there, or taken, or not of that size, or not what was written.
        """
        blob = self._left.pop(number, None)
        if blob is None:
            raise CorruptStateError(f"blob {number} is named twice, or is not there")
        if blob.length != size:
            raise CorruptStateError(f"blob {number} has {blob.length} bytes where {size} are needed")
        data = np.empty(size, np.uint8)
        begin = blob.begin
        self._file.seek(begin)
        for checksum in blob.checksums:
            piece = data[begin - blob.begin :][:PIECE].data
            read = self._file.readinto(piece)
            _check(piece[:read], len(piece), checksum, self._file.read(gap(len(piece))), begin)
            begin += len(piece)
        return data
