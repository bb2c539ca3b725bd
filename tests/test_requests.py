"""Requests: asked from anywhere, applied by the training loop's own thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from asynchub import (
    Event,
    MessageHub,
    ParameterChangeRequested,
    Request,
    RequestApplied,
    RequestRefused,
    StopRequested,
    Subscription,
)
from asynchub.errors import ArgumentError


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub("hub")


@pytest.fixture
def answers(hub: MessageHub) -> list[Any]:
    """What became of requests, as settle points pass."""
    found: list[Any] = []

    async def note(events: Subscription) -> None:
        async for event in events:
            found.append(event)

    hub.attach(note, RequestApplied, RequestRefused, role="control")
    return found


@pytest.mark.parametrize("verb", ["settle", "apply_requests"])
def test_a_request_takes_effect_at_the_next_safe_point_and_its_step_is_recorded(
    hub: MessageHub, answers: list[Any], verb: str
) -> None:
    hub.step = 3
    thread = threading.Thread(target=hub.request_stop, args=("enough",))
    thread.start()
    thread.join()
    assert not hub.stop_requested
    hub.step = 5
    getattr(hub, verb)()
    assert hub.stop_requested
    assert hub.stop_reason == "enough"
    hub.settle()
    (answer,) = answers
    assert isinstance(answer, RequestApplied)
    assert (answer.request, answer.step, answer.reason, answer.request_seq) == ("StopRequested", 5, "enough", 1)


def test_requests_are_applied_in_the_order_they_were_made(hub: MessageHub) -> None:
    applied: list[tuple[Any, int]] = []
    here = threading.get_ident()

    @hub.on_request(ParameterChangeRequested)  # type: ignore[untyped-decorator]
    def apply(request: ParameterChangeRequested) -> None:
        applied.append((request.value, threading.get_ident() - here))

    for value in range(5):
        hub.request(ParameterChangeRequested(name="lr", value=value))
    assert hub.apply_requests() == 5
    assert applied == [(value, 0) for value in range(5)]
    assert hub.apply_requests() == 0


def test_a_request_that_nobody_applies_is_refused_with_the_remedy(hub: MessageHub, answers: list[Any]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(Request):
        extra: int = 3

    hub.request(Mine(reason="why not", author="me"))
    hub.settle()
    (answer,) = answers
    assert isinstance(answer, RequestRefused)
    assert (answer.request, answer.reason, answer.author) == ("Mine", "why not", "me")
    assert "hub.on_request(Mine)" in answer.error


def test_a_request_whose_application_raises_is_refused_and_the_others_are_applied(
    hub: MessageHub, answers: list[Any]
) -> None:
    @hub.on_request(ParameterChangeRequested)  # type: ignore[untyped-decorator]
    def apply(request: ParameterChangeRequested) -> None:
        raise ValueError(f"no parameter {request.name!r}")

    hub.request(ParameterChangeRequested(name="momentum", value=1))
    hub.request_stop("after all")
    hub.settle()
    refused, applied = answers
    assert refused.error == "ValueError: no parameter 'momentum'"
    assert applied.request == "StopRequested"
    assert hub.stop_reason == "after all"


def test_a_subclass_is_applied_as_its_nearest_kind(hub: MessageHub) -> None:
    @dataclass(frozen=True, kw_only=True)
    class StopNicely(StopRequested):
        pass

    hub.request(StopNicely(reason="nicely"))
    hub.apply_requests()
    assert hub.stop_reason == "nicely"
    seen: list[Event] = []
    hub.on_request(StopNicely, seen.append)
    hub.request(StopNicely())
    hub.apply_requests()
    assert len(seen) == 1


def test_the_first_reason_to_stop_stays_until_it_is_withdrawn(hub: MessageHub) -> None:
    hub.request_stop("first")
    hub.request_stop("second")
    hub.settle()
    assert hub.stop_reason == "first"
    hub.stop_requested = False
    assert (hub.stop_requested, hub.stop_reason) == (False, "")


def test_a_subscribers_request_carries_its_name(hub: MessageHub, answers: list[Any]) -> None:
    async def watcher(events: Subscription) -> None:
        async for _ in events:
            request = events.request(StopRequested(reason="seen"))
            assert request.seq > 0

    hub.attach(watcher, "a", name="my watcher")
    with hub:
        hub.update_scalar("a", 1.0)
        hub.flush(10)
        assert hub.stop_requested  # flush settles too
        assert answers[0].author == "my watcher"


def test_threads_that_ask_and_apply_at_once_apply_each_request_once(hub: MessageHub) -> None:
    applied: list[int] = []
    hub.on_request(ParameterChangeRequested, lambda request: applied.append(request.value))

    def ask(thread: int) -> None:
        for number in range(500):
            hub.request(ParameterChangeRequested(name="x", value=thread * 500 + number))

    def apply() -> None:
        while not done.is_set():
            hub.apply_requests()

    done = threading.Event()
    asking = [threading.Thread(target=ask, args=(thread,)) for thread in range(3)]
    applying = [threading.Thread(target=apply) for _ in range(2)]
    for thread in asking + applying:
        thread.start()
    for thread in asking:
        thread.join(30)
    done.set()
    for thread in applying:
        thread.join(30)
    hub.apply_requests()
    assert sorted(applied) == list(range(1500))


@pytest.mark.parametrize("junk", ["stop", None, StopRequested, Event(key="x"), 3])
def test_what_is_no_request_is_refused(hub: MessageHub, junk: Any) -> None:
    with pytest.raises(ArgumentError, match="request takes a Request"):
        hub.request(junk)
    assert hub.statistics().seq == 0


@pytest.mark.parametrize(("kind", "apply"), [(Event, print), ("stop", print), (StopRequested, 3), (int, print)])
def test_a_request_kind_must_be_one_and_its_application_callable(hub: MessageHub, kind: Any, apply: Any) -> None:
    with pytest.raises(ArgumentError):
        hub.on_request(kind, apply)
