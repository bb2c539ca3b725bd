"""What the tail of a journal is made of: a head, and two halves of records.

The layout is written down in ``docs/formats/journal.md``.
"""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = (
    "ALIGN",
    "BOOL",
    "CHECKSUM",
    "FLOAT",
    "HEAD",
    "INT",
    "LENGTH",
    "MAGIC",
    "NAME",
    "NUMBERS",
    "ONE",
    "RECORD",
    "SEQ",
    "SHIFT",
    "START",
    "RecordKind",
)

NAME = "tail.mm"
MAGIC = b"\x89AHT\r\n\x1a\n"
START = 4096
"""Where the first half begins."""
HEAD = struct.Struct("<8sHH16s8sQ")
"""Magic, version, identity of the run, a number of this session's own, and bytes of a half."""
CHECKSUM = struct.Struct("<I")
RECORD = struct.Struct("<II")
"""Kind and length, and checksum, of a record."""
ONE = struct.Struct("<IIQdqdqII")
"""A record of one scalar that is a float."""
FLOAT = 0
INT = 1
BOOL = 2
NUMBERS = {kind: struct.Struct(f"<dq{code}qII") for kind, code in enumerate("dqq")}
"""By the kind of its value, a scalar: time, step, value, count, number of its key, and kind."""
SEQ = struct.Struct("<Q")
"""What the body of each record begins with: ``seq`` of its first event."""
SHIFT = 28
"""Bits of the first word of a record that are its length; the others are its kind."""
LENGTH = (1 << SHIFT) - 1
ALIGN = 8


class RecordKind(IntEnum):
    """What a record holds."""

    SCALARS = 1
    KEY = 2
    EVENT = 3
