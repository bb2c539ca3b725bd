"""What a chart shows, cuts off and says: newest values inside, a caret for all that is cut off, counts exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asynchub.dashboard.buckets import Buckets, of_values, reduce
from asynchub.dashboard.curves import Curve, curves
from asynchub.dashboard.drawing import MOST_MARKS, Drawing, draw, summary
from asynchub.dashboard.fitting import LARGEST
from asynchub.dashboard.pyramid import Pyramid
from asynchub.events import InfoUpdated
from tests.dashboard.runs import Point, Writer, columns_of


def _curve(values: Sequence[float] | NDArray[np.float64], width: int = 1, key: str = "loss") -> Curve:
    """Return a curve with a value at each step, from 0 on."""
    numbers = np.array(values, np.float64)
    found = of_values(np.arange(len(numbers)), numbers, np.ones(len(numbers)))
    found = reduce(found, width) if width > 1 else found
    return _of(found, single=width == 1, stop=max(len(numbers) - 1, 0), key=key)


def _of(found: Buckets, *, single: bool, stop: int, key: str = "loss") -> Curve:
    x = found.steps.astype(np.float64)
    return Curve(key, 0, stop, found.width, single, found, "step", x, True, "", None, 0, stop + 1)


def _noisy(size: int, seed: int = 0) -> NDArray[np.float64]:
    return 0.4 + np.random.default_rng(seed).normal(0, 0.05, size)


numbers = st.floats() | st.floats(-10, 10) | st.sampled_from([0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, 1.7e308, -1.7e308])


def _check(drawing: Drawing, shown: dict[str, Curve]) -> None:
    """Fail unless carets and marks cover, and count, what they are for."""
    assert np.isfinite([drawing.low, drawing.high]).all()
    assert drawing.low < drawing.high
    clipped = bad = 0
    for run, curve in shown.items():
        buckets = curve.buckets
        for x, low, high in zip(curve.x, buckets.min, buckets.max, strict=True):
            for top, value, beyond in ((True, high, high > drawing.high), (False, low, low < drawing.low)):
                if beyond:
                    clipped += 1
                    mine = [c for c in drawing.carets if c.top is top and c.x0 <= x <= c.x1]
                    assert any(c.value >= value if top else c.value <= value for c in mine), (run, x, value)
        for x, count in zip(curve.x, buckets.not_finite, strict=True):
            if count:
                bad += int(count)
                assert any(gap.x0 <= x <= gap.x1 for gap in drawing.gaps), (run, x)
    assert sum(caret.count for caret in drawing.carets) == drawing.clipped == clipped
    assert sum(gap.count for gap in drawing.gaps) == drawing.not_finite == bad
    assert drawing.points == sum(curve.points for curve in shown.values())
    assert max(len(drawing.carets), len(drawing.gaps)) <= MOST_MARKS


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(numbers, max_size=60), max_size=4),
    st.sampled_from([1, 1, 2, 8]),
    st.booleans(),
    st.booleans(),
)
def test_what_is_cut_off_has_a_caret_and_what_is_not_finite_a_mark(
    values: list[list[float]], width: int, log: bool, fit_all: bool
) -> None:
    shown = {f"run{number}": _curve(one, width) for number, one in enumerate(values)}
    drawing = draw(shown, log=log, fit_all=fit_all, pixels=400, time=1e9)
    _check(drawing, shown)
    assert drawing.below_zero <= drawing.clipped
    assert log or not drawing.below_zero
    assert drawing.footer.isprintable()
    assert drawing.summary.isprintable()
    if fit_all and not log:
        assert all(abs(caret.value) > LARGEST for caret in drawing.carets)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.floats(-1e250, 1e250), min_size=1, max_size=80), min_size=1, max_size=2))
def test_the_newest_values_are_inside(values: list[list[float]]) -> None:
    shown = {f"run{number}": _curve(one) for number, one in enumerate(values)}
    drawing = draw(shown)
    for one in values:
        assert all(drawing.low <= value <= drawing.high for value in one[-3:])


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.005])
@pytest.mark.parametrize("speed", ["slow", "fast"])
@pytest.mark.parametrize("width", [1, 16])
def test_a_loss_that_diverges_is_not_cut_off(share: float, speed: str, width: int) -> None:
    values = _noisy(10_000)
    count = int(len(values) * share)
    up = np.linspace(0, 1, count)
    values[-count:] += 3 * up if speed == "slow" else np.expm1(12 * up)
    drawing = draw({"a": _curve(values, width)})
    assert not drawing.clipped


def test_a_loss_that_diverges_as_an_explosion_to_infinity_is_shown_to_its_last_finite_value() -> None:
    values = np.append(_noisy(1000), [*np.geomspace(1, 1e30, 20), np.inf, np.nan, np.nan])
    drawing = draw({"a": _curve(values)})
    assert drawing.high >= 1e30
    assert [gap.text for gap in drawing.gaps] == ["◆ 2 NaN, 1 +inf"]


@pytest.mark.parametrize("width", [1, 64])
@pytest.mark.parametrize("spike", [13.0, -13.0, 1e30, 1.7e308])
def test_one_spike_is_cut_off_so_that_the_rest_is_seen(width: int, spike: float) -> None:
    values = _noisy(20_000)
    values[5_432] = spike
    drawing = draw({"a": _curve(values, width)})
    (caret,) = drawing.carets
    assert caret.value == spike
    assert caret.x == 5_432 // width * width
    assert caret.top is (spike > 0)
    assert drawing.clipped == 1
    assert drawing.high - drawing.low < 1
    assert "1 value cut off" in drawing.footer or "1 stroke cut off" in drawing.footer


def test_a_spike_is_seen_whole_while_it_is_news() -> None:
    values = _noisy(10_000)
    values[-10] = 13.0
    assert draw({"a": _curve(values)}).high > 13.0


def test_all_can_be_shown() -> None:
    values = _noisy(10_000)
    values[5_000] = 1000.0
    drawing = draw({"a": _curve(values)}, fit_all=True)
    assert drawing.high > 1000.0
    assert not drawing.carets


def test_nothing_is_cut_off_that_costs_little_to_show() -> None:
    values = np.abs(np.random.default_rng(1).normal(1, 0.3, 10_000))
    assert not draw({"a": _curve(values)}).clipped


def test_of_values_that_spread_far_only_the_farthest_are_cut_off() -> None:
    values = np.exp(np.random.default_rng(2).normal(0, 1.5, 10_000))
    drawing = draw({"a": _curve(values)})
    assert 0 < drawing.clipped < 0.05 * len(values)


def test_a_start_far_off_is_cut_off_and_said() -> None:
    values = 0.4 + 1000 * np.exp(-np.arange(10_000) / 100) + _noisy(10_000) * 0.1
    drawing = draw({"a": _curve(values)})
    assert drawing.high < 10
    assert [caret.x0 for caret in drawing.carets] == [0.0]
    assert drawing.carets[0].value == values.max()


def test_few_values_are_all_shown() -> None:
    assert not draw({"a": _curve([100.0, 1.0, 0.9, 0.8, 0.7])}).clipped


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-300, 5e-324, 1e300, -1e250])
@pytest.mark.parametrize("log", [False, True])
def test_what_never_changes_stands_in_the_middle(value: float, log: bool) -> None:
    drawing = draw({"a": _curve([value] * 50)}, log=log)
    if not log or value > 0:
        assert drawing.low < value < drawing.high or value == 5e-324
        assert not drawing.clipped


def test_one_value_makes_a_chart() -> None:
    drawing = draw({"a": _curve([7.0])})
    assert drawing.low < 7.0 < drawing.high
    assert drawing.points == 1


def test_no_curve_and_no_value_make_an_empty_chart() -> None:
    for drawing in (draw({}), draw({"a": _curve([])})):
        assert (drawing.low, drawing.high, drawing.points) == (0.0, 1.0, 0)
        assert drawing.footer.startswith("no values")


def test_where_nothing_is_finite_there_are_marks_and_no_carets() -> None:
    drawing = draw({"a": _curve([np.nan] * 70, 4)})
    assert [gap.text for gap in drawing.gaps] == ["◆ 70 NaN"]
    assert (drawing.gaps[0].x0, drawing.gaps[0].x1) == (0.0, 71.0)
    assert not drawing.carets
    assert "70 NaN (◆)" in drawing.footer


def test_a_value_between_nan_is_seen() -> None:
    drawing = draw({"a": _curve([np.nan, np.nan, 0.5, np.nan])})
    assert drawing.low < 0.5 < drawing.high
    assert drawing.not_finite == 3


def test_on_a_logarithmic_axis_what_is_0_or_below_is_at_the_bottom_edge_and_counted() -> None:
    drawing = draw({"a": _curve([1.0, 10.0, 0.0, 100.0, -5.0, 10.0])}, log=True)
    assert drawing.below_zero == 2
    assert 0 < drawing.low <= 1.0
    assert drawing.high >= 100.0
    assert all(not caret.top for caret in drawing.carets)
    assert min(caret.value for caret in drawing.carets) == -5.0
    assert "2 values at 0 or below" in drawing.footer


def test_one_run_that_has_diverged_does_not_hide_the_others() -> None:
    shown = {f"run{number}": _curve(_noisy(1000, number)) for number in range(4)}
    shown["bad"] = _curve(np.append(_noisy(500, 9), np.geomspace(1, 1e6, 500)))
    drawing = draw(shown)
    assert drawing.high < 100
    assert {caret.run for caret in drawing.carets} == {"bad"}
    assert max(caret.value for caret in drawing.carets) == pytest.approx(1e6)


def test_of_two_runs_both_are_shown_however_far_apart_they_are() -> None:
    drawing = draw({"a": _curve(_noisy(1000)), "b": _curve(_noisy(1000) + 1e6)})
    assert drawing.low < 0.4 < 1e6 < drawing.high
    assert not drawing.clipped


def test_carets_next_to_each_other_are_one_with_the_most_extreme_value() -> None:
    values = _noisy(10_000)
    values[3000:3100] = np.linspace(50, 90, 100)
    (caret,) = draw({"a": _curve(values)}).carets
    assert (caret.x0, caret.x, caret.x1, caret.value, caret.count) == (3000.0, 3099.0, 3099.0, 90.0, 100)
    assert caret.text == "▲90.00"


def test_a_hundred_runs_with_a_spike_each_do_not_make_a_hundred_carets() -> None:
    shown = {}
    for number in range(100):
        values = _noisy(500, number)
        values[number * 4] = 10.0 + number
        values[number * 4 + 1] = np.nan
        shown[f"run{number}"] = _curve(values)
    drawing = draw(shown)
    _check(drawing, shown)
    assert drawing.clipped == 100
    assert drawing.not_finite == 100


def test_a_unit_of_the_key_is_in_the_caret() -> None:
    values = np.full(1000, 0.001) + np.linspace(0, 1e-5, 1000)
    values[300] = 2.5
    (caret,) = draw({"a": _curve(values, key="step_time_s")}).carets
    assert caret.text == "▲2.50 s"


# --- runs


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Pyramid:
    """Return a run of 100,000 steps, with a spike and 50 NaN."""
    writer = Writer(tmp_path / "run")
    loss = _noisy(100_000)
    loss[:50_000] += 1.0
    loss[-10_000:] *= 0.9
    loss[51_234] = 13.0
    loss[70_000:70_050] = np.nan
    writer.batch(columns_of(["loss"], np.arange(100_000), loss[:, None], 0))
    writer.close()
    run = Pyramid(tmp_path / "run", tmp_path / "cache")
    run.update()
    return run


def test_the_footer_says_what_was_left_out_and_how_the_rest_was_made(run: Pyramid) -> None:
    (curve,) = curves(run, ["loss"], buckets=500, window=1000)
    drawing = draw({"a": curve}, pixels=500, time=1e9)
    parts = drawing.footer.split(" · ")
    assert parts[:5] == [
        f"1 px = 200 steps, strokes from min to max of {curve.width} steps",
        "all 100,000 values counted",
        "1 stroke cut off (▲▼)",
        "50 NaN (◆)",
        "line = mean over 1,000 steps",
    ]
    assert parts[5] == "up to event 100,000"
    assert parts[6].startswith("2001-09-")


def test_the_footer_names_the_events_of_runs_that_have_values() -> None:
    some = _curve(_noisy(100))
    shown = {"a": some, "b": replace(_curve([]), seq=7), "c": replace(some, seq=250)}
    assert draw(shown).footer.endswith("up to events 100 to 250 of 2 runs")
    assert draw({"a": some, "b": shown["b"]}).footer.endswith("up to event 100")
    assert draw({"b": shown["b"]}).footer.endswith("up to event 7")


def test_a_summary_says_the_newest_value_the_trend_and_where_values_were_not_finite(run: Pyramid) -> None:
    words = summary(run, "loss")
    assert words.startswith("0.")
    assert words.endswith("; 50 NaN at steps 70,000 to 70,049")
    assert "down 9 % over the last 8,900 steps" in words


def test_a_summary_of_a_scalar_without_a_value_says_so(run: Pyramid) -> None:
    assert summary(run, "nothing") == "no value yet"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0], "1.000"),
        ([np.nan], "NaN; 1 NaN at step 0"),
        ([1.0, -np.inf], "-inf; 1 -inf at step 1"),
        ([2.0] * 100, "2.000, steady over the last 10 steps"),
        ([0.0] * 90 + [1.0] * 10, "1.000, up from 0.000 over the last 10 steps"),
        ([-1.0] * 90 + [1.0] * 10, "1.000, up from -1.000 over the last 10 steps"),
        ([-1.0] * 90 + [-2.0] * 10, "-2.000, down 100 % over the last 10 steps"),
    ],
)
def test_a_summary_of_a_short_run(values: list[float], words: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(Point("loss", step, value) for step, value in enumerate(values))
    run = Pyramid(tmp_path / "run", tmp_path / "cache")
    run.update()
    assert summary(run, "loss") == words


def test_values_that_have_no_place_on_the_axis_are_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run")
    writer.points(Point("loss", step, 1.0) for step in range(5))
    writer.event(InfoUpdated(key="epoch", value=1))
    writer.points(Point("loss", step, 1.0) for step in range(5, 9))
    run = Pyramid(tmp_path / "run", tmp_path / "cache")
    run.update()
    (curve,) = curves(run, ["loss"], axis="epoch")
    assert "5 values not drawn: no place on this axis" in draw({"a": curve}).footer
