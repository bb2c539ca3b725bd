"""Driving a control subscriber by hand does what a hub does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub import Event, MessageHub, ScalarUpdated, StopRequested, Subscription
from asynchub.errors import ControlFailedError
from asynchub.testing import Drive, drive, scalars


class Rule:
    """Answers with running sums, and asks for the end at 10."""

    role = "control"
    keys = ("loss",)

    def __init__(self) -> None:
        self.total = 0.0
        self.ended = False

    async def __call__(self, events: Subscription) -> None:
        try:
            async for event in events:
                assert isinstance(event, ScalarUpdated)
                self.total += event.value
                events.update_scalar("total", self.total)
                if self.total >= 10:
                    events.request(StopRequested(reason=f"{self.total}"))
        finally:
            self.ended = True


@given(st.lists(st.integers(0, 5), max_size=20))
def test_a_driven_rule_answers_as_it_does_in_a_hub(values: list[int]) -> None:
    hub = MessageHub("hub")
    hub.attach(Rule())
    got: list[Any] = []
    hub.on("total", StopRequested, role="control", order=1)(got.append)
    for step, value in enumerate(values, 1):
        hub.update_scalar("loss", value, step=step)
        hub.update_scalar("other", value, step=step)
        hub.settle()
    rule = Rule()
    answers = drive(
        rule, [event for one in scalars("loss", values) for event in (one, ScalarUpdated(key="x", value=1))]
    )
    assert rule.ended

    def told(event: Any) -> tuple[Any, ...]:
        return (event.key, getattr(event, "value", None), getattr(event, "reason", None))

    assert [told(one) for one in answers] == [told(one) for one in got]
    hub.close()


def test_scalars_are_one_event_for_each_value_at_steps_from_one() -> None:
    assert [(one.key, one.value, one.step) for one in scalars("a", [2.0, 3.0])] == [("a", 2.0, 1), ("a", 3.0, 2)]


def test_answers_come_one_event_at_a_time_with_the_step_of_the_event() -> None:
    driven = Drive(Rule())
    assert driven.send(ScalarUpdated(key="other", value=1.0)) == []
    (answer,) = driven.send(ScalarUpdated(key="loss", value=4.0, step=3))
    assert (answer.key, answer.step) == ("total", 3)
    assert driven.close() == []


def test_what_a_driven_rule_raises_is_raised() -> None:
    async def broken(events: Subscription) -> None:
        async for _ in events:
            raise ValueError("no")

    with pytest.raises(ControlFailedError):
        drive(broken, [Event(key="a")])
