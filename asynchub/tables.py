"""Tables for a terminal: as wide as they need to be; columns that matter less go first where there is no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("Column", "cut", "table_lines")

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        head: what stands above it.
        cells: what stands in it, row by row; at least one.
        rank: the columns of the largest rank go first where there is no room; those of 0 never go.
        text: whether it is text, which stands on the left, and is cut where there is no room.
        least: characters of a text that are worth a column.
    """

    head: str
    cells: Sequence[str]
    rank: int = 0
    text: bool = False
    least: int = 12

    @property
    def width(self) -> int:
        """Characters that it needs to be shown whole."""
        return max(len(self.head), *(len(cell) for cell in self.cells))

    @property
    def needed(self) -> int:
        """Characters that it must have."""
        return min(self.width, max(self.least, len(self.head))) if self.text else self.width


def table_lines(columns: Sequence[Column], width: int) -> list[str]:
    """Return a table, a line for the heads and one for each row.

    Args:
        columns: they have as many cells each; one without a head and with nothing in it is left out.
        width: characters that a line may have, if that can be kept.
    """
    shown = [column for column in columns if column.head or any(column.cells)]
    while _room(shown, width) < 0 and any(column.rank for column in shown):
        shown.remove(max(shown, key=lambda column: column.rank))
    room = max(_room(shown, width), 0)
    lines: list[list[str]] = []
    for column in shown:
        size = column.needed
        if column.text:
            size += min(column.width - size, room)
            room -= size - column.needed
        cells = [cut(cell, size) if column.text else cell for cell in (column.head, *column.cells)]
        lines.append([cell.ljust(size) if column.text else cell.rjust(size) for cell in cells])
    return [GAP.join(line).rstrip() for line in zip(*lines, strict=True)]


def _room(columns: Sequence[Column], width: int) -> int:
    return width - sum(column.needed + len(GAP) for column in columns) + len(GAP)


def cut(text: str, width: int) -> str:
    """Return the beginning of ``text``, with dots at its end if it is longer than ``width``."""
    return text if len(text) <= width else f"{text[: max(width - 3, 0)]}..."
