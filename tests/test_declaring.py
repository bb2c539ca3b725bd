"""Parameters that subscribers and programs declare, and setting them at a safe point."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from asynchub.declaring import Parameter, declared
from asynchub.errors import ArgumentError
from asynchub.hub import MessageHub
from asynchub.requests import ParameterChanged, ParameterChangeRequested, RequestApplied, RequestRefused
from asynchub.subscribers.early_stopping import EarlyStopping
from asynchub.subscription import Subscription


class Knob:
    """A subscriber with a parameter."""

    def __init__(self, *parameters: Parameter) -> None:
        self.value = 2.0
        self.threads: list[int] = []
        self.parameters = (Parameter(".value", lambda: self.value, self.turn, low=1, high=3), *parameters)

    def turn(self, value: float) -> None:
        self.threads.append(threading.get_ident())
        self.value = value

    async def __call__(self, events: Subscription) -> None:
        async for _ in events:
            pass


def asked(hub: MessageHub, name: str, value: Any, group: int | None = None) -> list[Any]:
    """Return what comes of asking for a value."""
    with hub.subscribe(RequestApplied, RequestRefused, ParameterChanged) as events:
        hub.request(ParameterChangeRequested(name=name, value=value, group=group, author="ada", reason="why"))
        hub.settle(timeout=10)
        return events._take()


def test_a_subscribers_parameter_has_its_name_before_its_own() -> None:
    hub = MessageHub("hub")
    hub.attach(Knob())
    hub.attach(Knob())
    assert list(hub.parameters) == ["Knob.value", "Knob#2.value"]
    assert hub.parameters["Knob.value"].value() == 2.0


def test_it_is_set_in_the_thread_that_settles_and_said() -> None:
    hub, knob = MessageHub("hub"), Knob()
    hub.attach(knob)
    hub.step = 4
    with hub.subscribe(ParameterChanged, RequestApplied) as events:
        asker = threading.Thread(
            target=lambda: hub.request(ParameterChangeRequested(name="Knob.value", value=3, author="ada", reason="why"))
        )
        asker.start()
        asker.join()
        assert knob.value == 2.0
        hub.settle()
        changed, applied = events._take()
    assert knob.value == 3
    assert knob.threads == [threading.get_ident()]
    assert isinstance(changed, ParameterChanged)
    assert (changed.name, changed.old, changed.new, changed.step) == ("Knob.value", 2.0, 3, 4)
    assert (changed.author, changed.reason) == ("ada", "why")
    assert isinstance(applied, RequestApplied)


@pytest.mark.parametrize("value", [0.9, 3.1, math.nan, math.inf, "2", None, True, [2], 10**400])
def test_what_is_no_finite_number_within_bounds_is_refused(value: Any) -> None:
    hub, knob = MessageHub("hub"), Knob()
    hub.attach(knob)
    (refused,) = asked(hub, "Knob.value", value)
    assert "Knob.value takes a" in refused.error
    assert knob.threads == []


def test_a_name_that_nobody_declares_is_refused_with_those_that_are() -> None:
    hub = MessageHub("hub")
    hub.attach(Knob())
    (refused,) = asked(hub, "lr", 1.0)
    assert refused.error == "ArgumentError: nobody declares a parameter 'lr'; there are Knob.value"


def test_without_any_declaration_the_remedy_is_as_ever() -> None:
    (refused,) = asked(MessageHub("hub"), "lr", 1.0)
    assert "hub.on_request(ParameterChangeRequested)" in refused.error


def test_other_names_are_for_what_the_program_gave() -> None:
    hub, knob = MessageHub("hub"), Knob()
    given: list[Any] = []
    hub.attach(knob)
    hub.on_request(ParameterChangeRequested, lambda request: given.append((request.name, request.value)))
    asked(hub, "lr", "anything")
    asked(hub, "Knob.value", 1.5)
    assert given == [("lr", "anything")]
    assert knob.value == 1.5


def test_one_without_a_set_is_set_by_what_the_program_gave_within_its_bounds() -> None:
    hub, rates = MessageHub("hub"), {"lr": 0.1}
    hub.attach(Knob(Parameter("lr", lambda: rates["lr"], low=1e-4, high=1.0)))
    (refused,) = asked(hub, "lr", 0.2)
    assert "nothing sets it" in refused.error
    hub.on_request(ParameterChangeRequested, lambda request: rates.update({request.name: request.value}))
    changed, applied = asked(hub, "lr", 0.2, group=0)
    assert (changed.old, changed.new, rates["lr"]) == (0.1, 0.2, 0.2)
    assert isinstance(applied, RequestApplied)
    assert len(asked(hub, "lr", 2.0)) == 1
    assert rates["lr"] == 0.2


def test_a_setter_has_no_groups() -> None:
    hub = MessageHub("hub")
    hub.attach(Knob())
    assert "has no groups" in asked(hub, "Knob.value", 2, group=1)[0].error


def test_a_setter_that_raises_refuses() -> None:
    def no(value: float) -> None:
        raise RuntimeError("not now")

    hub = MessageHub("hub")
    hub.attach(Knob(Parameter("x", set=no)))
    (refused,) = asked(hub, "x", 1)
    assert refused.error == "RuntimeError: not now"


def test_of_two_declarations_the_bounds_of_both_hold() -> None:
    both = declared([("a", Knob(Parameter("x", low=0, high=5, note="n"))), ("b", Knob(Parameter("x", low=2, high=9)))])
    assert (both["x"].low, both["x"].high, both["x"].note) == (2, 5, "n")


def test_an_attribute_of_that_name_that_is_something_else_is_passed_over() -> None:
    class Module:
        def parameters(self) -> list[int]:
            return [1]

    class Odd:
        parameters = (1, "x", None)

    assert declared([("a", Module()), ("b", Odd()), ("c", object())]) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "."},
        {"name": 3},
        {"name": "x", "get": 3},
        {"name": "x", "set": "f"},
        {"name": "x", "low": math.nan},
        {"name": "x", "high": "1"},
        {"name": "x", "low": 2, "high": 1},
    ],
    ids=lambda fields: "-".join(f"{key}{value!s:.5}" for key, value in fields.items()),
)
def test_a_declaration_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Parameter(**fields)


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("x"), "a number"),
        (Parameter("x", low=1), "a number of at least 1"),
        (Parameter("x", high=1e-5), "a number of at most 1e-05"),
        (Parameter("x", low=1, high=2, integer=True), "a whole number from 1 to 2"),
    ],
    ids=["any", "low", "high", "both"],
)
def test_what_it_takes_is_said_in_words(parameter: Parameter, words: str) -> None:
    assert parameter.range_in_words() == words


def test_a_whole_number_stays_one() -> None:
    whole = Parameter("x", integer=True)
    assert [(number, type(number)) for number in (whole.checked(2.0), whole.checked(3))] == [(2, int), (3, int)]
    with pytest.raises(ArgumentError, match="whole number"):
        whole.checked(1.5)


# --- of a subscriber of this package


def stopping_run(patience: int, ask: int | None) -> tuple[MessageHub, EarlyStopping]:
    hub, stopping = MessageHub(f"hub {patience} {ask}"), EarlyStopping("loss", patience=patience)
    hub.attach(stopping)
    if ask is not None:
        asked(hub, "EarlyStopping.patience", ask)
    return hub, stopping


def test_the_patience_of_early_stopping_can_be_set_and_decides() -> None:
    hub, stopping = stopping_run(3, 2)
    assert stopping.patience == 2
    with hub:
        for hub.step, value in enumerate([1.0, 2.0, 2.0, 2.0]):
            hub.update_scalar("loss", value)
            hub.settle()
            if hub.stop_requested:
                break
    assert hub.step == 2


def test_a_patience_that_was_set_is_saved_with_the_state() -> None:
    _, stopping = stopping_run(3, 7)
    resumed = EarlyStopping("loss", patience=3)
    resumed.load_state_dict(stopping.state_dict())
    assert resumed.patience == 7
    again = EarlyStopping("loss", patience=3)
    again.load_state_dict(resumed.state_dict())
    assert again.patience == 7


def test_the_constructors_patience_wins_if_it_is_another_one_by_then() -> None:
    _, stopping = stopping_run(3, 7)
    resumed = EarlyStopping("loss", patience=5)
    resumed.load_state_dict(stopping.state_dict())
    assert resumed.patience == 5


def test_a_state_from_before_patience_could_be_set_is_taken() -> None:
    state = EarlyStopping("loss").state_dict()
    del state["patience"]
    stopping = EarlyStopping("loss", patience=4)
    stopping.load_state_dict(state)
    assert stopping.patience == 4


@pytest.mark.parametrize("integer", [False, True], ids=["any", "whole"])
def test_an_integer_of_more_digits_than_python_writes_is_refused_in_words(integer: bool) -> None:
    for number in (10**5000, -(10**5000)):
        with pytest.raises(ArgumentError, match="lr takes a finite number, got a huge integer"):
            Parameter("lr", integer=integer).checked(number)
        with pytest.raises(ArgumentError, match="must be finite numbers or None, got a huge integer"):
            Parameter("lr", low=number, integer=integer)
    hub, knob = MessageHub("hub"), Knob()
    hub.attach(knob)
    refused = asked(hub, "Knob.value", 10**5000)[-1]
    assert isinstance(refused, RequestRefused)
    assert "got a huge integer" in refused.error
    assert knob.value == 2.0
    hub.close()
