"""Blocks of packed buckets in a pyramid's file, each of one key and level, and the table that says where they are.

The layout is written down in ``docs/formats/pyramid.md``.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.buckets import Buckets
from asynchub.dashboard.packing import pack

__all__ = ("Block", "Blocks", "Table")

BLOCKS = np.dtype(
    {
        "names": ["id", "start", "rows", "size", "offset", "low", "high", "crc"],
        "formats": ["<u8", "<u8", "<u4", "<u4", "<u8", "<i8", "<i8", "<u4"],
        "offsets": [0, 8, 16, 20, 24, 32, 40, 48],
        "itemsize": 56,
    }
)
"""Of each block: key and level, how many buckets stay of those before, how many it has, its bytes, where they begin
in the body, the smallest and the largest step at which a bucket has its first value, and their checksum."""
BLOCK_ROWS = 2048
"""Buckets that a block may have."""
NONE = 2**63 - 1


class Block(NamedTuple):
    """One of ``BLOCKS``."""

    id: int
    start: int
    rows: int
    size: int
    offset: int
    low: int
    high: int
    crc: int


class Table(NamedTuple):
    """The blocks of a frame.

    Attributes:
        body: where its body begins.
        blocks: they, in the order of their ids.
        ids: these, close together, as they are searched each time.
    """

    body: int
    blocks: Array
    ids: Array

    @classmethod
    def of(cls, body: int, data: bytes) -> Table:
        """Return the table that a frame has as bytes."""
        blocks = np.frombuffer(data, BLOCKS)
        return cls(body, blocks, blocks["id"].astype(np.int64))

    def _span(self, owner: int, level: int) -> tuple[int, int]:
        wanted = _id(owner, level)
        start, stop = self.ids.searchsorted((wanted, wanted + 1)).tolist()
        return start, stop

    def end(self, owner: int, level: int) -> int | None:
        """Return how many buckets there are of a key and level up to here; None if this frame does not say."""
        start, stop = self._span(owner, level)
        if start == stop:
            return None
        last = Block(*self.blocks[stop - 1].item())
        return last.start + last.rows

    def named(self, owner: int, level: int) -> list[Block]:
        """Return the blocks of a key and level."""
        start, stop = self._span(owner, level)
        return [Block(*block) for block in self.blocks[start:stop].tolist()]


class Blocks:
    """Packed buckets, one after the other, and where each are."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._rows: list[tuple[int, ...]] = []
        self._offset = 0

    def add(self, owner: int, level: int, begins: int, rows: Buckets) -> None:
        """Add those of a key and level; ``begins`` is how many stay that were there before."""
        for start in range(0, max(rows.size, 1), BLOCK_ROWS):
            some = rows.take(slice(start, start + BLOCK_ROWS))
            data = pack(some) if some.size else b""
            steps = (int(some.first.min(initial=NONE)), int(some.first.max(initial=-NONE)))
            place = (len(data), self._offset, *steps, crc32(data))
            self._rows.append((_id(owner, level), begins + start, some.size, *place))
            self.parts.append(data)
            self._offset += len(data)

    def table(self) -> Array:
        """Return what says where they are, in the order of their ids."""
        return np.array(sorted(self._rows), BLOCKS)


def _id(owner: int, level: int) -> int:
    return owner * 16 + level
