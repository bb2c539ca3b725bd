"""Dots of braille letters against the simplest model, dot by dot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asynchub.dashboard.terminal.braille import COLUMNS, DASHES, ROWS, Dots, Stroke, dots_of, letters_of, merged

LINES, LETTERS = 3, 5
HEIGHT, WIDTH = LINES * ROWS, LETTERS * COLUMNS

rows = st.integers(-1, HEIGHT + 3)
strokes = st.lists(st.tuples(st.integers(-2, WIDTH + 2), rows, rows, rows), max_size=40)


def stroke_of(parts: list[tuple[int, int, int, int]]) -> Stroke:
    """Return parts, each of a column and three rows, as strokes whose top is above the bottom."""
    table = []
    for column, one, other, middle in parts:
        top, bottom = (min(one, other), max(one, other)) if min(one, other) >= 0 else (-1, -1)
        table.append((column, top, bottom, middle))
    return Stroke(*(np.array(column, np.int64) for column in zip(*table, strict=True))) if table else EMPTY


EMPTY = Stroke(*(np.empty(0, np.int64) for _ in range(4)))


def dots_in(letters: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return the dots of letters, by the numbering of the Unicode standard: 1, 2, 3, 7 and 4, 5, 6, 8."""
    found = np.zeros((letters.shape[0] * ROWS, letters.shape[1] * COLUMNS), bool)
    for (line, letter), number in np.ndenumerate(letters):
        for bit, (row, column) in enumerate(((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))):
            found[line * ROWS + row, letter * COLUMNS + column] = bool((int(number) - 0x2800) >> bit & 1)
    return found


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH))
def test_letters_have_the_dots_that_they_are_made_of(flags: list[bool]) -> None:
    dots = np.array(flags).reshape(HEIGHT, WIDTH)
    assert (dots_in(letters_of(dots)) == dots).all()


@settings(max_examples=50)
@given(strokes)
def test_a_range_has_every_dot_from_its_top_to_its_bottom(parts: list[tuple[int, int, int, int]]) -> None:
    stroke = stroke_of(parts)
    model = np.zeros((HEIGHT, WIDTH), bool)
    for column, top, bottom, _ in zip(*(part.tolist() for part in stroke), strict=True):
        if 0 <= column < WIDTH and top >= 0:
            for row in range(min(top, HEIGHT - 1), min(bottom, HEIGHT - 1) + 1):
                model[row, column] = True
    found = dots_of(stroke, LINES, LETTERS)
    assert (found.range == model).all()
    ends = np.zeros_like(model)
    for column in range(WIDTH):
        drawn = np.flatnonzero(model[:, column])
        if len(drawn):
            ends[[drawn[0], drawn[-1]], column] = True
    assert (found.ends == ends).all()


@settings(max_examples=50)
@given(strokes)
def test_a_line_goes_through_every_mean_and_is_whole_but_for_the_breaks(parts: list[tuple[int, int, int, int]]) -> None:
    stroke = stroke_of(parts)
    path = dots_of(stroke, LINES, LETTERS).path
    means: dict[int, list[int]] = {}
    broken = set()
    for column, _, _, middle in zip(*(part.tolist() for part in stroke), strict=True):
        if 0 <= column < WIDTH:
            if middle >= 0:
                means.setdefault(column, []).append(min(middle, HEIGHT - 1))
            else:
                broken.add(column)
    broken -= set(means)
    known = sorted(means)
    reached = {column: np.flatnonzero(path[:, column]) for column in range(WIDTH)}
    for column in known:
        mean = sum(means[column]) / len(means[column])
        assert np.abs(reached[column] - mean).min() <= 0.5
    for one, other in pairwise(known):
        between = range(one + 1, other)
        if broken & set(between):
            assert not any(len(reached[column]) for column in between)
            continue
        for column in range(one, other):  # each column touches the next one
            gaps = np.abs(reached[column][:, None] - reached[column + 1][None, :])
            assert gaps.size
            assert gaps.min() <= 1
            span = sorted((min(means[one]), max(means[one]), min(means[other]), max(means[other])))
            assert reached[column].min() >= span[0]
            assert reached[column].max() <= span[-1]
    outside = [column for column in range(WIDTH) if not known or column < known[0] or column > known[-1]]
    assert not any(len(reached[column]) for column in outside)


@settings(max_examples=50)
@given(strokes, st.integers(0, 3))
def test_a_dashed_line_is_part_of_the_whole_one(parts: list[tuple[int, int, int, int]], dash: int) -> None:
    found = dots_of(stroke_of(parts), LINES, LETTERS, dash)
    assert (found.line == found.path & np.resize(DASHES[dash], WIDTH)).all()


@settings(max_examples=50)
@given(st.lists(strokes, max_size=3), st.booleans())
def test_the_ends_of_every_stroke_and_every_line_are_seen_whatever_lies_over_them(
    curves: list[list[tuple[int, int, int, int]]], grounds: bool
) -> None:
    layers = [dots_of(stroke_of(parts), LINES, LETTERS) for parts in curves]
    cells = merged(layers, LINES, LETTERS, grounds)
    shown = dots_in(cells.letters)
    drawn = np.zeros_like(shown)
    for layer in layers:
        assert (shown | ~(layer.ends | layer.line)).all()
        drawn |= layer.range | layer.line
    assert (drawn | ~shown).all(), "a dot that nothing has drawn"
    inside = np.repeat(np.repeat(cells.strong | (cells.under >= 0), ROWS, axis=0), COLUMNS, axis=1)
    assert (shown == drawn)[~inside].all()
    there = _some(drawn)
    assert ((cells.owner >= 0) == there).all()
    for index, layer in enumerate(layers):
        filled = layer.range.reshape(LINES, ROWS, LETTERS, COLUMNS).all(axis=(1, 3))
        if grounds:
            assert (cells.under[filled] >= 0).all()
        owned = cells.owner == index
        assert (_some(layer.range | layer.path) | ~owned).all()
    assert grounds or (cells.under == -1).all()


def _some(dots: NDArray[np.bool_]) -> NDArray[np.bool_]:
    some: NDArray[np.bool_] = dots.reshape(LINES, ROWS, LETTERS, COLUMNS).any(axis=(1, 3))
    return some


def test_the_first_curve_has_the_letter_where_two_lines_cross() -> None:
    one, other = (
        dots_of(stroke_of([(column, row, row, row) for column in range(WIDTH)]), LINES, LETTERS) for row in (5, 6)
    )
    assert set(merged([one, other], LINES, LETTERS).owner[1].tolist()) == {0}
    assert set(merged([other, one], LINES, LETTERS).owner[1].tolist()) == {0}


def test_nothing_is_drawn_of_nothing() -> None:
    empty = dots_of(EMPTY, LINES, LETTERS)
    assert not any(part.any() for part in empty)
    assert (merged([], LINES, LETTERS).letters == 0x2800).all()
    assert isinstance(empty, Dots)
