"""The end of a journal, in memory that the operating system shares with a file: it outlives the process.

What was put is there after ``kill -9``, without a system call; after a power failure it may be anything, and is found
to be. It is a place for what is not in a segment yet: two halves, of which one is filled while the other one is
written to a segment. Each time a half is begun it gets a new number, with which the checksums of its records begin:
what was in it before is no record.

Here is what it is made of; ``asynchub.journal.putting`` writes it, ``asynchub.journal.tailing`` reads it.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from zlib import crc32

__all__ = (
    "ALIGN",
    "BOOL",
    "CHECKSUM",
    "ENTRIES",
    "HALF_HEAD",
    "KIND_OF",
    "MAGIC",
    "NAME",
    "ONE",
    "RECORD",
    "SEQ",
    "SEQS",
    "SHIFT",
    "START",
    "TAIL_HEAD",
    "Record",
    "record_checksum",
)

NAME = "tail.mm"
MAGIC = b"\x89AHT\r\n\x1a\n"
START = 4096
"""Where the first half begins."""
TAIL_HEAD = struct.Struct("<8sHH16s8sQ")
CHECKSUM = struct.Struct("<I")
RECORD = struct.Struct("<II")
ONE = struct.Struct("<QQdqdqQ")
ENTRIES = {kind: struct.Struct(f"<dq{code}qQ") for kind, code in enumerate("dqq")}
SEQ = struct.Struct("<Q")
SEQS = struct.Struct("<QQ")
HALF_HEAD = SEQS.size + 8
"""Bytes of the head of a half: its number, the ``seq`` before it, and a checksum."""
FLOAT = 0
INT = 1
BOOL = 2
KIND_OF = {float: FLOAT, int: INT, bool: BOOL}
SHIFT = 28
"""Bits of the first word of a record that are its length; the others are its kind."""
ALIGN = 8


class Record(IntEnum):
    """What a record holds."""

    SCALARS = 1
    KEY = 2
    EVENT = 3
    GAP = 4


def record_checksum(word: int, body: bytes, seed: int) -> int:
    """Return the checksum of a record: of all of it, with zeros where the checksum is."""
    return crc32(body, crc32(RECORD.pack(word, 0), seed))
