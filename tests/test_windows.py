"""Windowed statistics against NumPy on the same slice."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import EmptyHistoryError
from asynchub.history import HistoryBuffer
from asynchub.windows import DIRECT, WindowedColumn, begin

SIZE = 80_000


def grown(values: np.ndarray[Any, Any], limit: int | None = None, seed: int = 0) -> WindowedColumn:
    """Return a column of ``values`` that came in pieces, with only the newest ``limit`` left."""
    rng = np.random.default_rng(seed)
    column = WindowedColumn(np.empty(0, values.dtype))
    while column.last < len(values):
        column = column.extended(values[column.last : column.last + int(rng.integers(1, 12_000))])
        if limit is not None:
            column = column.without(len(column) - limit)
        column.keep_up()
        if rng.random() < 0.2:
            column.blocks()
    return column


def latest(values: np.ndarray[Any, Any], window_size: int) -> np.ndarray[Any, Any]:
    return values[-window_size:]


@given(st.integers(-(10**20), 10**20), st.integers(0, 50))
def test_a_window_begins_where_a_slice_does(window_size: int, length: int) -> None:
    assert begin(window_size, length) == slice(-window_size, None).indices(length)[0]


@pytest.mark.parametrize("limit", [None, 36_000, 60_000])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "i1", "u8", "u1"])
def test_any_window_is_what_numpy_says_of_the_slice(dtype: str, limit: int | None, rng: np.random.Generator) -> None:
    values = rng.normal(scale=50, size=SIZE) * 10.0 ** rng.integers(-3, 3, SIZE)
    values = np.clip(values, 0, 200).astype(dtype) if dtype[0] == "u" else np.clip(values, -99, 99).astype(dtype)
    column = grown(values, limit)
    values = values[-len(column) :]
    for window_size in [0, 1, -1, DIRECT, DIRECT + 1, -7, SIZE, *rng.integers(-SIZE, SIZE, 150).tolist()]:
        window = latest(values, window_size)
        if not len(window):
            continue
        total = column.sum(window_size)
        assert type(total) is type(window.sum())
        if values.dtype.kind == "f":
            bound = 16 * np.finfo(dtype).eps * np.abs(window).sum(dtype="f8")
            assert abs(float(total) - float(window.sum(dtype="f8"))) <= bound
        else:
            assert total == window.sum()
        for extreme, numpys in ((column.max(window_size), window.max()), (column.min(window_size), window.min())):
            assert extreme == numpys
            assert type(extreme) is type(numpys)


def test_sums_of_integers_wrap_around_as_in_numpy() -> None:
    values = np.full(SIZE, 2**62, np.int64)
    values[::3] = 5
    assert grown(values).sum(0) == values.sum()


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1e308])), max_size=6
    ),
    st.integers(-SIZE, SIZE),
)
def test_nan_and_infinities_spread_as_in_numpy(odd: list[tuple[int, float]], window_size: int) -> None:
    values = np.sin(np.arange(SIZE))
    for place, value in odd:
        values[place] = value
    column = grown(values)
    window = latest(values, window_size)
    if not len(window):
        return
    with np.errstate(all="ignore"):
        total, numpys, size = column.sum(window_size), window.sum(), np.abs(window).sum()
        if np.isfinite(size):
            assert abs(total - numpys) <= 16 * np.finfo("f8").eps * size
        elif not np.isfinite(window).all() and np.isfinite(np.abs(window[np.isfinite(window)]).sum()):  # no overflow
            np.testing.assert_equal(total, numpys)
        np.testing.assert_equal(column.max(window_size), window.max())
        np.testing.assert_equal(column.min(window_size), window.min())


def test_infinities_of_both_signs_are_warned_about_as_by_numpy() -> None:
    values = np.zeros(SIZE)
    values[100], values[15_000] = np.inf, -np.inf
    with pytest.warns(RuntimeWarning, match="invalid value encountered in reduce"):
        assert np.isnan(grown(values).sum(0))


def test_one_infinity_or_a_nan_is_summed_without_a_warning() -> None:
    for odd in (np.inf, -np.inf, np.nan):
        values = np.zeros(SIZE)
        values[[100, 15_000]] = odd
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_equal(grown(values).sum(0), odd)


def test_partial_results_survive_growing_apart(rng: np.random.Generator) -> None:
    values = rng.integers(-9, 9, SIZE)
    one = grown(values, 48_000)
    one.blocks()
    other = one.shared()
    for column, more in ((one, 1), (other, 2)):
        extended = column.extended(np.full(5000, more))
        whole = np.append(values[-48_000:], np.full(5000, more))
        assert all(extended.sum(size) == whole[-size:].sum() for size in (5000, 40_000, 53_000))


def history(values: Any) -> HistoryBuffer:
    return HistoryBuffer(values, np.ones(len(values), int))


windows = st.none() | st.integers(-30, 30)
reals = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(reals, st.floats(0.01, 1e3), windows)
def test_the_moving_average_is_the_weighted_mean_of_the_definition(
    values: list[float], half_life: float, window_size: int | None
) -> None:
    window = latest(np.array(values), window_size or 0)
    if not len(window):
        return
    weights = 0.5 ** (np.arange(len(window))[::-1] / half_life)
    scale = np.abs(window).max()
    assert history(values).ema(half_life, window_size) == pytest.approx(
        np.average(window, weights=weights), rel=1e-12, abs=1e-12 * scale
    )


def test_a_moving_average_leaves_out_what_weighs_nothing() -> None:
    values = np.ones(10_000)
    values[0] = np.inf
    assert history(values).ema(100) == pytest.approx(1)
    assert history(values).ema(200) == np.inf


def test_a_moving_average_of_endless_half_life_is_the_mean() -> None:
    assert history([1.0, 2.0, 6.0]).ema(np.inf) == 3


@given(reals, windows, st.sampled_from([0, 0.5, 1]))
def test_std_is_numpys(values: list[float], window_size: int | None, ddof: float) -> None:
    window = latest(np.array(values), window_size or 0)
    if len(window) > ddof:
        assert history(values).std(window_size, ddof) == np.std(window, ddof=ddof)


@given(reals, windows, st.floats(0, 100))
def test_percentile_is_numpys_linear_one(values: list[float], window_size: int | None, q: float) -> None:
    window = latest(np.array(values), window_size or 0)
    if len(window):
        assert history(values).percentile(q, window_size) == np.percentile(window, q)


@given(reals, windows)
def test_slope_is_that_of_polyfit(values: list[float], window_size: int | None) -> None:
    window = latest(np.array(values), window_size or 0)
    if len(window) > 1:
        expected = np.polyfit(np.arange(len(window)), window, 1)[0]
        scale = np.abs(window).max()
        assert history(values).slope(window_size) == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)


@pytest.mark.parametrize("values", [[1, 2, 4], [True, False, True], [1, 10**25, 2**70]])
def test_the_new_statistics_take_every_real_dtype(values: list[Any]) -> None:
    floats = np.array([float(value) for value in values])
    buffer = history(values)
    assert buffer.std() == floats.std()
    assert buffer.percentile(30) == np.percentile(floats, 30)
    assert buffer.slope() == pytest.approx(np.polyfit(range(3), floats, 1)[0], rel=1e-9, abs=1e-9 * floats.max())
    assert buffer.ema(1) == pytest.approx(np.average(floats, weights=[1, 2, 4]))


@pytest.mark.parametrize("name", ["ema", "percentile"])
@pytest.mark.parametrize("values", [[], [1.0, 2.0]])
@pytest.mark.parametrize("argument", ["1", None, np.nan, -1, 1j, 10**400])
def test_an_argument_out_of_range_is_refused(name: str, values: list[float], argument: Any) -> None:
    with pytest.raises(ValueError, match=r"half_life|q must"):
        getattr(history(values), name)(argument)


def test_what_has_too_few_values_is_refused() -> None:
    empty, one = history([]), history([1.0])
    asked = [
        (empty, "ema", (1,)),
        (empty, "std", ()),
        (empty, "percentile", (5,)),
        (empty, "slope", ()),
        (one, "slope", ()),
    ]
    for buffer, name, arguments in asked:
        with pytest.raises(EmptyHistoryError):
            buffer.statistics(name, *arguments)
    with pytest.raises(ValueError, match="ddof"):
        one.std(ddof=1)


@pytest.mark.parametrize("values", [[1j], ["a"], [10**400]])
def test_values_that_are_no_real_numbers_have_no_such_statistics(values: list[Any]) -> None:
    with pytest.raises(TypeError, match="needs"):
        history(values).std()
