"""Parcels: what a child process sends to its parent, over a socket between the two.

Layout: a head of 16 bytes, little-endian: ``b"AHC"``, the version, how long the body is, the checksum of the body, the
    checksum of the head so far; then the body, a msgpack map.
Damage: a body that its checksum does not fit, or that is nothing known, is left out, and what follows is read. Behind a
    head that is damaged, or of another version, or that asks for too much, nothing can be found any more.
Threads: a ``Reader`` is for one at a time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from asynchub.batches import Batch, decode_batch, encode_batch
from asynchub.errors import CorruptStateError, LimitExceededError, StateError, UnknownTypeError

__all__ = ("MAX_BODY", "Greeting", "Parcel", "Reader", "encode_greeting", "encode_parcel")

MAGIC = b"AHC"
VERSION = 1
MAX_BODY = 2**22
"""Bytes of a body, at most."""
_HEAD = struct.Struct("<3sBIII")
_CHECKED = _HEAD.size - 4
"""Bytes of a head that its own checksum covers."""


class Greeting(NamedTuple):
    """What a child says first.

    Attributes:
        pid: its process.
        worker: what it is: the number of a loader's worker, or the name of the process.
    """

    pid: int
    worker: str


class Parcel(NamedTuple):
    """Events of a child, in order.

    Attributes:
        batch: the events.
        lost: how many before them were lost, since the last parcel.
    """

    batch: Batch
    lost: int


def encode_greeting(greeting: Greeting) -> bytes:
    """Return a greeting as bytes."""
    return _sealed(greeting._asdict())


def encode_parcel(parcel: Parcel) -> bytes:
    """Return a parcel as bytes.

    Raises:
        LimitExceededError: it is too long to be sent.
    """
    return _sealed({"batch": encode_batch(parcel.batch), "lost": parcel.lost})


def _sealed(fields: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    if len(body) > MAX_BODY:
        raise LimitExceededError(f"a parcel takes {len(body)} bytes, {MAX_BODY} are allowed: send fewer events in one")
    head = _HEAD.pack(MAGIC, VERSION, len(body), zlib.crc32(body), 0)[:_CHECKED]
    return head + zlib.crc32(head).to_bytes(4, "little") + body


class Reader:
    """Finds parcels in the bytes of a connection, as they come."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    @property
    def amid(self) -> int:
        """How many bytes there are of a parcel that is not whole yet."""
        return len(self._bytes)

    def feed(self, data: bytes) -> Iterator[Greeting | Parcel | StateError]:
        """Take in bytes; yield what is whole by now, or for each parcel that is left out, why.

        Raises:
            StateError: nothing can be found any more.
        """
        self._bytes += data
        while len(self._bytes) >= _HEAD.size:
            length, checksum = _checked_head(self._bytes)
            end = _HEAD.size + length
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[_HEAD.size : end])
            del self._bytes[:end]
            try:
                yield _opened(body, checksum)
            except StateError as error:
                yield error


def _checked_head(data: bytearray) -> tuple[int, int]:
    """Return how long the body behind a head is, and its checksum."""
    magic, version, length, checksum, own = _HEAD.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[:_CHECKED]) != own:
        raise CorruptStateError(f"a parcel begins with {MAGIC!r} and has a head, got {bytes(data[: _HEAD.size])!r}")
    if version != VERSION:
        raise UnknownTypeError(f"a parcel is of version {version}, this process knows {VERSION}")
    if length > MAX_BODY:
        raise LimitExceededError(f"a parcel takes {length} bytes, {MAX_BODY} are allowed")
    return length, checksum


def _opened(body: bytes, checksum: int) -> Greeting | Parcel:
    if zlib.crc32(body) != checksum:
        raise CorruptStateError("a parcel is damaged: its checksum is not that of its bytes")
    try:
        fields: Any = msgpack.unpackb(body, strict_map_key=True, unicode_errors="surrogatepass")
        if "pid" in fields:
            return Greeting(_whole(fields["pid"]), _text(fields["worker"]))
        return Parcel(decode_batch(fields["batch"]), _whole(fields["lost"]))
    except (StateError, MemoryError, RecursionError):
        raise
    except Exception as error:  # no list of what foreign data can raise is ever complete
        raise CorruptStateError(f"a parcel is damaged: {type(error).__name__}: {error}") from error


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**63:
        raise CorruptStateError(f"a parcel has a number from 0 on, got {number!r:.80}")
    return number


def _text(text: Any) -> str:
    if type(text) is not str:
        raise CorruptStateError(f"a parcel has a text, got {text!r:.80}")
    return text
