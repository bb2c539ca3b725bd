"""Frames: what a bridge sends of a hub's events, some at a time; the layout is in ``docs/formats/frames.md``.

Whole: a checksum covers every byte. What a newer version has added to the header is passed over.
Order: the frames of one epoch, one life of a process of a rank, are numbered 1, 2, 3, ...; each says how many events
    there were before it, so that a reader knows what it has missed.
Threads: no state is shared; any thread may call anything here.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import msgpack

from asynchub.batches import Batch, decode_batch, encode_batch
from asynchub.errors import CorruptStateError, StateError, UnknownTypeError

__all__ = ("BASE", "END", "EVENTS", "MAGIC", "SNAPSHOT", "Frame", "decode_frame", "encode_frame")

MAGIC = b"AHF"
VERSION = 1
_HEAD = struct.Struct("<3sBI")
EVENTS, BASE, SNAPSHOT, END = "events", "base", "snapshot", "end"
"""What a frame holds: events in their order; the newest value of each key, when an epoch began or up to a frame; or
nothing, as the last of an epoch that was ended well."""
MAX_RANK = 2**31
MAX_NUMBER = 2**63


class Frame(NamedTuple):
    """Events of one rank, and where they belong.

    Attributes:
        kind: what it holds: ``EVENTS``, ``BASE``, ``SNAPSHOT`` or ``END``.
        run: name of the run.
        run_id: identity of the rank's hub: 32 hexadecimal digits; a resumed one keeps it.
        rank: the rank, from 0.
        world: how many ranks there are.
        epoch: which life of the rank's process: when that began, in nanoseconds since the epoch of time.
        number: of the frame, from 1; of a snapshot, up to which frame it reaches.
        first: number of the first of the frames that were merged into it; ``number``, if none were.
        before: how many events the frames before it stood for.
        size: how many events it stands for.
        left_out: how many of them are not in it: thinned out, or lost, because the spool was full.
        after_seq: of the rank's hub; what came up to there is in earlier frames, or is what an epoch goes on from.
        upto_seq: of the rank's hub; all up to there is in it or in earlier ones.
        time: when it was made, by the rank's clock, in seconds since the epoch of time.
        step: the rank's step then.
        batch: the events.
        position: of a snapshot, where in the broker's log the frame is up to which it reaches.
        part: of a snapshot or a base, which part of it this is, from 0.
        parts: of a snapshot or a base, how many there are.
    """

    kind: str
    run: str
    run_id: str
    rank: int
    world: int
    epoch: int
    number: int
    first: int
    before: int
    size: int
    left_out: int
    after_seq: int
    upto_seq: int
    time: float
    step: int
    batch: Batch
    position: int = 0
    part: int = 0
    parts: int = 1

    @property
    def message_id(self) -> str:
        """Identity of the frame among all of the run."""
        return f"{self.rank}/{self.epoch}/{self.number}"


_WHOLE = ("rank", "world", "epoch", "number", "first", "before", "size", "left_out", "after_seq", "upto_seq", "step")
_OPTIONAL = ("position", "part", "parts")


def encode_frame(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    fields = frame._asdict()
    fields["batch"] = encode_batch(frame.batch)
    body: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    return _HEAD.pack(MAGIC, VERSION, zlib.crc32(body)) + body


def decode_frame(data: bytes) -> Frame:
    """Return the frame that ``encode_frame`` made bytes of.

    Raises:
        UnknownTypeError: it is of a version to come.
        CorruptStateError: it is damaged, truncated, or something else.
        LimitExceededError: it asks for more than a frame may hold.
    """
    if len(data) < _HEAD.size or data[:3] != MAGIC:
        raise CorruptStateError(f"a frame begins with {MAGIC!r} and has a header, got {bytes(data[:12])!r}")
    _, version, checksum = _HEAD.unpack_from(data)
    if version != VERSION:
        raise UnknownTypeError(f"frame is of version {version}, this reader knows {VERSION}: upgrade asynchub")
    body = data[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise CorruptStateError("a frame is damaged: its checksum is not that of its bytes")
    try:
        fields: Any = msgpack.unpackb(body, strict_map_key=True, unicode_errors="surrogatepass")
        return _checked(fields)
    except (StateError, MemoryError, RecursionError):
        raise
    except Exception as error:  # no list of what foreign data can raise is ever complete
        raise CorruptStateError(f"a frame is damaged: {type(error).__name__}: {error}") from error


def _checked(fields: dict[str, Any]) -> Frame:
    known = {name: fields[name] for name in Frame._fields if name in fields}
    for name in (*_WHOLE, *(name for name in _OPTIONAL if name in known)):
        if type(known[name]) is not int or not -1 <= known[name] < MAX_NUMBER:
            raise CorruptStateError(f"{name} of a frame is an int, got {known[name]!r:.80}")
    for name in ("kind", "run", "run_id"):
        if type(known[name]) is not str:
            raise CorruptStateError(f"{name} of a frame is a string, got {known[name]!r:.80}")
    if type(known["time"]) is not float:
        raise CorruptStateError(f"the time of a frame is a float, got {known['time']!r:.80}")
    if not 0 <= known["rank"] < MAX_RANK or not 0 <= known["left_out"] <= known["size"]:
        raise CorruptStateError("a frame has a rank from 0 on, and leaves out no more than it stands for")
    frame = Frame(**{**known, "batch": decode_batch(known["batch"])})
    last_seq = frame.batch.seqs[1]
    if not 0 <= frame.first <= frame.number or last_seq > frame.upto_seq:
        raise CorruptStateError("the numbers of a frame contradict each other")
    return frame
