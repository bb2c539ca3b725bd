"""What a rank has of each scalar, against NumPy's float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.bridges.accumulating import (
    COUNT,
    NON_FINITE,
    STEP,
    VALUE,
    Declarations,
    ReductionKind,
    Slots,
    accumulate,
    merge,
)
from asynchub.errors import ArgumentError, PatternError
from asynchub.events import ScalarUpdated

KINDS: tuple[ReductionKind, ...] = ("mean", "sum", "min", "max", "last")
wholes = st.integers(-(2**40), 2**40).map(float)  # sums of them are exact in any order
few = settings(max_examples=50)
values = wholes | st.sampled_from([math.nan, math.inf, -math.inf])
updates = st.lists(st.tuples(values, st.integers(0, 9), st.none() | st.integers(0, 99)), min_size=1, max_size=20)


def accumulated(kind: ReductionKind, given_updates: list[tuple[float, int, int | None]]) -> Slots:
    slots: Slots = {}
    events = [ScalarUpdated(key="k", value=value, count=count, step=step) for value, count, step in given_updates]
    accumulate(events, Declarations({"k": kind}, (), "all/"), slots, {})
    return slots


def expected(kind: ReductionKind, given_updates: list[tuple[float, int, int | None]]) -> list[float] | None:
    """Return what the simplest model has, by ``[value, count]``; None for nothing."""
    if kind in ("min", "max"):
        given_updates = [one for one in given_updates if one[1]]
    if not given_updates:
        return None
    array = np.array([value for value, _, _ in given_updates])
    counts = np.array([count for _, count, _ in given_updates])
    with np.errstate(invalid="ignore"):
        if kind in ("mean", "sum"):
            return [float(array.sum()), float(counts.sum())]
        if kind == "min":
            return [float((array / counts).min()), 1.0]
        if kind == "max":
            return [float((array / counts).max()), 1.0]
    newest = max(-1 if step is None else step for _, _, step in given_updates)
    last = [one for one in given_updates if (-1 if one[2] is None else one[2]) == newest][-1]
    return [last[0], float(last[1])]


def same(one: list[float], other: list[float]) -> bool:
    return np.array_equal(np.array(one), np.array(other), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(given_updates=updates)
def test_updates_of_a_rank_come_to_what_numpy_has(
    kind: ReductionKind, given_updates: list[tuple[float, int, int | None]]
) -> None:
    slots = accumulated(kind, given_updates)
    wanted = expected(kind, given_updates)
    if wanted is None:
        assert slots == {}
        return
    slot = slots["k"]
    assert same([slot[VALUE], slot[COUNT]], wanted)
    counted = [one for one in given_updates if one[1] or kind not in ("min", "max")]
    assert slot[STEP] == max(-1 if step is None else step for _, _, step in counted)
    assert slot[NON_FINITE] == sum(not math.isfinite(value) for value, _, _ in counted)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(first=updates, then=updates)
def test_what_is_carried_over_counts_as_if_it_had_come_before(
    kind: ReductionKind,
    first: list[tuple[float, int, int | None]],
    then: list[tuple[float, int, int | None]],
) -> None:
    whole = accumulated(kind, first + then)
    carried = accumulated(kind, first)
    merge(carried, accumulated(kind, then), Declarations({"k": kind}, (), "all/"))
    assert whole.keys() == carried.keys()
    for key, slot in whole.items():
        assert same(slot, carried[key])


def test_an_int_beyond_every_float_is_infinite() -> None:
    slots = accumulated("sum", [(-(10**400), 1, 0)])
    assert slots["k"][VALUE] == -math.inf
    assert slots["k"][NON_FINITE] == 1


def test_whole_numbers_are_exact_up_to_two_to_the_53() -> None:
    slots = accumulated("sum", [(2**53 - 3, 1, 0), (1, 1, 0), (2, 1, 0)])
    assert slots["k"][VALUE] == 2**53


def test_the_first_pattern_that_selects_a_key_counts() -> None:
    found = Declarations({"train/tokens": "sum", "train/*": "mean", "**": "last"}, ("val/*",), "all/").find
    assert found("train/tokens") == ("sum", False)
    assert found("train/loss") == ("mean", False)
    assert found("val/loss") == ("last", True)
    assert found("all/train/loss") is None  # a result of its own


@pytest.mark.parametrize(
    ("kinds", "at_once", "prefix"),
    [
        ({}, (), "all/"),
        ("train/loss", (), "all/"),
        ({"train/loss": "avg"}, (), "all/"),
        ({"train/loss": "mean"}, (), ""),
        ({"train/loss": "mean"}, (), None),
    ],
)
def test_a_declaration_that_is_none_is_refused(kinds: object, at_once: object, prefix: object) -> None:
    with pytest.raises(ArgumentError):
        Declarations(kinds, at_once, prefix)  # type: ignore[arg-type]


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(PatternError):
        Declarations({"train//loss": "mean"}, (), "all/")
    with pytest.raises(PatternError):
        Declarations({"train/loss": "mean"}, ("a**",), "all/")
