"""Curves as dots of braille letters: of each bucket a stroke from its smallest to its largest value, and their mean.

Exact: a letter has 2 x 4 dots. In each column of dots those at both ends of what is drawn there are set, whatever lies
    over them, so that a lone value is seen at any width.
Clear: where the mean passes through a letter, the inside of strokes is left out of it, so that a line stands out from
    its range. Letters that a range fills have a ground instead of dots, if there are colours.
Cheap: a fixed number of NumPy calls for each curve, however many buckets it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asynchub.columns import Array

__all__ = ("COLUMNS", "ROWS", "Cells", "Dots", "Stroke", "dots_of", "letters_of", "merged")

ROWS, COLUMNS = 4, 2
"""Dots of a letter."""
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
"""What each dot of a letter adds to its number in Unicode, from U+2800 on."""
BLANK = 0x2800
DASHES: tuple[NDArray[np.bool_], ...] = (
    np.array([True]),
    np.array([True] * 6 + [False] * 4),
    np.array([True] * 2 + [False] * 3),
    np.array([True] * 6 + [False] * 2 + [True] * 2 + [False] * 2),
)
"""Which columns of a line are drawn, in turns: whole, dashed, dotted, dash and dot."""


class Stroke(NamedTuple):
    """What is to be drawn of a curve, in dots: columns from the left, rows from the top; of one length each.

    Attributes:
        column: of each stroke.
        top: the row of its upper end; below 0 for a stroke that is not drawn, where nothing is finite.
        bottom: the row of its lower end, at least ``top``.
        middle: the row of its mean; below 0 for none, where a line breaks off.
    """

    column: Array
    top: Array
    bottom: Array
    middle: Array


class Dots(NamedTuple):
    """The dots of a curve, of shape ``(4 rows, 2 columns)`` of the letters.

    Attributes:
        range: of the strokes.
        ends: of these, the first and the last of each column.
        line: of the line through the means.
        path: of that line, were it whole.
    """

    range: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    line: NDArray[np.bool_]
    path: NDArray[np.bool_]


class Cells(NamedTuple):
    """Letters, of shape ``(rows, columns)``.

    Attributes:
        letters: the number of each in Unicode; that of the blank where nothing is drawn.
        owner: whose colour it has: the index of a curve; -1 where nothing is drawn.
        strong: whether a line passes through it.
        under: whose range fills it, and is shown by its ground; -1 for none.
    """

    letters: NDArray[np.uint32]
    owner: NDArray[np.int16]
    strong: NDArray[np.bool_]
    under: NDArray[np.int16]


def dots_of(stroke: Stroke, rows: int, columns: int, dash: int = 0) -> Dots:
    """Return the dots of a curve.

    Args:
        stroke: what is to be drawn, in any order; several strokes may share a column. What is out of the picture is
            moved to its edge, above and below, and left out at the sides.
        rows: letters from top to bottom.
        columns: letters from left to right.
        dash: pattern of the line, 0 to 3.
    """
    height, width = rows * ROWS, columns * COLUMNS
    kept = (stroke.column >= 0) & (stroke.column < width)
    column, top, bottom, middle = (one[kept].astype(np.int64, copy=False) for one in stroke)
    seen = top >= 0
    tops, bottoms = (np.minimum(one[seen], height - 1) for one in (top, bottom))
    drawn = _filled(column[seen], tops, bottoms, height, width)
    ends = np.zeros((height, width), bool)
    ends[_extreme(np.minimum, tops, column[seen], width)] = True
    ends[_extreme(np.maximum, bottoms, column[seen], width)] = True
    path = _line(column, np.minimum(middle, height - 1), height, width)
    return Dots(drawn, ends, path & np.resize(DASHES[dash % len(DASHES)], width), path)


def _extreme(which: np.ufunc, rows: Array, column: Array, width: int) -> tuple[Array, Array]:
    """Return the dots that are at one end of what is drawn in each column."""
    order = np.argsort(column, kind="stable")
    firsts = np.flatnonzero(np.append(True, np.diff(column[order]) > 0)) if len(order) else order
    return (which.reduceat(rows[order], firsts) if len(order) else order), column[order][firsts]


def _filled(column: Array, top: Array, bottom: Array, height: int, width: int) -> NDArray[np.bool_]:
    """Return the dots from ``top`` to ``bottom`` in each column."""
    size = (height + 1) * width
    change = np.bincount(top * width + column, minlength=size) - np.bincount(
        (bottom + 1) * width + column, minlength=size
    )
    filled: NDArray[np.bool_] = np.cumsum(change.reshape(height + 1, width), axis=0)[:height] > 0
    return filled


def _line(column: Array, middle: Array, height: int, width: int) -> NDArray[np.bool_]:
    """Return the dots of a line from column to column, broken off where there is no mean between them."""
    there = middle >= 0
    count = np.bincount(column[there], minlength=width)
    known = np.flatnonzero(count)
    if not len(known):
        return np.zeros((height, width), bool)
    rows = np.bincount(column[there], middle[there], minlength=width)[known] / count[known]
    breaks = np.cumsum((np.bincount(column, minlength=width) > 0) & (count == 0))
    columns = np.arange(known[0], known[-1] + 1)
    row = np.rint(np.interp(columns, known, rows)).astype(np.int64)
    before = known[np.searchsorted(known, columns, side="right") - 1]
    after = known[np.searchsorted(known, columns)]
    whole = breaks[before] == breaks[after]
    onward = row.copy()  # each column reaches up to where the next one begins
    joint = whole[1:] & whole[:-1]
    onward[:-1] = np.where(joint, row[1:] - np.sign(row[1:] - row[:-1]), row[:-1])
    tops, bottoms = np.minimum(row, onward)[whole], np.maximum(row, onward)[whole]
    return _filled(columns[whole], tops, bottoms, height, width)


def merged(layers: Sequence[Dots], rows: int, columns: int, grounds: bool = False) -> Cells:
    """Return the letters of curves over one another.

    Args:
        layers: the first lies on top.
        rows: letters from top to bottom.
        columns: letters from left to right.
        grounds: whether letters have a ground of their own, which shows that a range fills them; else dots do.
    """
    owner = np.full((rows, columns), -1, np.int16)
    under = np.full((rows, columns), -1, np.int16)
    strong = np.zeros((rows, columns), bool)
    dots = np.zeros((rows * ROWS, columns * COLUMNS), bool)
    inside = np.zeros_like(dots)
    for index in range(len(layers) - 1, -1, -1):  # the top one paints last
        layer = layers[index]
        lined = _any(layer.path, rows, columns)
        owner[_any(layer.range, rows, columns) & ~strong | lined] = index
        under[_all(layer.range, rows, columns)] = index
        strong |= lined
        dots |= layer.line | layer.ends
        inside |= layer.range
    open_cells = ~strong
    if grounds:
        open_cells &= under < 0
    else:
        under[:] = -1
    dots |= inside & np.repeat(np.repeat(open_cells, ROWS, axis=0), COLUMNS, axis=1)
    return Cells(letters_of(dots), owner, strong, under)


def _all(dots: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which letters have all dots."""
    every: NDArray[np.bool_] = np.logical_and.reduce(dots.reshape(rows, ROWS, columns, COLUMNS), axis=(1, 3))
    return every


def _any(dots: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which letters have a dot."""
    some: NDArray[np.bool_] = np.logical_or.reduce(dots.reshape(rows, ROWS, columns, COLUMNS), axis=(1, 3))
    return some


def letters_of(dots: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return dots as the numbers of letters in Unicode."""
    rows, columns = dots.shape[0] // ROWS, dots.shape[1] // COLUMNS
    bits = dots.reshape(rows, ROWS, columns, COLUMNS).transpose(0, 2, 1, 3) * BITS
    letters: NDArray[np.uint32] = bits.sum(axis=(2, 3), dtype=np.uint32) + np.uint32(BLANK)
    return letters
