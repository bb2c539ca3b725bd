"""Buckets are what their values amount to, however they were added up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.dashboard.buckets import Buckets, fold, joined, of_values, reduce
from asynchub.dashboard.growing import LEVELS, Owned, Pile, grown, tail, together, width_of
from asynchub.dashboard.packing import pack, unpack
from asynchub.errors import CorruptStateError
from tests.dashboard.runs import Point, brute_force, check_same

NUMBERS = st.one_of(
    st.floats(width=32),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]),
)
POINTS = st.lists(
    st.builds(Point, st.just("key"), st.integers(-300, 3000), NUMBERS, st.integers(-1, 5)), min_size=1, max_size=200
)


def _values(points: list[Point]) -> Buckets:
    return of_values(
        np.array([point.step for point in points], np.int64),
        np.array([point.value for point in points], np.float64),
        np.array([point.count for point in points], np.int64),
    )


def _same_bits(left: Buckets, right: Buckets) -> None:
    assert left.width == right.width
    for one, other in zip(left.columns, right.columns, strict=True):
        assert one.tobytes() == other.tobytes()


@given(POINTS, st.integers(0, 8))
def test_reduced_values_are_what_brute_force_finds(points: list[Point], shift: int) -> None:
    check_same(reduce(_values(points), 2**shift), brute_force(points, 2**shift)["key"])


@given(POINTS, st.integers(0, 5), st.integers(0, 5))
def test_reduced_buckets_are_what_brute_force_finds(points: list[Point], shift: int, more: int) -> None:
    twice = reduce(reduce(_values(points), 2**shift), 2**more)
    check_same(twice, brute_force(points, 2 ** (shift + more))["key"])


@settings(max_examples=40)
@given(POINTS, st.lists(st.integers(0, 200), max_size=8))
def test_levels_are_the_same_bit_for_bit_however_many_values_come_at_a_time(
    points: list[Point], cuts: list[int]
) -> None:
    values = _values(points)
    whole = _levels(values, [])
    parts = _levels(values, sorted(min(cut, len(points)) for cut in cuts))
    for left, right in zip(whole, parts, strict=True):
        _same_bits(left, right)


@settings(max_examples=40)
@given(POINTS, st.integers(0, 200), st.integers(0, 3))
def test_values_that_are_not_fed_yet_make_the_same_buckets_as_those_that_are(
    points: list[Point], cut: int, level: int
) -> None:
    values = _values(points)
    _same_bits(_levels(values, [])[level], _levels(values, [], fresh=cut)[level])


def _levels(values: Buckets, cuts: list[int], fresh: int = 0) -> list[Buckets]:
    """Return all buckets of each level, fed in pieces, the last ``fresh`` not at all."""
    opens = [Owned.none() for _ in range(LEVELS)]
    closed: list[list[Owned]] = [[] for _ in range(LEVELS)]
    end = max(values.size - fresh, 0)
    cuts = [min(cut, end) for cut in cuts]
    for start, stop in zip([0, *cuts], [*cuts, end], strict=True):
        piece = values.take(slice(start, stop))
        opens, more = grown(opens, Owned(np.zeros(piece.size, np.int64), piece), 2)
        for level, rows in enumerate(more):
            closed[level].append(rows)
    rest = values.take(slice(end, None))
    return [
        joined(
            [together(closed[level], 1).rows, tail([one.of(0) for one in opens], rest, 2, level)], width_of(2, level)
        )
        for level in range(LEVELS)
    ]


@given(POINTS, st.integers(0, 6))
def test_packed_buckets_come_back_bit_for_bit(points: list[Point], shift: int) -> None:
    buckets = reduce(_values(points), 2**shift)
    _same_bits(unpack(pack(buckets), buckets.width), buckets)


def test_what_a_run_has_most_of_is_packed_small(rng: np.random.Generator) -> None:
    size = 64 * 500
    steps = np.arange(size)
    values = of_values(steps, rng.normal(size=size), np.ones(size, np.int64), steps * 50, 1e9 + steps * 0.01)
    buckets = reduce(values, 64)
    assert len(pack(buckets)) < 27 * buckets.size + 200
    _same_bits(unpack(pack(buckets), 64), buckets)


@given(POINTS, POINTS, st.integers(0, 6))
def test_buckets_that_are_put_behind_packed_ones_stand_behind_them(
    points: list[Point], more: list[Point], shift: int
) -> None:
    buckets, after = (reduce(_values(some), 2**shift) for some in (points, more))
    _same_bits(unpack(pack(buckets), buckets.width, after), joined([buckets, after], buckets.width))
    _same_bits(unpack(pack(buckets), buckets.width, after.take(slice(0, 0))), buckets)


@pytest.mark.parametrize("least", [1, 250, 70_000, 2**40])
@pytest.mark.parametrize("most", [255, 65_535, 2**32 - 1])
def test_steps_are_packed_as_distances_of_any_size(least: int, most: int) -> None:
    steps = np.cumsum([0, least, least + most, least, least + most // 2])
    values = of_values(steps, steps.astype(np.float64), np.ones(len(steps), np.int64), steps, steps / 7)
    _same_bits(unpack(pack(values), 1), values)


@given(POINTS, st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_runs_of_one_length_make_the_same_as_runs_of_any(
    points: list[Point], length: int, first: int, more: int
) -> None:
    values = _values(points)
    starts = np.unique(np.append([0], np.arange(min(first, values.size - 1), max(values.size - more, 1), length)))
    whole = fold(values, starts, 1)
    ends = [*starts[1:].tolist(), values.size]
    parts = [fold(values.take(slice(start, end)), np.array([0]), 1) for start, end in zip(starts, ends, strict=True)]
    _same_bits(whole, joined(parts, 1))


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_are_buckets(data: bytes) -> None:
    try:
        unpack(data, 1)
    except CorruptStateError:
        return


def test_means_are_over_samples() -> None:
    values = of_values(np.array([0, 1]), np.array([10.0, 6.0]), np.array([10, 2]))
    assert values.min.tolist() == [1.0, 3.0]
    assert reduce(values, 2).means.tolist() == [16 / 12]


def test_an_integer_beyond_doubles_counts_as_infinite() -> None:
    values = np.empty(3, object)
    values[:] = [10**400, -(10**400), True]
    found = of_values(np.arange(3), values, np.ones(3, np.int64))
    assert [found.plus_inf.tolist(), found.minus_inf.tolist()] == [[1, 0, 0], [0, 1, 0]]
    assert found.sum.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.filterwarnings("error")
def test_of_nothing_comes_nothing() -> None:
    nothing = Buckets.none(4)
    assert reduce(nothing, 2).size == 0
    assert reduce(nothing, 2).width == 8
    assert joined([], 2).size == 0
    one = of_values(np.array([5]), np.array([math.nan]), np.array([1]))
    assert np.isnan(fold(one, np.array([0]), 8).means).all()


def test_many_small_parts_are_few_larger_ones_and_the_same() -> None:
    pile, parts = Pile(1), []
    for step in range(5000):
        rows = of_values(np.array([step]), np.array([float(step)]), np.array([1]), np.array([step + 1]))
        parts.append(Owned(np.array([step % 3]), rows))
        pile.add(parts[-1])
    assert pile.size == 5000
    assert len(pile._parts) < 20
    expected = together(parts, 1).by_owner()
    assert pile.all().owners.tolist() == expected.owners.tolist()
    assert pile.all().rows.first_seq.tolist() == expected.rows.first_seq.tolist()
