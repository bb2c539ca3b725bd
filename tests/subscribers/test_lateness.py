"""Checks that come late: what is in time is decided on in the order of steps, the rest is said to be late."""

from __future__ import annotations

import logging
import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub.errors import ArgumentError, PatternError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Decided, ParameterChanged, StopRequested
from asynchub.subscribers import lateness
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscribers.lateness import StepOrder
from asynchub.subscribers.plateau import ReduceLROnPlateau
from asynchub.testing import Drive, drive

NAN = math.nan


class Optimizer:
    """Only what a rule needs of one."""

    def __init__(self, rate: float = 1.0) -> None:
        self.param_groups = [{"lr": rate}]


def check(step: int, value: float, count: int = 1) -> ScalarUpdated:
    return ScalarUpdated(key="loss", value=value * count, count=count, step=step)


def epoch(number: int, step: int) -> InfoUpdated:
    return InfoUpdated(key="epoch", value=number, step=step)


def decided(answers: list[Event]) -> list[tuple[Any, ...]]:
    """Return what was decided, without the times at which it was."""
    found: list[tuple[Any, ...]] = []
    for one in answers:
        if isinstance(one, Decided):
            found.append((one.step, one.verdict, one.reason, repr(one.value), repr(one.best), one.wait))
        elif isinstance(one, StopRequested):
            found.append(("stop", one.reason))
        elif isinstance(one, ParameterChanged):
            found.append(("change", one.old, one.new, one.reason))
    return found


def rules(allowed: Any) -> list[Any]:
    return [
        EarlyStopping("loss", patience=2, check_finite=False, allowed_lateness=allowed),
        EarlyStopping("loss", patience=3, start_from="2ep", smooth=2, min_epochs=3, allowed_lateness=allowed),
        EarlyStopping.like("keras", "loss", patience=2, allowed_lateness=allowed),
        ReduceLROnPlateau(Optimizer(), "loss", patience=1, factor=0.5, allowed_lateness=allowed),
        ReduceLROnPlateau.like("keras", Optimizer(), "loss", patience=1, factor=0.5, allowed_lateness=allowed),
    ]


EVERY = 10
"""Steps between checks."""
EPOCH = 30
"""Steps in an epoch."""


def permuted(values: list[float], delays: list[float], allowed: int) -> list[ScalarUpdated]:
    """Return checks each of which comes no more than ``allowed`` steps after one of a later step."""
    checks = [check((number + 1) * EVERY, value) for number, value in enumerate(values)]
    arrivals = [event.step + share * allowed for event, share in zip(checks, delays, strict=False) if event.step]
    order = np.argsort(arrivals, kind="stable")
    return [checks[index] for index in order]


VALUES = st.lists(st.one_of(st.integers(-8, 8).map(float), st.sampled_from([NAN, math.inf])), max_size=25)
DELAYS = st.lists(st.floats(0, 1), min_size=25, max_size=25)


@settings(max_examples=80)
@given(VALUES, DELAYS, st.integers(0, 120), st.booleans())
def test_any_order_within_the_lateness_in_steps_gives_the_decisions_of_the_sorted_series(
    values: list[float], delays: list[float], allowed: int, named: bool
) -> None:
    arrived = permuted(values, delays, allowed)
    infos = [epoch(number, number * EPOCH) for number in range(10)]
    for rule, sorted_rule in zip(rules(f"{allowed}ba" if named else allowed), rules(None), strict=True):
        got = drive(rule, [*infos, *arrived], "**")
        in_order: list[Event] = [*infos, *arrived]
        in_order.sort(key=lambda event: (event.step, isinstance(event, InfoUpdated)))
        assert decided(got) == decided(drive(sorted_rule, in_order, "**"))


@settings(max_examples=80)
@given(VALUES, DELAYS, st.integers(0, 3))
def test_any_order_within_the_lateness_in_epochs_gives_the_decisions_of_the_sorted_series(
    values: list[float], delays: list[float], allowed: int
) -> None:
    """A check of an epoch comes at some time until that epoch is ``allowed`` epochs past."""
    arriving: list[tuple[float, int, Event]] = []
    steps = len(values) * EVERY
    for number, (value, share) in enumerate(zip(values, delays, strict=False)):
        step = (number + 1) * EVERY
        last = math.ceil(step / EPOCH) + allowed  # the last epoch in which it may come, the first being 1
        arriving.append((step + share * (last * EPOCH - step), 0, check(step, value)))
    for number in range(steps // EPOCH + allowed + 2):
        arriving.append((number * EPOCH, 1, epoch(number + 1, number * EPOCH)))
    arriving.sort(key=lambda one: one[:2])
    arrived = [event for _, _, event in arriving]
    in_order = sorted(arrived, key=lambda event: (event.step, isinstance(event, InfoUpdated)))
    for rule, sorted_rule in zip(rules(f"{allowed}ep"), rules(None), strict=True):
        assert decided(drive(rule, arrived, "**")) == decided(drive(sorted_rule, in_order, "**"))


@pytest.mark.parametrize("allowed", [0, "25ba", 60, "1ep"])
def test_a_rule_saved_at_any_moment_decides_as_if_it_had_not_been(allowed: Any, rng: np.random.Generator) -> None:
    values = [float(value) for value in rng.integers(-4, 5, 15)]
    values[5] = NAN
    events: list[Event] = [*permuted(values, list(rng.random(15)), 100)]  # some of them are late
    for number in range(5):
        events.insert(number * 4, epoch(number + 1, number * EPOCH))
    for index in range(len(events) + 1):
        for whole, first, second in zip(rules(allowed), rules(allowed), rules(allowed), strict=True):
            before = Drive(first, "**")
            answers = [answer for event in events[:index] for answer in before.send(event)]
            second.load_state_dict(msgpack.unpackb(msgpack.packb(first.state_dict(), strict_types=True)))
            if isinstance(first, ReduceLROnPlateau):
                second._groups()[0]["lr"] = first._groups()[0]["lr"]
            answers += drive(second, events[index:], "**")
            got, wanted = decided(answers), decided(drive(whole, events, "**"))
            asked = [one for one in got if one[0] == "stop"]
            if len(asked) > 1:  # a resumed run hears it again
                last = max(place for place, one in enumerate(got) if one[0] == "stop")
                del got[last]
            assert got == wanted


def test_a_check_is_decided_on_when_no_earlier_one_may_come_any_more() -> None:
    driven = Drive(EarlyStopping("loss", allowed_lateness=20))
    sent = {
        step: [one.step for one in driven.send(check(step, 1.0)) if isinstance(one, Decided)] for step in (10, 30, 31)
    }
    assert sent == {10: [], 30: [], 31: [10]}
    assert [one.step for one in driven.close() if isinstance(one, Decided)] == [30, 31]


def test_what_is_late_is_said_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    events = [check(step, value) for step, value in ((10, 1.0), (20, 0.9), (50, 0.8), (15, 0.1), (12, 0.2), (40, 0.7))]
    with caplog.at_level(logging.WARNING, "asynchub"):
        answers = drive(stopping := EarlyStopping("loss", allowed_lateness=20), events)
    assert [(one.step, one.verdict, one.value) for one in answers if isinstance(one, Decided)] == [
        (10, "improved", 1.0),
        (20, "improved", 0.9),
        (15, "late", 0.1),
        (12, "late", 0.2),
        (40, "improved", 0.7),
        (50, "waiting", 0.8),
    ]
    assert (stopping.best, stopping.best_step) == (0.7, 40)
    (record,) = caplog.records
    assert record.getMessage() == (
        "EarlyStopping: loss of step 15 came after step 50: too late to be decided on in its place; "
        "give more allowed_lateness if it should be"
    )


def test_in_epochs_a_check_waits_for_the_runtime_info() -> None:
    driven = Drive(EarlyStopping("loss", allowed_lateness="1ep"))
    events = [epoch(1, 0), check(10, 1.0), epoch(2, 10), check(20, 2.0), epoch(3, 20), check(5, 3.0)]
    answers = [[(one.step, one.verdict) for one in driven.send(event) if isinstance(one, Decided)] for event in events]
    assert answers == [[], [], [], [], [(10, "improved")], [(5, "late")]]
    assert decided(driven.close())[0][:2] == (20, "waiting")


def test_without_epochs_it_waits_to_the_end_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    driven = Drive(EarlyStopping("loss", patience=1, allowed_lateness="1ep"))
    with caplog.at_level(logging.WARNING, "asynchub"):
        assert [driven.send(check(step, 1.0)) for step in (1, 2, 3)] == [[]] * 3
        assert [one[1] for one in decided(driven.close()) if len(one) > 2] == ["improved", "stop", "stop"]
    assert "never saw the runtime info 'epoch'" in caplog.text


def test_what_is_held_back_at_the_end_is_decided_on_and_stops_too() -> None:
    restored: list[int] = []
    events = [check(30, 3.0), check(10, 1.0), check(20, 2.0)]
    answers = drive(EarlyStopping("loss", patience=2, allowed_lateness=100, restore_best=restored.append), events)
    assert [one.verdict for one in answers if isinstance(one, Decided)] == ["improved", "waiting", "stop"]
    assert isinstance(answers[-1], StopRequested)
    assert restored == [10]


def test_after_an_end_what_belongs_before_it_is_late() -> None:
    stopping = EarlyStopping("loss", allowed_lateness=100)
    drive(stopping, [check(30, 3.0), check(10, 1.0)])
    assert [one[:2] for one in decided(drive(stopping, [check(20, 0.5), check(40, 2.0)]))] == [
        (20, "late"),
        (40, "waiting"),
    ]


def test_checks_are_means_and_those_over_no_samples_are_none() -> None:
    stopping = EarlyStopping("loss", allowed_lateness=5)
    answers = drive(
        stopping, [check(20, 0.5, 8), check(18, 0.25, 4), ScalarUpdated(key="loss", value=1.0, count=0, step=30)]
    )
    assert [one.value for one in answers if isinstance(one, Decided)] == [0.25, 0.5]


def test_a_lateness_taken_away_on_resume_lets_go_what_was_held() -> None:
    held = EarlyStopping("loss", allowed_lateness=100)
    driven = Drive(held)
    for step in (30, 10):
        driven.send(check(step, float(step)))
    state = held.state_dict()
    driven.close()
    resumed = EarlyStopping("loss")
    resumed.load_state_dict(state)
    assert resumed.state_dict()["order"] is not None
    assert [one[0] for one in decided(drive(resumed, [check(40, 1.0)]))] == [10, 30, 40]
    assert resumed.state_dict()["order"] is None


def test_no_more_is_held_back_than_memory_is_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lateness, "MAX_HELD", 5)
    driven = Drive(EarlyStopping("loss", allowed_lateness=1))
    with caplog.at_level(logging.WARNING, "asynchub"):
        steps = [[one[0] for one in decided(driven.send(check(7, 1.0 / number)))] for number in range(1, 9)]
    driven.close()
    assert steps == [[]] * 5 + [[7]] * 3
    assert [record.getMessage()[:33] for record in caplog.records] == ["EarlyStopping holds back 5 checks"]


def test_an_event_without_a_step_is_of_the_newest() -> None:
    class Silent:
        name = "silent"

    events: Any = Silent()
    order = StepOrder("loss", 5)
    for event in (check(10, 1.0), ScalarUpdated(key="loss", value=2.0), ScalarUpdated(key="other", value=3.0)):
        taken = order.take(event, events)
        assert list(taken) == ([event] if event.key == "other" else [])
    assert [(event.step, event.value) for event in order.rest() if isinstance(event, ScalarUpdated)] == [
        (10, 1.0),
        (10, 2.0),
    ]


def test_a_validation_elsewhere_stops_a_run_on_a_hub() -> None:
    hub = MessageHub("late")
    restored: list[int] = []
    hub.attach(EarlyStopping("val/loss", patience=2, allowed_lateness=20, restore_best=restored.append))
    results = {30: (10, 1.0), 40: (30, 2.0), 50: (20, 0.5), 60: (40, 2.0), 70: (60, 2.0), 80: (70, 2.0)}
    with hub:
        for hub.step in range(10, 100, 10):
            if hub.step in results:
                step, value = results[hub.step]
                hub.update_scalar("val/loss", value, step=step)
            hub.settle()
            if hub.stop_requested:
                break
        assert restored == [20]  # within the settle point
    assert (hub.step, hub.stop_reason) == (80, "val/loss has not improved on 0.5 of step 20 for 2 checks")


@pytest.mark.parametrize("allowed", [-1, 1.5, True, "2", "2 ep", "30s", "ep", [], "1.5ep"])
def test_a_lateness_that_is_none_is_refused(allowed: Any) -> None:
    with pytest.raises(ArgumentError, match="allowed_lateness must be"):
        EarlyStopping("loss", allowed_lateness=allowed)
    with pytest.raises(ArgumentError, match="allowed_lateness must be"):
        ReduceLROnPlateau(Optimizer(), "loss", allowed_lateness=allowed)


def test_the_order_of_no_key_is_refused() -> None:
    with pytest.raises(ArgumentError):
        StepOrder("val/*")
    with pytest.raises(PatternError):
        StepOrder("")


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"held": [[0, 1]], "newest": None, "passed": None, "begun": []},
        {"held": [[0, 1, "x", 0.0, 1]], "newest": None, "passed": None, "begun": []},
        {"held": [], "newest": 1.5, "passed": None, "begun": []},
        {"held": [], "newest": None, "passed": None, "begun": [[1]]},
        {"held": None, "newest": None, "passed": None, "begun": []},
        "order",
    ],
    ids=str,
)
def test_a_malformed_order_is_refused_and_changes_nothing(order: Any) -> None:
    for rule in rules(50):
        driven = Drive(rule, "**")
        driven.send(check(10, 1.0))
        before = rule.state_dict()
        with pytest.raises(StateDictError, match="order"):
            rule.load_state_dict({**before, "seen": 9, "order": order})
        assert rule.state_dict() == before
        driven.close()


def test_a_state_from_before_there_was_a_lateness_is_taken() -> None:
    stopping = EarlyStopping("loss", allowed_lateness=5)
    state = stopping.state_dict()
    del state["order"]
    stopping.load_state_dict(state)
    assert drive(stopping, [check(1, 1.0)])
