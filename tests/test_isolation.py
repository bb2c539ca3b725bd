"""What follows when a subscriber raises: for it, for the others, for the program."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asynchub import Event, MessageHub, ScalarUpdated, SubscriberFailed, Subscription
from asynchub.errors import ArgumentError, SubscribersFailedError, SubscriberTypeError


class Collector:
    """Collects values, and fails on some."""

    def __init__(self, failing: tuple[float, ...] = (), batches: bool = False) -> None:
        self.seen: list[float] = []
        self.failing = failing
        self.calls = 0
        self.cleaned = 0
        self.batches = batches

    async def __call__(self, events: Subscription) -> None:
        self.calls += 1
        try:
            async for event in events:
                assert isinstance(event, ScalarUpdated)
                self.seen.append(event.value)
                if event.value in self.failing:
                    raise ValueError(f"cannot take {event.value}")
        finally:
            self.cleaned += 1


@pytest.fixture(autouse=True)
def _short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.runner.BACK_OFF", (0.001, 0.004))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_failing_observer_is_detached_and_said_once_and_the_others_go_on(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MessageHub("hub", backend=backend)
    failing, other = Collector((2.0,)), Collector()
    failures: list[SubscriberFailed] = []
    hub.attach(failing, "a", name="failing")
    hub.attach(other, "a")
    hub.on(SubscriberFailed)(failures.append)
    with hub:
        for number in range(5):
            hub.update_scalar("a", float(number))
        hub.flush(10)
        hub.flush(10)
        assert [one.name for one in hub.statistics().subscriptions] == ["Collector", "append"]
        hub.update_scalar("a", 5.0)
    assert failing.seen == [0.0, 1.0, 2.0]
    assert (failing.calls, failing.cleaned) == (1, 1)
    assert other.seen == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    (failure,) = failures
    assert (failure.subscriber, failure.error, failure.action) == ("failing", "ValueError: cannot take 2.0", "detach")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.message for record in errors] == ["subscriber 'failing' failed (detach)"]
    assert errors[0].exc_info is not None


def test_an_observer_that_restarts_gets_everything_but_what_it_failed_on() -> None:
    hub = MessageHub("hub")
    failing = Collector((2.0, 3.0, 700.0, 999.0))
    attachment = hub.attach(failing, "a", on_error="restart")
    with hub:
        for number in range(500):
            hub.update_scalar("a", float(number))
        hub.flush(10)
        assert failing.calls == 3
        for number in range(500, 1000):
            hub.update_scalar("a", float(number))
    assert failing.seen == list(range(1000))
    assert failing.calls == failing.cleaned == 5
    assert attachment.statistics().errors == 4
    assert attachment.statistics().delivered == 1000


def test_a_restarting_observer_that_never_gets_anywhere_ends_with_the_hub() -> None:
    hub = MessageHub("hub", drain_timeout=20.0)
    calls: list[int] = []
    failed = threading.Event()

    async def hopeless(events: Subscription) -> None:
        calls.append(1)
        failed.set()
        raise ValueError("no disk")

    hub.attach(hopeless, on_error="restart")
    with hub:
        hub.update_scalar("a", 1.0)
        assert failed.wait(10)
    assert len(calls) >= 1


async def test_a_restarting_observer_does_not_keep_an_async_program_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.runner.BACK_OFF", (3600.0, 3600.0))
    hub = MessageHub("hub")
    failing = Collector((0.0,))
    with fail_after(5):
        async with hub:
            hub.attach(failing, on_error="restart")
            hub.update_scalar("a", 0.0)
            while not failing.cleaned:
                await anyio.lowlevel.checkpoint()
            hub.update_scalar("a", 1.0)
    assert failing.seen == [0.0, 1.0]


@pytest.mark.parametrize("number", [1, 2])
def test_an_observer_with_raise_raises_when_the_hub_is_left(number: int) -> None:
    hub = MessageHub("hub")
    other = Collector()
    for _ in range(number):
        hub.attach(Collector((1.0,)), on_error="raise")
    hub.attach(other)
    with pytest.raises(SubscribersFailedError) as caught, hub:  # noqa: PT012  # the body is what raises
        for value in range(3):
            hub.update_scalar("a", float(value))
    assert [str(error) for error in caught.value.exceptions] == ["cannot take 1.0"] * number
    assert other.seen[:3] == [0.0, 1.0, 2.0]


async def test_an_observer_with_raise_raises_out_of_an_async_program_too() -> None:
    hub = MessageHub("hub")
    hub.attach(Collector((1.0,)), on_error="raise")
    with pytest.raises(SubscribersFailedError), fail_after(5):
        async with hub:
            hub.update_scalar("a", 1.0)


def test_an_exception_of_the_program_comes_before_those_of_observers(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("hub")
    hub.attach(Collector((1.0,)), on_error="raise")
    with pytest.raises(ZeroDivisionError), hub:  # noqa: PT012  # the body is what raises
        hub.update_scalar("a", 1.0)
        raise ZeroDivisionError
    assert "while leaving the hub" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_that_fails_on_one_event_of_a_batch_gets_the_rest(asynchronous: bool) -> None:
    hub = MessageHub("hub")
    seen: list[float] = []

    def take(event: ScalarUpdated) -> None:
        seen.append(event.value)
        if event.value in (3.0, 4.0):
            raise ValueError

    async def take_async(event: ScalarUpdated) -> None:
        await anyio.lowlevel.checkpoint()
        take(event)

    hub.on("a", on_error="restart")(take_async if asynchronous else take)
    with hub:
        for number in range(10):
            hub.update_scalar("a", float(number))
        hub.flush(10)
    assert seen == list(range(10))


def test_a_predicate_that_raises_costs_only_the_event_it_raised_on() -> None:
    hub = MessageHub("hub")
    seen: list[float] = []

    def when(event: ScalarUpdated) -> bool:
        if event.value == 5.0:
            raise ValueError("cannot tell")
        return event.value % 2 == 1

    @hub.on("a", when=when, on_error="restart", name="odd")
    def take(event: ScalarUpdated) -> None:
        seen.append(event.value)

    for number in range(10):
        hub.update_scalar("a", float(number))
    with hub:
        hub.flush(10)
    assert seen == [1.0, 3.0, 7.0, 9.0]


async def test_a_subscription_survives_a_predicate_that_raises() -> None:
    hub = MessageHub("hub")
    with hub.subscribe(when=lambda event: 1 / event.value > 0.3) as events, fail_after(5):
        for number in (1, 2, 0, 4, 3):
            hub.update_scalar("a", number)
        assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
        with pytest.raises(ZeroDivisionError):
            await anext(events)
        assert (await anext(events)).seq == 5


def test_what_was_lost_is_said_to_a_plain_function_through_logging(caplog: pytest.LogCaptureFixture) -> None:
    hub = MessageHub("hub")
    seen: list[float] = []

    @hub.on("a", max_lag=2)
    def take(event: ScalarUpdated) -> None:
        seen.append(event.value)

    for number in range(5):
        hub.update_scalar("a", float(number))
    with hub:
        hub.flush(10)
    assert seen == [3.0, 4.0]
    assert "take lost 3 events: it fell behind" in caplog.text


def test_statistics_count_errors_deliveries_and_busy_seconds() -> None:
    hub = MessageHub("hub")
    done = threading.Event()

    @hub.on("a")
    def slow(event: Event) -> None:
        done.wait(0.02)

    with hub:
        hub.update_scalar("a", 1.0)
        hub.update_scalar("b", 1.0)
        hub.flush(10)
        (statistics,) = hub.statistics().subscriptions
        assert (statistics.name, statistics.delivered, statistics.dropped, statistics.lag) == ("slow", 1, 0, 0)
        assert statistics.errors == 0
        assert 0.015 < statistics.busy_seconds < 5
        assert not statistics.closed


async def a_coroutine_function(events: Subscription) -> None: ...


class Callable_:
    async def __call__(self, events: Subscription) -> None: ...


@pytest.mark.parametrize("junk", [None, 3, "x", print, lambda events: None, Callable_, object()])
def test_what_is_no_subscriber_is_refused_and_nothing_stays(junk: Any) -> None:
    hub = MessageHub("hub")
    with pytest.raises(SubscriberTypeError, match="a subscriber must be"):
        hub.attach(junk)
    assert hub.statistics().subscriptions == ()
    assert hub._bus.channels == ()


@pytest.mark.parametrize(
    "terms",
    [
        {"role": "boss"},
        {"on_error": "ignore"},
        {"name": ""},
        {"name": 3},
        {"overflow": "spill"},
        {"max_lag": 0},
        {"replay": "x"},
        {"when": 3},
    ],
)
def test_terms_that_are_none_are_refused_and_nothing_stays(terms: dict[str, Any]) -> None:
    hub = MessageHub("hub")
    with pytest.raises(ArgumentError):
        hub.attach(a_coroutine_function, **terms)
    assert hub.statistics().subscriptions == ()
    assert hub._bus.channels == ()


def test_names_are_unique_and_made_up_when_not_given() -> None:
    hub = MessageHub("hub")
    names = [hub.attach(one).name for one in (Callable_(), Callable_(), a_coroutine_function)]
    assert names == ["Callable_", "Callable_#2", "a_coroutine_function"]
    with pytest.raises(ArgumentError, match="attached already"):
        hub.attach(Callable_(), name="Callable_")
    for name in names:
        hub.detach(name)
    with pytest.raises(ArgumentError, match="not attached"):
        hub.detach("Callable_")


def test_a_subscribers_own_keys_count_unless_others_are_given() -> None:
    hub = MessageHub("hub")

    class Keyed(Collector):
        def __init__(self, keys: Any) -> None:
            super().__init__()
            self.keys = keys

    own, one, other = Keyed(("a", "b/*")), Keyed("b/c"), Keyed(("a",))
    hub.attach(own)
    hub.attach(one)
    hub.attach(other, "b/**")
    with hub:
        for index, key in enumerate(["a", "b/c", "b/c/d", "d"]):
            hub.update_scalar(key, index)
    assert (own.seen, one.seen, other.seen) == ([0, 1], [1], [1, 2])
