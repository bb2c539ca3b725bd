"""How often events are let through, however they jump."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub import Event, InfoUpdated, MessageHub, ScalarUpdated, StopRequested
from asynchub.errors import ScheduleError
from asynchub.every import Every


def scalar(key: str, step: int = 0, time: float = 0.0) -> ScalarUpdated:
    return ScalarUpdated(key=key, value=1.0, step=step, time=time)


@given(st.integers(1, 7), st.lists(st.sampled_from("abc"), max_size=60))
def test_an_int_lets_through_each_nth_event_of_a_key(n: int, keys: list[str]) -> None:
    every = Every(n)
    counts = dict.fromkeys("abc", 0)
    for key in keys:
        counts[key] += 1
        assert every(scalar(key)) == (counts[key] % n == 0)


jumps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 25)), max_size=50)


@given(st.integers(1, 12), st.integers(0, 50), jumps)
def test_steps_let_through_the_first_event_at_or_after_each_multiple(
    n: int, begun: int, steps: list[tuple[str, int]]
) -> None:
    every = Every(f"{n}ba")
    every.begin(begun, None)
    now, last = begun, dict.fromkeys("ab", begun)
    for key, jump in steps:
        now += jump
        crossed = any(step % n == 0 for step in range(last[key] + 1, now + 1))
        assert every(scalar(key, step=now)) == crossed
        last[key] = now


def test_a_step_that_goes_back_lets_nothing_through_until_the_next_multiple() -> None:
    every = Every("10ba")
    assert [every(scalar("a", step=step)) for step in (10, 25, 3, 9, 10, 11, 20)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]


@given(st.integers(1, 4), st.lists(st.one_of(st.just("a"), st.just("b"), st.integers(0, 3)), max_size=60))
def test_epochs_let_through_the_first_event_after_each_boundary(n: int, happenings: list[str | int]) -> None:
    every = Every(f"{n}ep")
    epoch, last = 0, {"a": 0, "b": 0}
    for one in happenings:
        if isinstance(one, int):
            epoch += one
            every(InfoUpdated(key="epoch", value=epoch))
        else:
            crossed = any(number % n == 0 for number in range(last[one] + 1, epoch + 1))
            assert every(scalar(one)) == crossed
            last[one] = epoch


@given(st.sampled_from([0.5, 1.0, 30.0]), st.lists(st.floats(0, 100), max_size=50))
def test_seconds_let_through_the_first_event_of_each_interval_from_the_keys_first(
    n: float, pauses: list[float]
) -> None:
    every = Every(f"{n}s")
    now, start, done = 1e9, None, -1.0
    for pause in pauses:
        now += round(pause, 3)
        if start is None:
            start = now
        interval = (now - start) // n
        if abs((now - start) / n - round((now - start) / n)) < 1e-6:
            return  # on a boundary, rounding decides
        assert every(scalar("a", time=now)) == (interval > done)
        done = max(interval, done)


def test_what_is_no_data_is_always_let_through() -> None:
    for unit in (5, "100ba", "3ep", "30s"):
        every = Every(unit)
        assert every(StopRequested())
        assert every(Event(key="a"))


@pytest.mark.parametrize(
    "junk", [0, -1, True, 1.5, None, "", "ba", "0ba", "-1ba", "1.5ba", "0s", "10", "10 ba", "1h", "1ep2", [3]]
)
def test_what_is_no_rate_is_refused_and_nothing_stays(junk: Any) -> None:
    with pytest.raises(ScheduleError, match="every must be a positive int"):
        Every(junk)
    hub = MessageHub("hub")
    if junk is not None:
        with pytest.raises(ScheduleError):
            hub.subscribe(every=junk)
        with pytest.raises(ScheduleError):
            hub.on("a", every=junk)(print)
    assert hub._bus.channels == ()


def test_a_state_goes_on_where_another_was() -> None:
    first = Every("10ba")
    assert first(scalar("a", step=10))
    second = Every("10ba")
    second.load_state_dict(first.state_dict())
    assert not second(scalar("a", step=19))
    assert second(scalar("a", step=20))


def read(hub: MessageHub, *wanted: str, **terms: Any) -> Any:
    """Return what a subscription gets from updates of ``val`` at odd steps 1..199, and ten epochs."""
    events = hub.subscribe(*wanted, **terms)
    for step in range(1, 200, 2):
        if step % 20 == 1:
            hub.update_info("epoch", step // 20)
        hub.update_scalar("val", float(step), step=step)
        hub.update_scalar("train", float(step), step=step)
    events.close()

    async def rest() -> list[Event]:
        return [event async for event in events]

    return anyio.run(rest)


def test_a_subscription_gets_the_first_event_past_each_boundary() -> None:
    assert [event.step for event in read(MessageHub("hub"), "val", every="50ba")] == [51, 101, 151]


def test_a_subscription_made_late_counts_from_where_the_hub_is() -> None:
    hub = MessageHub("hub")
    hub.step = 75
    events = hub.subscribe("val", every="50ba")
    for step in (80, 99, 130, 140, 151):
        hub.update_scalar("val", 1.0, step=step)
    events.close()

    async def rest() -> list[int | None]:
        return [event.step async for event in events]

    assert anyio.run(rest) == [130, 151]


def test_a_subscription_by_epochs_gets_only_the_keys_it_asked_for() -> None:
    got = read(MessageHub("hub"), "val", every="3ep")
    assert [(event.key, event.step) for event in got] == [("val", 61), ("val", 121), ("val", 181)]


def test_when_is_asked_about_what_every_lets_through() -> None:
    got = read(MessageHub("hub"), "val", every="50ba", when=lambda event: event.value > 60)
    assert [event.step for event in got] == [101, 151]
