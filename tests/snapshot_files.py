"""Snapshots and state files of any content, with right checksums."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from typing import Any

import msgpack

from asynchub.chunks import PIECE, gap
from asynchub.snapshot import HEAD_SIZE, MAGIC, TAIL_SIZE
from asynchub.statefile import HEADER_SIZE as STATE_HEAD_SIZE
from asynchub.statefile import MAGIC as STATE_MAGIC


def sealed(chunks: bytes, manifest: bytes, *, major: int = 1, flags: int = 0, kind: int = 0, start: int = -1) -> bytes:
    """Return a file of these parts, with right checksums."""
    head = struct.pack("<8sHHIII16sQB11s", MAGIC, major, 0, flags, 0, 0, bytes(16), 1, kind, bytes(11))
    head += struct.pack("<I", zlib.crc32(head))
    begin = len(head) + len(chunks) if start < 0 else start
    size = len(head) + len(chunks) + len(manifest) + TAIL_SIZE
    tail = struct.pack("<QQQIII", begin, len(manifest), size, zlib.crc32(manifest), 0, 0)
    return head + chunks + manifest + tail + struct.pack("<I", zlib.crc32(tail)) + MAGIC


def repaired(data: bytes) -> bytes:
    """Return what is nearest to ``data`` among the files whose lengths and checksums are right."""
    head, tail = bytearray(data[: HEAD_SIZE - 4].ljust(HEAD_SIZE - 4, b"\0")), bytearray(data[-TAIL_SIZE:])
    head[: len(MAGIC)] = MAGIC
    inner = data[HEAD_SIZE:-TAIL_SIZE]
    tail = tail.rjust(TAIL_SIZE, b"\0")
    start = struct.unpack_from("<Q", tail)[0]
    cut = min(max(start - HEAD_SIZE, 0), len(inner))
    chunks, manifest = inner[:cut], _rechecked(inner[:cut], inner[cut:])
    size = HEAD_SIZE + len(chunks) + len(manifest) + TAIL_SIZE
    struct.pack_into("<QQQI", tail, 0, HEAD_SIZE + cut, len(manifest), size, zlib.crc32(manifest))
    ends = [bytes(part) + struct.pack("<I", zlib.crc32(part)) for part in (head, tail[:36])]
    return ends[0] + chunks + manifest + ends[1] + MAGIC


def _rechecked(chunks: bytes, manifest: bytes) -> bytes:
    """Return a manifest with the checksums of these chunks, as far as it says where they are."""
    changed, place = False, 0

    def checksum(size: Any) -> int:
        nonlocal place
        begin, place = place, place + size + gap(size)
        return zlib.crc32(chunks[begin : begin + size])

    def put(numbers: list[Any], index: int, size: Any) -> None:
        nonlocal changed
        right = checksum(size)
        changed |= numbers[index] != right
        numbers[index] = right

    # a manifest that is none is left as it is, from the place on where it goes wrong
    with suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError):
        document = msgpack.unpackb(manifest, max_array_len=10_000, max_map_len=10_000)
        with suppress(ValueError, TypeError, LookupError, AttributeError):
            for _, _, described in document["columns"]:
                for chunk in described:
                    put(chunk, 2, chunk[1])
            for length, checksums in document.get("blobs", ()):
                for index in range(len(checksums)):
                    put(checksums, index, min(length - index * PIECE, PIECE))
        if changed:
            return bytes(msgpack.packb(document))
    return manifest


def repaired_state(data: bytes) -> bytes:
    """Return what is nearest to ``data`` among the state files whose lengths and checksums are right."""
    head, payload = data[:16].ljust(16, b"\0"), data[STATE_HEAD_SIZE:]
    head = STATE_MAGIC + head[len(STATE_MAGIC) :] + struct.pack("<QI", len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload
