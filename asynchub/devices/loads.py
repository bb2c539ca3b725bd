"""Rows that are filled, and under way."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from asynchub.pending import Flight

__all__ = ("Load", "LoadedLane")


class Load(Flight):
    """A row with values.

    Attributes:
        lane: where the row belongs.
        row: the row, of the backend.
        stream: where all of its values come from.
        size: how many there are.
        due: whether it is to be shipped before the batch ends that it was begun in.
        shipped: whether it takes no more.
    """

    __slots__ = ("due", "lane", "row", "shipped", "size", "stream")

    def __init__(self, lane: LoadedLane, row: Any, stream: Any) -> None:
        super().__init__()
        self.lane = lane
        self.row = row
        self.stream = stream
        self.size = 0
        self.due = self.shipped = False


class LoadedLane:
    """The rows for values of one kind.

    Attributes:
        kind: the kind.
        open: the load that takes values now, or None.
        free: rows that are not in use.
        rows: how many there are.
    """

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.open: Load | None = None
        self.free: list[Any] = []
        self.rows = 0
