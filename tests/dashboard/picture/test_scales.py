"""Ticks stand at round numbers, inside the axis, with labels that differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asynchub.dashboard.picture.scales import Scale, ticks_of_axis, ticks_of_values

finite = st.floats(-1e300, 1e300)


@settings(max_examples=80, deadline=None)
@given(finite, finite, st.booleans(), st.sampled_from(["loss", "step_s", "memory_bytes"]))
@example(0.0, 5e-324, False, "loss")
def test_ticks_of_values_are_inside_and_differ(one: float, other: float, log: bool, key: str) -> None:
    low, high = sorted((abs(one) + 1e-300, abs(other) + 1e-300) if log else (one, other))
    if not low < high:
        return
    ticks = ticks_of_values(Scale(low, high, 100.0, 0.0, log), key, 5)
    margin = (high - low) * 1e-6
    assert all(low - margin <= tick.value <= high + margin for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks) <= 16


@settings(max_examples=80, deadline=None)
@given(
    st.floats(-1e12, 1e12),
    st.floats(1e-6, 1e12),
    st.sampled_from(["step", "time", "relative", "epoch"]),
)
def test_ticks_of_an_axis_never_fail(low: float, wide: float, axis: str) -> None:
    ticks = ticks_of_axis(Scale(low, low + wide, 0.0, 500.0), axis, 6)  # type: ignore[arg-type]
    assert len(ticks) <= 16


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.11, 0.36, ["0.15", "0.20", "0.25", "0.30", "0.35"]),
        (-3.0, 13.0, ["0", "5", "10"]),
        (0.0, 1e-7, ["0", "2e-08", "4e-08", "6e-08", "8e-08", "1e-07"]),
        (0.0, 2_600_000.0, ["0", "1000000", "2000000"]),
    ],
)
def test_ticks_of_values_are_as_short_as_they_can_be(low: float, high: float, texts: list[str]) -> None:
    assert [tick.text for tick in ticks_of_values(Scale(low, high, 100.0, 0.0), "loss", 5)] == texts


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten_or_lie_between_them() -> None:
    scale = Scale(0.02, 3000.0, 100.0, 0.0, log=True)
    assert [tick.text for tick in ticks_of_values(scale, "loss", 5)] == ["0.1", "1", "10", "100", "1000"]
    narrow = Scale(1.5, 30.0, 100.0, 0.0, log=True)
    assert [tick.value for tick in ticks_of_values(narrow, "loss", 5)] == [2.0, 5.0, 10.0, 20.0]


def test_ticks_of_steps_are_whole_numbers_in_short() -> None:
    ticks = ticks_of_axis(Scale(0.0, 1_000_000.0, 0.0, 500.0), "step", 5)
    assert [tick.text for tick in ticks] == ["0", "200k", "400k", "600k", "800k", "1M"]
    assert [tick.text for tick in ticks_of_axis(Scale(0.0, 2.0, 0.0, 500.0), "step", 6)] == ["0", "1", "2"]


def test_ticks_of_a_time_since_the_beginning_are_durations() -> None:
    ticks = ticks_of_axis(Scale(0.0, 7300.0, 0.0, 500.0), "relative", 6)
    assert [tick.text for tick in ticks] == ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00"]


def test_a_place_far_beyond_an_axis_stays_near_enough_to_be_drawn() -> None:
    places = Scale(0.0, 1.0, 300.0, 0.0)(np.array([0.5, 1e300, -1e300, np.inf, np.nan]))
    assert places[0] == 150.0
    assert np.isfinite(places[:4]).all()
    assert np.isnan(places[4])
