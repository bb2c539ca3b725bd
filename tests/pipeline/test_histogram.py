"""The buckets that durations are counted in; NumPy's order statistics are the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.pipeline.histogram import BUCKETS, SUB_BUCKETS, bucket_of, bucket_range, empty, indices, quantiles

LONGEST = 2**53
"""Nanoseconds, 104 days: up to here both ways to find a bucket agree; see ``indices``."""
DURATIONS = st.one_of(
    st.integers(0, 64),
    st.integers(0, LONGEST - 1),
    st.builds(lambda bits, off: max((1 << bits) + off, 0), st.integers(0, 52), st.integers(-2, 2)),
)
SHARES = (0.0, 0.01, 0.5, 0.95, 0.99, 1.0)
WITHIN = 0.032


def counts_of(durations: list[int] | np.ndarray) -> np.ndarray:
    return np.bincount(indices(np.asarray(durations, np.int64)), minlength=BUCKETS)


@settings(max_examples=100)
@given(st.lists(DURATIONS, min_size=1, max_size=50))
def test_plain_python_and_numpy_find_the_same_bucket(durations: list[int]) -> None:
    assert indices(np.array(durations, np.int64)).tolist() == [bucket_of(one) for one in durations]


@given(DURATIONS)
def test_a_duration_lies_in_the_range_of_its_bucket(duration: int) -> None:
    low, above = bucket_range(bucket_of(duration))
    assert low <= duration < above


@given(DURATIONS, DURATIONS)
def test_a_longer_duration_is_never_in_an_earlier_bucket(one: int, other: int) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_the_ranges_follow_each_other_without_a_gap_up_to_the_largest_int64() -> None:
    ranges = [bucket_range(number) for number in range(BUCKETS)]
    assert ranges[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert ranges[-1][1] == 2**63
    assert bucket_of(2**63 - 1) == BUCKETS - 1
    assert [bucket_of(low) for low, _ in ranges] == list(range(BUCKETS))
    assert [bucket_of(above - 1) for _, above in ranges] == list(range(BUCKETS))


def test_the_middle_of_a_bucket_is_within_the_promised_distance_of_all_that_is_in_it() -> None:
    for low, above in (bucket_range(number) for number in range(1, BUCKETS)):
        middle = (low + above - 1) / 2
        assert max(middle - low, above - 1 - middle) <= WITHIN * low


def test_small_durations_have_a_bucket_each() -> None:
    assert [bucket_range(number) for number in range(2 * SUB_BUCKETS)] == [(n, n + 1) for n in range(2 * SUB_BUCKETS)]


def test_what_is_below_zero_counts_as_zero_and_what_is_too_long_as_the_longest() -> None:
    assert bucket_of(-1) == bucket_of(-(2**62)) == 0
    assert indices(np.array([-1, -(2**63), 2**63 - 1], np.int64)).tolist() == [0, 0, BUCKETS - 1]
    assert bucket_of(2**70) == BUCKETS - 1


@settings(max_examples=60)
@given(st.lists(DURATIONS, min_size=1, max_size=400), st.lists(st.floats(0, 1), max_size=5))
def test_quantiles_are_the_order_statistics_of_numpy_within_the_promised_distance(
    durations: list[int], more: list[float]
) -> None:
    shares = [*SHARES, *more]
    found = quantiles(counts_of(durations), *shares)
    for share, value in zip(shares, found, strict=True):
        rank = max(math.ceil(share * len(durations)), 1)  # numpy rounds share times n in its own way
        wanted = sorted(durations)[rank - 1]
        assert value == pytest.approx(wanted, rel=WITHIN, abs=0)


@pytest.mark.parametrize("number", [1, 7, 30, 100, 4096, 20_000])
def test_quantiles_of_many_shapes_agree_with_numpy(number: int, rng: np.random.Generator) -> None:
    shapes = {
        "lognormal": rng.lognormal(14, 2, number),
        "bimodal": np.where(rng.random(number) < 0.9, rng.normal(1e6, 1e4, number), rng.normal(5e8, 1e6, number)),
        "exponential": rng.exponential(1e7, number),
        "constant": np.full(number, 123_456_789.0),
    }
    for durations in shapes.values():
        whole = np.maximum(durations, 0).astype(np.int64)
        wanted = np.quantile(whole, SHARES, method="inverted_cdf")
        assert quantiles(counts_of(whole), *SHARES) == pytest.approx(wanted.tolist(), rel=WITHIN)


def test_nothing_has_no_quantiles() -> None:
    assert all(math.isnan(one) for one in quantiles(empty(), 0.5, 0.99))


@settings(max_examples=40)
@given(st.lists(st.lists(DURATIONS, max_size=40), min_size=1, max_size=6))
def test_merged_counts_are_exactly_those_of_the_union(parts: list[list[int]]) -> None:
    merged = empty()
    for part in parts:
        merged += counts_of(part)
    union = [one for part in parts for one in part]
    assert merged.tolist() == counts_of(union).tolist()
    assert int(merged.sum()) == len(union)


@settings(max_examples=40)
@given(st.lists(DURATIONS, max_size=40), st.lists(DURATIONS, max_size=40))
def test_what_is_taken_from_a_sum_leaves_the_other_part(before: list[int], after: list[int]) -> None:
    assert (counts_of(before + after) - counts_of(before)).tolist() == counts_of(after).tolist()
