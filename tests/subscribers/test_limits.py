"""``Timer`` and ``MaxSteps``: they stop where the events say, also after a resume and in a replay."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, Paused, PauseEnded, StopRequested
from asynchub.subscribers.limits import MaxSteps, Timer, TrainingTime, seconds_of
from asynchub.testing import Drive, drive
from tests.subscribers.observing import START, stamped


def ticks(count: int, seconds: float = 1.0) -> list[Event]:
    return stamped([ScalarUpdated(key="train/loss", value=1.0, step=step) for step in range(count)], seconds)


def stops(subscriber: Any, events: list[Event]) -> list[tuple[int, str]]:
    """Return the index of the event at which a stop was asked for, and the reason."""
    driven = Drive(subscriber)
    return [
        (index, one.reason)
        for index, event in enumerate(events)
        for one in driven.send(event)
        if isinstance(one, StopRequested)
    ]


def saved_and_loaded(subscriber: Any, other: Any) -> Any:
    other.load_state_dict(msgpack.unpackb(msgpack.packb(subscriber.state_dict(), strict_types=True)))
    return other


# --- durations


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("00:12:00:00", 43_200.0),
        ("1:02:03:04", 93_784.0),
        ("00:00:00:30", 30.0),
        (90, 90.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_a_duration_is_seconds_a_timedelta_or_what_lightning_takes(value: Any, seconds: float) -> None:
    assert seconds_of("duration", value) == seconds


@pytest.mark.slow  # for its import
def test_durations_are_those_of_lightning() -> None:
    timer = pytest.importorskip("lightning.pytorch.callbacks").Timer
    for text in ("00:12:00:00", "01:23:59:59", "10:00:00:01"):
        assert seconds_of("duration", text) == timer(text)._duration


@pytest.mark.parametrize("value", ["12:00:00", "00:24:00:00", "00:00:60:00", "", "1h", -1, True, None, float("inf")])
def test_another_form_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="duration"):
        seconds_of("duration", value)


# --- Timer


def test_it_stops_at_the_first_event_at_which_the_time_is_up() -> None:
    assert stops(Timer(10), ticks(30)) == [(10, "trained for 10 s of 10 s")]
    assert stops(Timer(10, margin=2.5), ticks(30)) == [(8, "trained for 8 s of 10 s, 2.5 s before it")]
    assert stops(Timer("00:01:00:00"), ticks(90, 60.0)) == [(60, "trained for 01:00:00 of 01:00:00")]
    assert stops(Timer(31), ticks(30)) == []


def test_it_stops_before_a_moment_whenever_training_began() -> None:
    for until in (START + 20, datetime.fromtimestamp(START + 20, UTC), datetime.fromtimestamp(START + 20)):
        ((index, reason),) = stops(Timer(until=until, margin=5), ticks(30))
        assert index == 15
        assert reason.endswith(", 5 s before it")
        assert reason.startswith("time is up at 2023-")
    assert stops(Timer(100, until=START + 3), ticks(30))[0][0] == 3
    assert stops(Timer(2, until=START + 3), ticks(30))[0][0] == 2


def test_the_decision_is_said_once() -> None:
    _, decided, asked = drive(Timer(2), ticks(9))
    assert isinstance(decided, Decided)
    assert isinstance(asked, StopRequested)
    assert (decided.verdict, decided.reason) == ("stop", "trained for 2 s of 2 s")


def test_a_pause_is_no_training() -> None:
    events = ticks(40)
    for index, event in ((5, Paused(seconds=60.0)), (15, PauseEnded(seconds=10.0)), (16, Paused(seconds=1.0))):
        events[index] = event.stamped(index + 1, START + index, index)
    events[18] = PauseEnded(seconds=2.0).stamped(19, START + 18, 18)
    assert stops(Timer(10), events) == [(22, "trained for 10 s of 10 s")]
    assert stops(Timer(until=START + 8), events)[0][0] == 8  # a moment comes all the same


def test_a_run_that_is_split_amid_a_pause_stops_where_one_does_that_was_not() -> None:
    events = ticks(40)
    for index, event in ((5, Paused(seconds=60.0)), (15, PauseEnded(seconds=10.0))):
        events[index] = event.stamped(index + 1, START + index, index)
    for split in range(21):
        first = Timer(10)
        driven = Drive(first)
        for event in events[:split]:
            driven.send(event)
        assert stops(saved_and_loaded(first, Timer(10)), events[split:])[0][0] == 20 - split, f"split at {split}"


def test_who_was_saved_amid_a_pause_and_goes_on_later_trains() -> None:
    timer = Timer(10)
    driven = Drive(timer)
    for event in (*ticks(5), Paused(seconds=60.0).stamped(6, START + 5, 5)):
        driven.send(event)
    assert timer.elapsed == 5.0
    resumed = saved_and_loaded(timer, Timer(10))
    now = time.time()
    later = [event.stamped(100 + second, now + second, second) for second, event in enumerate(ticks(20))]
    assert stops(resumed, later)[0][0] in (4, 5, 6)  # the load was a moment before `now`


def test_who_is_entered_again_amid_a_pause_trains() -> None:
    timer = Timer(1000)
    driven = Drive(timer)
    driven.send(Paused(seconds=60.0).stamped(1, START, 1))
    driven.close()
    driven = Drive(timer)
    for event in ticks(5):
        driven.send(event)
    assert timer.elapsed == 4.0


def test_the_time_that_remains_can_be_asked_for() -> None:
    timer = Timer(10, until=START + 9, margin=1)
    assert (timer.elapsed, timer.remaining) == (0.0, 9.0)
    driven = Drive(timer)
    found = []
    for event in ticks(12, 2.0)[:6]:
        driven.send(event)
        found.append((timer.elapsed, timer.remaining))
    assert found == [(0.0, 8.0), (2.0, 6.0), (4.0, 4.0), (6.0, 2.0), (8.0, 0.0), (10.0, 0.0)]


def test_a_clock_that_is_set_back_adds_nothing_and_goes_on() -> None:
    clock = TrainingTime()
    times = [100.0, 103.0, 50.0, 52.0, float("nan"), 53.0]
    assert [clock.see(time) for time in times] == [0.0, 3.0, 3.0, 5.0, 5.0, 6.0]


@pytest.mark.parametrize("make", [lambda: Timer(17, margin=1), lambda: MaxSteps(23), lambda: MaxSteps(max_epochs=4)])
def test_a_run_that_is_split_anywhere_stops_where_one_does_that_was_not(make: Any, seed: int) -> None:
    rng = random.Random(seed)
    events: list[Event] = []
    now = START
    for step in range(40):
        now += rng.random()
        event: Event = ScalarUpdated(key="train/loss", value=1.0, step=step)
        if step % 6 == 0:
            event = InfoUpdated(key="epoch", value=step // 6, step=step)
        events.append(event.stamped(step + 1, now, step))
    ((index, reason),) = stops(make(), events)
    for split in range(index + 1):
        first = make()
        assert stops(first, events[:split]) == []
        first = make()
        driven = Drive(first)
        for event in events[:split]:
            driven.send(event)
        assert stops(saved_and_loaded(first, make()), events[split:])[0] == (index - split, reason), f"split at {split}"


def test_what_lies_between_saving_and_loading_is_no_training() -> None:
    timer = Timer(100)
    driven = Drive(timer)
    for event in ticks(61):  # years ago
        driven.send(event)
    resumed = saved_and_loaded(timer, Timer(100))
    now = time.time()
    later = [event.stamped(100 + second, now + second, second) for second, event in enumerate(ticks(60))]
    (stop,) = stops(resumed, later)
    assert stop[0] in (39, 40)  # the load was a moment before `now`


def test_a_time_that_was_up_is_said_again_after_a_resume_unless_there_is_more_of_it_now() -> None:
    timer = Timer(3)
    driven = Drive(timer)
    for event in ticks(6):
        driven.send(event)
    assert stops(saved_and_loaded(timer, Timer(3)), ticks(8)[6:])[0][0] == 0
    assert stops(saved_and_loaded(timer, Timer(8)), ticks(12)[6:]) == [(2, "trained for 8 s of 8 s")]


def test_a_hub_stops_and_goes_on_counting_when_it_is_resumed(tmp_path: Path) -> None:
    first = MessageHub("first")
    timer = Timer(0.05)
    first.attach(timer)
    with first:
        while not first.stop_requested:
            first.step += 1
            first.update_scalar("train/loss", 1.0)
            first.settle()
        assert first.stop_reason.startswith("trained for ")
        first.save(tmp_path / "state")
    assert timer.elapsed >= 0.05
    second = MessageHub("second")
    second.load(tmp_path / "state")
    resumed = Timer(3600)
    second.attach(resumed)
    assert 0.05 <= resumed.elapsed < 3600


def test_the_time_between_two_lives_of_a_hub_does_not_count() -> None:
    timer = Timer(1000)
    for begin in (0, 5000):
        driven = Drive(timer)
        for event in ticks(10_000)[begin : begin + 11]:
            driven.send(event)
        driven.close()
    assert timer.elapsed == 20.0


# --- MaxSteps


def at(*steps: int | None) -> list[Event]:
    return [ScalarUpdated(key="train/loss", value=1.0, step=step) for step in steps]


def test_it_stops_at_the_step_or_the_first_beyond() -> None:
    assert stops(MaxSteps(5), at(1, 2, 4, 7, 8)) == [(3, "step 7 of 5 is reached")]
    assert stops(MaxSteps(5), at(1, 2, 3, 4)) == []


def test_it_stops_when_so_many_epochs_are_done() -> None:
    epochs: list[Event] = [InfoUpdated(key="epoch", value=value, step=0) for value in (0, 1, "x", None, 2, 3, 4)]
    assert stops(MaxSteps(max_epochs=3), epochs) == [(5, "epoch 3 of 3 is reached")]
    assert stops(MaxSteps(1, max_epochs=1), [*epochs[:2], *at(1)]) == [(1, "epoch 1 of 1 is reached")]
    assert stops(MaxSteps(1, max_epochs=9), [*epochs[:2], *at(1)]) == [(2, "step 1 of 1 is reached")]


def test_epochs_can_be_counted_by_what_ends_them() -> None:
    """A program that says ``epoch`` from 1 as an epoch begins, and settles in each step."""
    hub = MessageHub("hub")
    hub.attach(MaxSteps(max_epochs=3, on="val/loss"))
    for epoch in range(1, 9):
        hub.update_info("epoch", epoch)
        for _ in range(4):
            hub.step += 1
            hub.update_scalar("train/loss", 1.0)
            hub.settle()
        hub.update_scalar("val/loss", 1.0)
        hub.settle()
        if hub.stop_requested:
            break
    assert (epoch, hub.step, hub.stop_reason) == (3, 12, "epoch 3 of 3 is reached")


def test_an_update_over_no_samples_ends_no_epoch() -> None:
    events: list[Event] = [ScalarUpdated(key="val/loss", value=0.0, count=count) for count in (1, 0, 0, 4)]
    assert stops(MaxSteps(max_epochs=2, on="val/loss"), events) == [(3, "epoch 2 of 2 is reached")]


# --- limits that are said


def limits(subscriber: Any, events: list[Event]) -> list[tuple[str, float | None, float | None, str]]:
    return [
        (one.verdict, one.best, one.value, one.reason)
        for one in drive(subscriber, events)
        if isinstance(one, Decided) and one.verdict != "stop"
    ]


def test_a_limit_is_said_once_as_the_run_begins() -> None:
    assert limits(MaxSteps(50), ticks(9)) == [("step_limit", 50.0, None, "stops at step 50")]
    assert limits(MaxSteps(50, max_epochs=1), ticks(9)) == [
        ("step_limit", 50.0, None, "stops at step 50"),
        ("epoch_limit", 1.0, 0.0, "stops when 1 epoch is done"),
    ]
    counted = MaxSteps(max_epochs=3, on="val/loss")
    (said,) = limits(counted, [ScalarUpdated(key="val/loss", value=1.0)])
    assert said == ("epoch_limit", 3.0, None, "stops when 3 epochs are done, counted by val/loss")
    time_limit, deadline = limits(Timer(50, until=START + 90, margin=5), ticks(9))
    assert time_limit == ("time_limit", 45.0, 0.0, "stops when it has trained for 50 s, 5 s before it")
    assert deadline[:3] == ("deadline", START + 85, None)
    assert deadline[3].endswith(", 5 s before it")


def test_a_resumed_one_says_its_limits_only_if_they_are_others() -> None:
    for make, other in ((lambda: MaxSteps(50), MaxSteps(60)), (lambda: Timer(50), Timer(60))):
        first = make()
        drive(first, ticks(3))
        assert limits(saved_and_loaded(first, make()), ticks(3)) == []
        (said,) = limits(saved_and_loaded(first, other), ticks(3))
        assert said[1] == 60.0


@pytest.mark.parametrize(
    "make",
    [lambda: MaxSteps(10**400), lambda: MaxSteps(max_epochs=10**400), lambda: Timer(1e300), lambda: Timer(until=1e300)],
)
def test_a_limit_that_nothing_reaches_is_not_said(make: Any) -> None:
    assert drive(make(), ticks(3)) == []


def test_a_moment_that_no_calendar_has_is_said_all_the_same() -> None:
    (said,) = limits(Timer(until=1e15), ticks(3))
    assert said[1:] == (1e15, None, "stops at 1e+15 s since 1970")


@pytest.mark.parametrize(
    ("make", "state"), [(lambda: Timer(9), {"elapsed": 3.0, "last": START}), (lambda: MaxSteps(9), {"epochs": 3})]
)
def test_a_state_of_an_earlier_version_is_taken(make: Any, state: Any) -> None:
    rule = make()
    rule.load_state_dict(state)
    assert rule.state_dict().items() >= state.items()


# --- arguments and states


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"duration": 0},
        {"duration": 5, "margin": 5},
        {"duration": 5, "margin": -1},
        {"until": "tomorrow"},
        {"until": float("nan")},
        {"duration": "a day"},
    ],
)
def test_a_timer_refuses_what_it_cannot_keep(arguments: Any) -> None:
    with pytest.raises(ArgumentError):
        Timer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ArgumentError),
        ({"max_steps": 0}, ArgumentError),
        ({"max_steps": True}, ArgumentError),
        ({"max_epochs": 1.5}, ArgumentError),
        ({"max_steps": 5, "on": "val/loss"}, ArgumentError),
        ({"max_epochs": 5, "on": "val/*"}, ArgumentError),
        ({"max_epochs": 5, "on": ""}, PatternError),
    ],
)
def test_a_limit_that_is_none_is_refused(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        MaxSteps(**arguments)


@pytest.mark.parametrize(
    "state",
    [
        {"elapsed": -1.0, "last": None},
        {"elapsed": float("inf"), "last": None},
        {"elapsed": 1.0},
        {"epochs": "3"},
        {"elapsed": 1.0, "last": None, "epochs": 3, "said": {"deadline": "soon"}},
        {"elapsed": 1.0, "last": None, "epochs": 3, "said": {"deadline": float("nan")}},
        {"elapsed": 1.0, "last": None, "epochs": 3, "said": {3: 1.0}},
        {"elapsed": 1.0, "last": None, "epochs": "3", "said": [], "paused": 1},
    ],
)
def test_a_damaged_state_is_refused_and_leaves_no_trace(state: Any) -> None:
    for subscriber in (Timer(5), MaxSteps(max_epochs=3)):
        before = subscriber.state_dict()
        with pytest.raises(StateDictError):
            subscriber.load_state_dict(state)
        assert subscriber.state_dict() == before
