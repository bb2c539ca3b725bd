"""Plain msgpack: packing what has been converted, and writing large data without a copy on the way."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgpack

from asynchub.codec.codes import MAX_LEAF

__all__ = ("Bulk", "bin_header", "list_header", "pack", "step")

_SMALL_BUFFER = 4096
"""Bytes; the buffer of a packer grows by itself."""


def pack(tree: Any) -> bytes:
    """Return ``tree``, of plain msgpack types only, as msgpack."""
    packed: bytes = msgpack.Packer(strict_types=True, buf_size=_SMALL_BUFFER).pack(tree)
    return packed


class Bulk(NamedTuple):
    """The list ``[*before, data, *after]``, with data in plenty."""

    before: list[Any]
    data: bytes | memoryview
    after: list[Any]

    def packed(self) -> bytes:
        """Return the list as msgpack; ``data`` is copied once."""
        before, after = (pack(part)[1:] for part in (self.before, self.after))  # without the header of a short list
        length = len(self.before) + 1 + len(self.after)
        return b"".join((list_header(length), before, bin_header(self.data), self.data, after))


def list_header(length: int) -> bytes:
    """Return what stands before the items of a list."""
    if length < 16:
        return bytes((0x90 | length,))
    return struct.pack(">BH", 0xDC, length) if length < 2**16 else struct.pack(">BI", 0xDD, length)


def bin_header(data: bytes | memoryview) -> bytes:
    """Return what stands before bytes.

    Raises:
        ValueError: there are more than ``MAX_LEAF``.
    """
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > MAX_LEAF:
        raise ValueError(f"{size} bytes do not fit into one value")
    if size < 2**8:
        return struct.pack(">BB", 0xC4, size)
    return struct.pack(">BH", 0xC5, size) if size < 2**16 else struct.pack(">BI", 0xC6, size)


def step(key: object) -> str:
    """Return the part of a path that leads to the value under ``key``: ``.cfg``, ``['train/loss']``, ``[3]``."""
    if type(key) is str and key.isidentifier():
        return f".{key}"
    try:
        shown = repr(key)
    except Exception:  # of a foreign class, or of an int too long to be shown
        shown = f"<{type(key).__name__}>"
    return f"[{shown if len(shown) <= 80 else shown[:77] + '...'}]"
