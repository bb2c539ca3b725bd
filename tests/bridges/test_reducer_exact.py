"""Results over ranks, against NumPy's float64, and bit by bit against each other."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from asynchub.bridges import agreeing
from asynchub.bridges.accumulating import ReductionKind
from asynchub.bridges.reducer import Reducer
from asynchub.bridging import ScalarsReduced
from asynchub.hub import MessageHub
from tests.bridges.ranks import Rank, run_ranks

KINDS: dict[str, ReductionKind] = {
    "train/loss": "mean",
    "train/tokens": "sum",
    "train/low": "min",
    "train/high": "max",
    "train/rate": "last",
}
INTERVALS = 12
EVERY = 3
Update = tuple[str, float, int, int]


def updates_of(rank: int, interval: int) -> list[Update]:
    """Return what a rank publishes in an interval: key, value, count and step."""
    rng = np.random.default_rng((rank, interval))
    found: list[Update] = []
    for number in range(EVERY):
        step = EVERY * interval + number + 1
        for key in KINDS:
            for _ in range(rng.integers(0, 3)):
                value = float(rng.normal() * 10.0 ** rng.integers(-9, 9))
                found.append((key, value, int(rng.integers(1, 5)), step))
    if interval == 1 and rank == 1:
        found.append(("train/low", math.nan, 1, EVERY * interval + 1))
        found += [(key, math.nan, 1, EVERY * interval + EVERY) for key in KINDS]
    if interval == 2:
        found.append(("train/tokens", float(2**52 + rank), 1, EVERY * interval + EVERY))
        found.append(("train/loss", math.inf if rank else 1.0, 1, EVERY * interval + EVERY))
    if interval == 3:
        found = []  # of no rank is there anything
    return found


def whole(rank: int, size: int, interval: int) -> int:
    """Return the part that a rank has of a sum just below 2**53."""
    total = 2**53 - 1 - interval
    return total // size + (total % size if rank == 0 else 0)


def train(rank: Rank, gathered: int) -> tuple[list[Any], list[Any]]:
    """Publish, and return the results of the means and the like, and what was said about them."""
    agreeing.GATHERED = gathered
    hub = MessageHub("exact")
    reducer = Reducer(hub, {**KINDS, "train/whole": "sum"}, every=EVERY, name=f"exact {gathered}")
    results: list[Any] = []
    said: list[Any] = []
    hub.on("all/**", role="control")(lambda event: results.append((event.key, event.step, event.value, event.count)))
    hub.on(ScalarsReduced, role="control")(lambda event: said.append((event.interval, event.step, dict(event.keys))))
    with hub:
        for interval in range(INTERVALS):
            for number in range(EVERY):
                hub.step = EVERY * interval + number + 1
                for key, value, count, step in updates_of(rank.index, interval):
                    if step == hub.step:
                        hub.update_scalar(key, value, count)
                if number == 1:
                    hub.update_scalar("train/whole", whole(rank.index, rank.size, interval))
                hub.settle()
        reducer.close()
    return results, said


def both(rank: Rank) -> list[Any]:
    return [train(rank, 64), train(rank, 1)]


@cache
def outcomes(size: int) -> list[Any]:
    return run_ranks(size, both)


SIZES = [2, 3, 4, pytest.param(8, marks=pytest.mark.slow)]
WAYS = ["gathered", "added up"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> int:
    return WAYS.index(request.param)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_get_the_same_bits_at_the_same_steps(size: int, way: int) -> None:
    first, *others = (outcome[way] for outcome in outcomes(size))
    assert len(first[1]) == INTERVALS + 1  # the last is what was left at the end: nothing
    for results, said in others:
        assert [(key, step, bits(value), count) for key, step, value, count in results] == [
            (key, step, bits(value), count) for key, step, value, count in first[0]
        ]
        assert said == first[1]


def partials(size: int, interval: int, key: str) -> Iterator[tuple[int, float, int, int]]:
    """Yield of each rank that has something: its number, value, count and newest step, as NumPy has it."""
    for rank in range(size):
        mine = [one for one in updates_of(rank, interval) if one[0] == key]
        mine.sort(key=lambda one: one[3])  # as it is published
        if not mine:
            continue
        values = np.array([value for _, value, _, _ in mine])
        counts = np.array([count for _, _, count, _ in mine])
        kind = KINDS[key]
        newest = max(step for *_, step in mine)
        if kind in ("mean", "sum"):
            yield rank, float(np.add.accumulate(values)[-1]), int(counts.sum()), newest
        elif kind == "min":
            yield rank, float((values / counts).min()), 1, newest
        elif kind == "max":
            yield rank, float((values / counts).max()), 1, newest
        else:
            yield rank, mine[-1][1], mine[-1][2], newest


def wanted(size: int, interval: int, key: str) -> tuple[float, int, int, int] | None:
    """Return value, count, and the ranks of the lowest and the highest, as NumPy has it; None for nothing."""
    parts = list(partials(size, interval, key))
    if not parts:
        return None
    kind = KINDS[key]
    values = np.array([value for _, value, _, _ in parts])
    counts = np.array([count for _, _, count, _ in parts])
    compared = values / counts if kind == "mean" else values
    if np.isnan(compared).all():
        lowest = highest = parts[0][0]
    else:
        lowest, highest = parts[int(np.nanargmin(compared))][0], parts[int(np.nanargmax(compared))][0]
    if kind in ("mean", "sum"):
        total = float(np.add.accumulate(values)[-1])
        return total, int(counts.sum()) if kind == "mean" else 1, lowest, highest
    if kind in ("min", "max"):
        return float(values.min() if kind == "min" else values.max()), 1, lowest, highest
    newest = max(step for *_, step in parts)
    last = [part for part in parts if part[3] == newest][-1]
    return last[1], last[2], lowest, highest


@pytest.mark.parametrize("size", SIZES)
def test_the_results_are_those_of_numpy(size: int, way: int) -> None:
    results, said = outcomes(size)[0][way]
    found = {(key, step): (value, count) for key, step, value, count in results}
    facts = {(key, step): one for _, step, keys in said for key, one in keys.items()}
    for interval in range(INTERVALS):
        for key in KINDS:
            step = EVERY * interval + EVERY
            should = wanted(size, interval, key)
            if should is None:
                assert (f"all/{key}", step) not in found
                continue
            value, count, lowest, highest = should
            got = found.pop((f"all/{key}", step))
            if way == 0:  # in the order of the ranks
                assert np.array_equal(got[0], value, equal_nan=True), (key, step)
            else:
                assert np.allclose(got[0], value, rtol=1e-14, atol=1e-6, equal_nan=True), (key, step)
            assert got[1] == count
            fact = facts[key, step]
            assert (fact["lowest"], fact["highest"]) == (lowest, highest)
            updates = [one[1] for rank in range(size) for one in updates_of(rank, interval) if one[0] == key]
            assert fact["non_finite"] == sum(not math.isfinite(one) for one in updates)
    assert {key for key, _ in found} == {"all/train/whole"}


@pytest.mark.parametrize("size", SIZES)
def test_whole_numbers_are_exact_up_to_two_to_the_53(size: int, way: int) -> None:
    results, _ = outcomes(size)[0][way]
    found = [value for key, _, value, _ in results if key == "all/train/whole"]
    assert found == [2**53 - 1 - interval for interval in range(INTERVALS)]
