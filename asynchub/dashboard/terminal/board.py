"""A widget of ready lines, of which only those that changed are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from asynchub.dashboard.terminal.layout import Rect

try:
    from rich.segment import Segment
    from textual.geometry import Region
    from textual.strip import Strip
    from textual.widget import Widget
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("Block", "Board")

Block = tuple[Rect, Sequence[Strip]]
"""A part of the terminal, and its lines."""


class Board(Widget, can_focus=True):
    """Shows blocks, which do not overlap.

    Attributes:
        drawn: how many lines of blocks were drawn again so far.
    """

    DEFAULT_CSS = "Board { width: 1fr; height: 1fr; background: transparent; }"

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0
        self._blocks: list[Block] = []
        self._rows: dict[int, list[tuple[int, Strip]]] = {}

    def put(self, blocks: Sequence[Block]) -> None:
        """Show blocks in place of those before."""
        before, self._blocks = self._blocks, list(blocks)
        if [rect for rect, _ in before] != [rect for rect, _ in self._blocks]:
            changed = [Region(0, 0, *self.size)]
            self.drawn += sum(len(lines) for _, lines in self._blocks)
        else:
            changed = [
                Region(rect.x, rect.y + row, rect.width, 1)
                for (rect, lines), (_, others) in zip(self._blocks, before, strict=True)
                for row, line in enumerate(lines)
                if row >= len(others) or (line is not others[row] and line != others[row])
            ]
            self.drawn += len(changed)
        if changed:
            self._rows = {}
            for rect, lines in self._blocks:
                for row, line in enumerate(lines[: rect.height]):
                    self._rows.setdefault(rect.y + row, []).append((rect.x, line))
            self.refresh(*changed)

    def text(self) -> str:
        """Return what is shown, without its colours."""
        return "\n".join(self.render_line(row).text.rstrip() for row in range(self.size.height))

    def render_line(self, y: int) -> Strip:
        """Return a line of the widget."""
        width = self.size.width
        strips: list[Strip] = []
        at = 0
        for x, line in sorted(self._rows.get(y, ()), key=lambda part: part[0]):
            if x > at:
                strips.append(Strip([Segment(" " * (x - at))], x - at))
            strips.append(line)
            at = x + line.cell_length
        return Strip.join(strips).adjust_cell_length(width)
