"""Points out of updates: each, or one for a stretch."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest

from asynchub.errors import ArgumentError, ScheduleError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.subscribers.aggregation import Aggregation, Point
from tests.subscribers.observing import stamped


def updates(rng: np.random.Generator, count: int) -> list[Event]:
    """Return updates of three keys with sample counts, and epochs between them."""
    events: list[Event] = []
    for step in range(count):
        if step % 20 == 19:
            events.append(InfoUpdated(key="epoch", value=step // 20, step=step))
        key = "abc"[int(rng.integers(3))]
        samples = int(rng.integers(1, 5))
        events.append(ScalarUpdated(key=key, value=float(rng.normal()) * samples, count=samples, step=step))
    return stamped(events)


def points(aggregation: Aggregation, events: list[Event]) -> list[Point]:
    return [point for event in events if (point := aggregation.add(event)) is not None]


def test_without_every_each_update_is_a_point(rng: np.random.Generator) -> None:
    events = [event for event in updates(rng, 50) if isinstance(event, ScalarUpdated)]
    assert points(Aggregation(), [*events]) == [
        (event.key, event.value / event.count, event.count, event.step, event.time, event.seq) for event in events
    ]


@pytest.mark.parametrize("how", ["last", "mean", "min", "max"])
@pytest.mark.parametrize("every", [1, 7, "10ba", "1ep", "3s"])
def test_a_point_is_what_numpy_makes_of_the_updates_since_the_one_before(
    rng: np.random.Generator, how: Any, every: int | str
) -> None:
    events = updates(rng, 200)
    found = points(Aggregation(how, every), events)
    assert [(point.key, point.seq) for point in found] == [
        (point.key, point.seq) for point in points(Aggregation("last", every), events)
    ]
    before = dict.fromkeys("abc", 0)
    for point in found:
        gathered = [
            event
            for event in events
            if isinstance(event, ScalarUpdated)
            and event.key == point.key
            and before[point.key] < event.seq <= point.seq
        ]
        means = [event.value / event.count for event in gathered]
        samples = [event.count for event in gathered]
        expected = {
            "last": means[-1],
            "mean": np.average(means, weights=samples),
            "min": min(means),
            "max": max(means),
        }[how]
        assert point.value == pytest.approx(expected, rel=1e-12)
        assert point.samples == (gathered[-1].count if how == "last" and every == 1 else sum(samples))
        assert (point.step, point.time) == (gathered[-1].step, gathered[-1].time)
        before[point.key] = point.seq


def test_what_is_left_at_the_end_is_points_too() -> None:
    aggregation = Aggregation("mean", 10)
    events = stamped(
        [ScalarUpdated(key=key, value=value, step=1) for key, value in (("a", 1.0), ("b", 5.0), ("a", 3.0))]
    )
    assert points(aggregation, events) == []
    assert [(point.key, point.value, point.seq) for point in aggregation.rest()] == [("b", 5.0, 2), ("a", 2.0, 3)]
    assert aggregation.rest() == []


@pytest.mark.parametrize("how", ["mean", "min", "max"])
def test_a_nan_among_them_is_not_hidden(how: Any) -> None:
    aggregation = Aggregation(how, 3)
    events = stamped([ScalarUpdated(key="a", value=value) for value in (1.0, math.nan, 3.0, 1.0, 2.0, 3.0)])
    first, second = points(aggregation, events)
    assert math.isnan(first.value)
    assert math.isfinite(second.value)


def test_updates_of_no_samples_and_of_huge_ints_are_taken() -> None:
    for how in ("last", "mean", "min", "max"):
        aggregation = Aggregation(how, 4)  # type: ignore[arg-type]
        events = [
            ScalarUpdated(key="a", value=value, count=count) for value, count in ((5, 0), (10**400, 2), (3, 1), (4, 0))
        ]
        (point,) = points(aggregation, stamped(events))
        assert point.value == {"last": 4.0, "mean": math.inf, "min": 3.0, "max": math.inf}[how]


@pytest.mark.parametrize("every", [7, "10ba", "1ep", "3s"])
def test_a_state_at_any_point_goes_on_to_the_same_points(rng: np.random.Generator, every: int | str) -> None:
    events = updates(rng, 60)
    whole = points(Aggregation("mean", every), events)
    for split in range(len(events)):
        first, second = Aggregation("mean", every), Aggregation("mean", every)
        found = points(first, events[:split])
        second.load_state_dict(msgpack.unpackb(msgpack.packb(first.state_dict())))
        assert found + points(second, events[split:]) == whole


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'last', 'mean', 'min' or 'max'"):
        Aggregation("median", 10)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="needs every="):
        Aggregation("mean")
    with pytest.raises(ScheduleError):
        Aggregation("mean", "10 steps")
    aggregation = Aggregation("mean", 10)
    for state in ({}, None, {"every": None, "windows": [1]}, {"every": {"begun": 0}, "windows": {}}, {"windows": {}}):
        with pytest.raises(StateDictError):
            aggregation.load_state_dict(state)  # type: ignore[arg-type]
