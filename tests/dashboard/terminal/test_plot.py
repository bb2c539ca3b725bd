"""A chart in a terminal tells the truth: spikes, values that are not finite, decisions, axes; and does no harm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.strip import Strip

from asynchub.dashboard.colours import colour
from asynchub.dashboard.curves import Curve, curve
from asynchub.dashboard.drawing import Drawing, draw
from asynchub.dashboard.pyramid import Pyramid
from asynchub.dashboard.screen import Mark
from asynchub.dashboard.terminal.look import Look
from asynchub.dashboard.terminal.plot import MARK_SIGNS, Span, gutter, plotted
from asynchub.dashboard.terminal.ticks import ticks_of, x_ticks
from tests.dashboard.runs import Point, Writer, columns_of

STEPS = 1_000_000
SPIKE, HOLE = 123_456, 700_000
WIDTH, HEIGHT = 60, 14
LOOKS = {"dark": Look(), "light": Look(False), "no colours": Look(colours=False), "ascii": Look(letters=False)}
every_look = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pyramid]:
    """A loss of a million steps about 1, with one 13.0, and 50 NaN."""
    folder = tmp_path_factory.mktemp("long")
    writer = Writer(folder / "run")
    rng = np.random.default_rng(1)
    for start in range(0, STEPS, 50_000):
        steps = np.arange(start, start + 50_000)
        values = 1 + 0.1 * rng.standard_normal((50_000, 1))
        values[steps == SPIKE] = 13.0
        values[(steps >= HOLE) & (steps < HOLE + 50)] = np.nan
        writer.batch(columns_of(["loss"], steps, values, writer.seq))
    writer.close()
    with Pyramid(folder / "run", folder / "cache") as run:
        run.update()
        yield run


def chart(one: Curve, look: Look = LOOKS["dark"], **options: bool) -> tuple[tuple[Strip, ...], Drawing]:
    """Return a curve as a chart of its own, and how it is drawn."""
    drawing = draw({"run": one}, **options)
    span = Span("step", one.start, one.stop + 1)
    lines = plotted({"run": one}, drawing, span, (), {"run": colour(3)}, width=WIDTH, height=HEIGHT, look=look)
    return lines, drawing


def rows_with(lines: tuple[Strip, ...], drawing: Drawing, column: int) -> list[int]:
    """Return in which rows of dots something is drawn, at a column of letters, in braille."""
    left = gutter(drawing, HEIGHT - 2)[1]
    rows = []
    for line, strip in enumerate(lines[1:-1]):
        bits = ord(strip.text[left + column]) - 0x2800
        if 0 < bits < 256:
            rows += [4 * line + row for row, mask in enumerate((0x09, 0x12, 0x24, 0xC0)) if bits & mask]
    return rows


@pytest.mark.parametrize(
    "zoom",
    [
        pytest.param(2**number, marks=[pytest.mark.slow] if number % 4 else [], id=f"{2**number}")
        for number in range(17)
    ],
)
@pytest.mark.parametrize("fit_all", [False, True], ids=["most", "all"])
def test_a_single_spike_has_a_dot_at_its_height_or_a_caret_with_its_value(
    long_run: Pyramid, zoom: int, fit_all: bool
) -> None:
    size = STEPS // zoom
    start = max(SPIKE - size // 3, 0)
    one = curve(long_run, "loss", start, start + size - 1, 2 * WIDTH)
    lines, drawing = chart(one, fit_all=fit_all)
    carets = [caret for caret in drawing.carets if caret.value == 13.0]
    if carets:
        assert "▲13" in lines[0].text
        return
    share = (drawing.high - 13.0) / (drawing.high - drawing.low)
    row = min(int(share * (HEIGHT - 2) * 4), (HEIGHT - 2) * 4 - 1)
    columns = WIDTH - gutter(drawing, HEIGHT - 2)[1] - 1
    cell = SPIKE & -one.width
    first = int(max(cell - start, 0) / size * columns)
    last = int((cell + one.width - start) / size * columns)
    found = {one for column in range(max(first - 1, 0), min(last + 2, columns)) for one in
             rows_with(lines, drawing, column)}  # fmt: skip
    assert row in found


@pytest.mark.parametrize("zoom", [1, 64, 4096])
@every_look
def test_values_that_are_not_finite_are_marked_with_their_count(long_run: Pyramid, zoom: int, look: Look) -> None:
    size = STEPS // zoom
    start = max(HOLE - size // 2, 0)
    one = curve(long_run, "loss", start, start + size - 1, 2 * WIDTH)
    lines, _ = chart(one, look)
    assert one.not_finite in (50, min(50, max(start + size - HOLE, 0)))
    assert look.text(f"◆{one.not_finite} NaN") in lines[0].text.replace("NaN◆", "")


def run_of(folder: Path, values: list[float], steps: list[int] | None = None) -> Pyramid:
    """Return a run whose loss has some values."""
    writer = Writer(folder / "run")
    writer.points([Point("loss", step, value) for step, value in zip(steps or range(len(values)), values, strict=True)])
    writer.close()
    run = Pyramid(folder / "run", folder / "cache")
    run.update()
    return run


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([math.nan] * 7, ["1 NaN"] * 7),
        ([math.nan, 1.0, math.nan], ["1 NaN"] * 2),
        ([1.0, math.inf, 2.0, -math.inf], ["1 +inf", "1 -inf"]),
    ],
    ids=["none", "around", "infinite"],
)
def test_a_few_values_that_are_not_finite_are_counted_too(tmp_path: Path, values: list[float], said: list[str]) -> None:
    lines, drawing = chart(curve(run_of(tmp_path, values), "loss"))
    assert sum(gap.count for gap in drawing.gaps) == len(said)
    assert lines[0].text.count("◆") == len(drawing.gaps)
    if len(drawing.gaps) == len(said):
        assert [text.strip() for text in lines[0].text.split("◆")[1:]] == said
    else:
        assert f"{len(said)} " in lines[0].text


def test_a_lone_value_between_two_that_are_no_numbers_is_a_dot(tmp_path: Path) -> None:
    lines, drawing = chart(curve(run_of(tmp_path, [math.nan, 1.0, math.nan]), "loss"))
    columns = WIDTH - gutter(drawing, HEIGHT - 2)[1] - 1
    assert sum(len(rows_with(lines, drawing, column)) for column in range(columns)) == 1


def test_a_line_breaks_off_where_values_are_no_numbers(tmp_path: Path) -> None:
    lines, drawing = chart(curve(run_of(tmp_path, [1.0, 1.0, math.nan, math.nan, 1.0, 1.0]), "loss"))
    columns = WIDTH - gutter(drawing, HEIGHT - 2)[1] - 1
    drawn = [bool(rows_with(lines, drawing, column)) for column in range(columns)]
    assert drawn[0]
    assert not any(drawn[columns * 3 // 12 : columns * 7 // 12])
    assert any(drawn[columns * 8 // 12 :])


def test_a_resumed_run_has_a_line_for_each_time_it_went_there(tmp_path: Path) -> None:
    run = run_of(tmp_path, [0.0, 0.0, 0.0, 0.0, 9.0, 9.0], [0, 1, 2, 3, 1, 2])
    lines, drawing = chart(curve(run, "loss"))
    columns = WIDTH - gutter(drawing, HEIGHT - 2)[1] - 1
    middle = rows_with(lines, drawing, columns * 3 // 8)
    assert min(middle) < 4
    assert max(middle) >= 4 * (HEIGHT - 2) - 4


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.floats()), min_size=1, max_size=30),
    st.booleans(),
    st.booleans(),
    st.sampled_from(sorted(LOOKS)),
    st.integers(12, 90),
    st.integers(3, 20),
)
def test_every_chart_has_its_size_whatever_the_values_are(
    points: list[tuple[int, float]], log: bool, fit_all: bool, look: str, width: int, height: int
) -> None:
    steps, values = zip(*points, strict=True)
    one = curve_of(list(steps), list(values))
    drawing = draw({"run": one}, log=log, fit_all=fit_all)
    span = Span("step", one.start, one.stop + 1)
    mark = Mark(1, steps[0], 0.0, "who", "what", short="lr \u202e÷10\x1b[31m\N{HOT BEVERAGE}日本")
    lines = plotted(
        {"run": one}, drawing, span, [(mark, float(steps[0]))], {"run": colour(3, 1)}, width=width, height=height,
        look=LOOKS[look],
    )  # fmt: skip
    assert len(lines) == height
    left = gutter(drawing, height - 2)[1]
    for line in lines:
        assert line.cell_length == cell_len(line.text) == max(width, left + 2)
        assert line.text.isprintable()
        assert look != "ascii" or line.text.isascii()


def curve_of(steps: list[int], values: list[float]) -> Curve:
    """Return values as a curve, without a run."""
    from asynchub.dashboard.buckets import of_values

    buckets = of_values(np.array(steps), np.array(values), np.ones(len(steps), np.int64))
    return Curve(
        "loss", min(steps), max(steps), 1, True, buckets, "step", buckets.first, False, "", None, 0, 7
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(MARK_SIGNS))
def test_a_decision_has_its_sign_and_its_word_at_its_step(kind: str) -> None:
    one = curve_of(list(range(100)), [1.0] * 100)
    mark = Mark(1, 50, 0.0, "rule", "lr 0.1 -> 0.01", kind=kind, short="lr ÷10")  # type: ignore[arg-type]
    drawing = draw({"run": one})
    lines = plotted(
        {"run": one}, drawing, Span("step", 0, 100), [(mark, 50.0)], {"run": colour(3)}, width=WIDTH, height=HEIGHT,
        look=Look(),
    )  # fmt: skip
    left = gutter(drawing, HEIGHT - 2)[1]
    column = left + (WIDTH - left - 1) // 2
    assert lines[0].text[column] == MARK_SIGNS[kind]
    assert lines[0].text[column + 1 :].startswith("lr ÷10")
    assert lines[3].text[column] in "┊┆"


def test_two_decisions_beside_each_other_keep_their_signs() -> None:
    one = curve_of(list(range(100)), [1.0] * 100)
    marks = [(Mark(n, 50 + n, 0.0, "rule", "what", short="a long word"), 50.0 + 2 * n) for n in range(4)]
    lines = plotted(
        {"run": one}, draw({"run": one}), Span("step", 0, 100), marks, {"run": colour(3)}, width=WIDTH, height=HEIGHT,
        look=Look(),
    )  # fmt: skip
    assert lines[0].text.count("▼") == 4


# --- axes


@settings(max_examples=50)
@given(finite, finite, st.booleans(), st.integers(2, 12), st.sampled_from(["loss", "time_s", "memory_bytes"]))
def test_the_y_axis_has_two_numbers_at_least_in_order(one: float, other: float, log: bool, most: int, key: str) -> None:
    low, high = min(one, other), max(one, other)
    if log:
        low, high = max(abs(low), 5e-324), max(abs(high), 1e-300)
        low, high = min(low, high), max(low, high)
    if not low < high:
        return
    ticks = ticks_of(low, high, log, most, key)
    assert 2 <= len(ticks) <= most + 3
    shares = [tick.share for tick in ticks]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert all(0 < len(tick.text) <= 12 for tick in ticks)


@settings(max_examples=50)
@given(st.sampled_from(["step", "time", "relative", "epoch"]), finite, finite, st.integers(1, 200))
def test_what_stands_below_a_chart_does_not_overlap(axis: str, one: float, other: float, columns: int) -> None:
    low, high = min(one, other), max(one, other)
    if not low < high:
        return
    free = 0
    for column, text in x_ticks(axis, low, high, columns):  # type: ignore[arg-type]
        assert column >= free
        free = column + len(text) + 1
        assert free - 1 <= max(columns, len(text))


def test_round_numbers_stand_where_they_are() -> None:
    assert [(tick.text, tick.share) for tick in ticks_of(0.0, 4.0, False, 4)] == [
        ("4", 0.0), ("3", 0.25), ("2", 0.5), ("1", 0.75), ("0", 1.0),
    ]  # fmt: skip
    assert [tick.text for tick in ticks_of(0.01, 100.0, True, 6)] == ["100", "10", "1", "0.1", "0.01"]
    assert [text for _, text in x_ticks("step", 0, 1_000_000, 80)] == ["0", "200k", "400k", "600k", "800k", "1M"]
    assert [text for _, text in x_ticks("relative", 0, 3600, 80)][:3] == ["0:00", "15:00", "30:00"]
