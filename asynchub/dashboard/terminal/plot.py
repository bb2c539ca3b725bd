"""A chart as lines of a terminal: strokes and lines of its runs, the marks on them, and both axes.

True: what is cut off has its caret, what is not finite its mark and its count, as ``asynchub.dashboard.drawing`` says;
    a stroke's ends are dots of their own. See ``asynchub.dashboard.terminal.braille``.
Room: the marks stand in a line of their own above the curves, so that they cover none. Where they do not all fit, the
    signs stay, without their text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asynchub.columns import Array
from asynchub.dashboard.curves import Axis, Curve
from asynchub.dashboard.drawing import Drawing
from asynchub.dashboard.screen import Colour, Mark
from asynchub.dashboard.terminal.braille import COLUMNS, ROWS, Dots, Stroke, dots_of, merged
from asynchub.dashboard.terminal.look import ASCII_OF_DOTS, Look, narrow
from asynchub.dashboard.terminal.ticks import Tick, ticks_of, x_ticks

try:
    from rich.segment import Segment
    from rich.style import Style
    from textual.strip import Strip
except ImportError as error:
    raise ImportError("asynchub watch needs textual: python -m pip install 'asynchub[tui]'") from error

__all__ = ("MARK_SIGNS", "Span", "gutter", "plotted", "strokes_of")

MARK_SIGNS = {"acted": "▼", "suggested": "▽", "refused": "▽", "manual": "☻", "resumed": "↻", "failed": "✕"}
"""The sign of a decision: filled if it was done, hollow if not."""
BLANK = 0x2800
SPACE = ord(" ")


@dataclass(frozen=True, slots=True)
class Span:
    """What stands on the x axis.

    Attributes:
        axis: what it is.
        low: at the left edge.
        high: at the right edge, above ``low``.
    """

    axis: Axis
    low: float
    high: float

    def columns(self, x: Array, width: int) -> Array:
        """Return in which of ``width`` columns places are; -1 for one that is not finite, or not in it."""
        with np.errstate(all="ignore"):
            share = (np.asarray(x, np.float64) - self.low) / (self.high - self.low)
            inside = np.isfinite(share) & (share >= 0) & (share <= 1)
            return np.where(inside, np.minimum(np.where(inside, share, 0.0) * width, width - 1), -1).astype(np.int64)


def gutter(drawing: Drawing, rows: int, key: str = "") -> tuple[tuple[Tick, ...], int]:
    """Return what stands on the y axis, and how many columns that takes."""
    ticks = ticks_of(drawing.low, drawing.high, drawing.log, max(rows // 3, 2), key)
    return ticks, max((len(tick.text) for tick in ticks), default=0) + 1


def strokes_of(curve: Curve, drawing: Drawing, span: Span, rows: int, columns: int) -> list[Stroke]:
    """Return what is to be drawn of a curve, one part for each stretch in which ``x`` does not go back."""
    height, width = rows * ROWS, columns * COLUMNS
    buckets, x = curve.buckets, np.asarray(curve.x, np.float64)
    if not buckets.size:
        return []
    line = buckets.means if curve.smooth is None else curve.smooth
    line = np.where(np.isnan(line) & (buckets.weight == 0) & ~np.isnan(buckets.min), buckets.min, line)
    first = span.columns(np.maximum(x, span.low) if not curve.single else x, width)
    last = first
    if not curve.single and curve.axis == "step":
        last = np.maximum(span.columns(np.minimum(x + curve.width, span.high), width) - 1, first)
    which = np.repeat(np.arange(len(first)), last - first + 1)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(last - first + 1) - (last - first + 1), last - first + 1)
    column = np.where(first[which] < 0, -1, first[which] + offset)
    top, bottom = (_row(values, drawing, height)[which] for values in (buckets.max, buckets.min))
    middle = _row(line, drawing, height)[which]
    cuts = np.flatnonzero(np.diff(x[which]) < 0) + 1
    ends = [0, *cuts.tolist(), len(which)]
    return [Stroke(column[a:b], top[a:b], bottom[a:b], middle[a:b]) for a, b in pairwise(ends)]


def _row(values: Array, drawing: Drawing, height: int) -> Array:
    """Return in which row of dots values are, those beyond an edge at it; -1 for those that are not finite."""
    low, high = drawing.low, drawing.high
    with np.errstate(all="ignore"):
        if drawing.log:
            low, high = math.log(low), math.log(high)
            values = np.where(np.isnan(values), np.nan, np.log(np.maximum(values, 5e-324)))
        # Halves, so that a range from the smallest to the largest double is none that overflows.
        share = (high / 2 - values / 2) / (high / 2 - low / 2)
        row = np.clip(np.nan_to_num(share, nan=0.0) * height, 0, height - 1).astype(np.int64)
    return np.where(np.isnan(values), -1, row)


def plotted(
    curves: Mapping[str, Curve],
    drawing: Drawing,
    span: Span,
    marks: Sequence[tuple[Mark, float]],
    colours: Mapping[str, Colour],
    *,
    width: int,
    height: int,
    look: Look,
    trial: Sequence[tuple[Mark, float, Colour]] = (),
) -> tuple[Strip, ...]:
    """Return the lines of a chart: one of marks, the curves, one of the x axis.

    Args:
        curves: by the id of their run; the first lies on top.
        drawing: how they are drawn.
        span: what stands on the x axis.
        marks: decisions, and where each is on the x axis.
        colours: of the runs, by id.
        width: columns of the chart.
        height: its lines, at least 3.
        look: of the terminal.
        trial: what a rule that is tried would have decided, where, and the colour of the run.
    """
    rows = max(height - 2, 1)
    ticks, left = gutter(drawing, rows, next((curve.key for curve in curves.values()), ""))
    columns = max(width - left - 1, 1)
    painter = _Painter(rows, columns, look)
    painter.grid([tick.row(rows) for tick in ticks])
    painter.trial(trial, span)
    painter.decisions(marks, span)
    layers, owners = [], []
    for run, curve in curves.items():
        dash = colours[run].dash if len(curves) > 1 else 0
        parts = [dots_of(one, rows, columns, dash) for one in strokes_of(curve, drawing, span, rows, columns)]
        if parts:
            layers.append(_together(parts))
            owners.append(run)
    painter.curves(layers, [colours[run] for run in owners])
    painter.signs(drawing, span)
    return painter.lines(ticks, left, x_ticks(span.axis, span.low, span.high, columns))


def _together(parts: Sequence[Dots]) -> Dots:
    whole = parts[0]
    for part in parts[1:]:
        whole = Dots(*(one | other for one, other in zip(whole, part, strict=True)))
    return whole


class _Painter:
    """The letters of a chart, and the style of each."""

    def __init__(self, rows: int, columns: int, look: Look) -> None:
        self._rows, self._columns, self._look = rows, columns, look
        self._letters = np.full((rows + 1, columns), SPACE, np.uint32)  # the first row is that of the marks
        self._styles = np.zeros((rows + 1, columns), np.int16)
        self._table: list[Style | None] = [None]
        self._notes: list[tuple[int, str, str, Style, int]] = []  # column, sign, text, style, row

    def _style(self, style: Style) -> int:
        if style not in self._table:
            self._table.append(style)
        return self._table.index(style)

    def grid(self, rows: Sequence[int]) -> None:
        """Draw a faint line at each tick."""
        for row in rows:
            self._letters[row + 1] = ord(self._look.text("┈"))
            self._styles[row + 1] = self._style(self._look.style("grid"))

    def trial(self, marks: Sequence[tuple[Mark, float, Colour]], span: Span) -> None:
        """Draw a line down from where a rule would have decided; those at one place have that of the first run."""
        found: dict[int, list[tuple[Mark, Style]]] = {}
        for mark, x, colour in marks:
            if (column := self._column_of(x, span)) >= 0:
                found.setdefault(column, []).append((mark, self._look.run(colour, True)))
        for column, parts in found.items():
            mark, style = parts[0]
            self._down(column, mark, style)
            many = f"{len(parts)}\N{MULTIPLICATION SIGN} " if len(parts) > 1 else ""
            self._notes.append((column, MARK_SIGNS[mark.kind], f"{many}{mark.short}", style, 0))

    def decisions(self, marks: Sequence[tuple[Mark, float]], span: Span) -> None:
        """Draw a line down from each decision, below the sign that comes there."""
        quiet, plain, bad = (self._look.style(name) for name in ("frame", "plain", "bad"))
        for mark, x in marks:
            if (column := self._column_of(x, span)) >= 0:
                self._down(column, mark, quiet)
                style = bad if mark.kind in ("refused", "failed") else plain
                self._notes.append((column, MARK_SIGNS[mark.kind], mark.short, style, 0))

    def _column_of(self, x: float, span: Span) -> int:
        return int(span.columns(np.array([x]), self._columns)[0])

    def _down(self, column: int, mark: Mark, style: Style) -> None:
        self._letters[1:, column] = ord(self._look.text("┊" if mark.kind != "suggested" else "┆"))
        self._styles[1:, column] = self._style(style)

    def curves(self, layers: Sequence[Dots], colours: Sequence[Colour]) -> None:
        """Draw the curves, the first on top."""
        if not layers:
            return
        cells = merged(layers, self._rows, self._columns, self._look.colours and self._look.letters)
        there = cells.owner >= 0
        letters = cells.letters if self._look.letters else ASCII_OF_DOTS[cells.letters - BLANK]
        self._letters[1:][there] = letters[there]
        numbers = np.array(
            [
                [[self._style(self._look.run(colour, strong, under)) for strong in (False, True)] for colour in colours]
                for under in (None, *colours)
            ],
            np.int16,
        )
        strong, owner, under = (one[there].astype(np.int64) for one in (cells.strong, cells.owner, cells.under))
        self._styles[1:][there] = numbers[under + 1, owner, strong]

    def signs(self, drawing: Drawing, span: Span) -> None:
        """Draw the carets, and the marks of what is not finite; those below at the lower edge."""
        bad = self._look.style("bad")
        for gap in drawing.gaps:
            column = self._column(gap.x0, span)
            self._notes.append((column, gap.text[:1], gap.text[1:].strip(), bad, 0))
        for caret in drawing.carets:
            column = self._column(caret.x, span)
            self._notes.append((column, caret.text[:1], caret.text[1:].strip(), bad, 0 if caret.top else self._rows))
        for column, sign, _, style, row in self._notes:
            self._letters[row, column] = ord(self._look.text(sign))
            self._styles[row, column] = self._style(style)
        taken = {(row, column) for column, _, _, _, row in self._notes}
        for column, _, text, style, row in reversed(self._notes):  # what is wrong before what was decided
            self._beside(column, self._look.text(narrow(text)), style, row, taken)

    def _column(self, x: float, span: Span) -> int:
        return self._column_of(min(max(x, span.low), span.high), span)

    def _beside(self, column: int, text: str, style: Style, row: int, taken: set[tuple[int, int]]) -> None:
        """Write the text of a sign beside it, where that covers no other sign or text."""
        for start in (column + 1, column - len(text)):
            places = {(row, place) for place in range(start, start + len(text))}
            around = {(row, start - 1), (row, start + len(text))} - {(row, column)}
            if text and start >= 0 and start + len(text) <= self._columns and not (places | around) & taken:
                self._letters[row, start : start + len(text)] = np.frombuffer(text.encode("utf-32-le"), "<u4")
                self._styles[row, start : start + len(text)] = self._style(style)
                taken |= places
                return

    def lines(self, ticks: Sequence[Tick], left: int, below: Sequence[tuple[int, str]]) -> tuple[Strip, ...]:
        """Return all that as lines, with what stands on both axes."""
        quiet = self._look.style("quiet")
        labels = {tick.row(self._rows) + 1: tick.text for tick in reversed(ticks)}
        whole = self._letters.astype("<u4").tobytes().decode("utf-32-le")
        width = left + self._columns + 1
        strips = []
        for row in range(self._rows + 1):
            text = whole[row * self._columns : (row + 1) * self._columns]
            styles = self._styles[row]
            cuts = [0, *(np.flatnonzero(styles[1:] != styles[:-1]) + 1).tolist(), self._columns]
            segments = [Segment(self._look.text(labels.get(row, "")).rjust(left - 1) + " ", quiet)]
            segments += [Segment(text[a:b], self._table[styles[a]]) for a, b in pairwise(cuts)]
            strips.append(Strip([*segments, Segment(" ")], width))
        axis = [" "] * self._columns
        for column, text in below:
            axis[column : column + len(text)] = text
        strips.append(Strip([Segment(" " * left), Segment("".join(axis[: self._columns]), quiet), Segment(" ")], width))
        return tuple(strips)
