"""What a reader that falls behind loses, and how it is told."""

from __future__ import annotations

import functools
import threading

import anyio
import pytest
from anyio import fail_after, to_thread
from hypothesis import given
from hypothesis import strategies as st

from asynchub import Event, EventsDropped, MessageHub, ScalarUpdated, Subscription
from asynchub.errors import ArgumentError, DeadlockError, LagExceededError, SubscribersFailedError, WaitTimeoutError
from asynchub.ledger import FIELDS


async def rest(events: Subscription) -> list[Event]:
    """Close ``events`` and return what it still holds."""
    events.close()
    return [event async for event in events]


def values(events: list[Event]) -> list[float]:
    return [event.value for event in events if isinstance(event, ScalarUpdated)]


async def test_a_slow_reader_is_told_what_it_missed_where_it_missed_it() -> None:
    hub = MessageHub("hub")
    with fail_after(5), hub.subscribe(max_lag=3) as events:
        hub.update_scalar("a", 0.0)
        assert values([await anext(events)]) == [0.0]
        for number in range(1, 11):
            hub.update_scalar("a", float(number), step=number)
        mark, *others = await rest(events)
    assert isinstance(mark, EventsDropped)
    assert (mark.missed, mark.seq, mark.step) == (7, 8, 7)
    assert values(others) == [8.0, 9.0, 10.0]


@given(
    max_lag=st.integers(1, 9),
    capacity=st.integers(1, 20),
    turns=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=12),
)
def test_delivered_dropped_and_lag_add_up_to_what_was_published(
    max_lag: int, capacity: int, turns: list[tuple[int, int]]
) -> None:
    hub = MessageHub("hub", capacity=capacity)
    events = hub.subscribe(max_lag=max_lag)
    published = 0
    got: list[Event] = []

    async def take(number: int) -> None:
        for _ in range(number):
            if events.ready():
                got.append(await anext(events))

    for publish, read in turns:
        for _ in range(publish):
            published += 1
            hub.update_scalar("a", float(published))
        anyio.run(take, read)
        statistics = events.statistics()
        assert statistics.lag <= max_lag
        assert statistics.delivered + statistics.dropped + statistics.lag == published
    anyio.run(take, 1000)
    got += anyio.run(rest, events)
    statistics = events.statistics()
    assert (statistics.delivered, statistics.lag) == (len(values(got)), 0)
    expected = 1
    for event in got:
        if isinstance(event, EventsDropped):
            expected += event.missed
            assert event.seq == expected - 1
        else:
            assert event.seq == expected
            expected += 1
    assert expected == published + 1


def test_a_log_that_nobody_reads_stays_within_its_bounds() -> None:
    hub = MessageHub("hub", capacity=100)
    subscriptions = [hub.subscribe(max_lag=50), hub.subscribe("a", max_lag=50), hub.subscribe(max_lag=9)]
    for number in range(10_000):
        hub.update_scalar("a", float(number))
        assert hub._bus.logged + len(hub._bus.entries) // FIELDS <= 100
        assert all(channel.end - channel.base <= 100 + 2 * 50 for channel in hub._bus.channels)
    assert [one.statistics().dropped for one in subscriptions] == [9950, 9950, 9991]


def test_nothing_is_logged_for_a_key_that_nobody_reads() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe("val/*")
    for number in range(3000):
        hub.update_scalar("train/loss", float(number))
        hub.update_info("train/info", number)
    assert hub.statistics().seq == 6000
    assert not hub._bus.log
    events.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=60), st.integers(1, 10))
def test_latest_keeps_the_newest_of_each_key_in_order(updates: list[tuple[str, int]], capacity: int) -> None:
    hub = MessageHub("hub", capacity=capacity)
    events = hub.subscribe(overflow="latest", max_lag=4)
    for key, value in updates:
        hub.update_scalar(key, value)
    got = [(event.key, event.value) for event in anyio.run(rest, events) if isinstance(event, ScalarUpdated)]
    newest: dict[str, int] = {}
    for key, value in updates:
        newest.pop(key, None)
        newest[key] = value
    assert got == list(newest.items())
    assert events.statistics().dropped == len(updates) - len(newest)


async def test_latest_keeps_a_rare_key_while_others_flood() -> None:
    hub = MessageHub("hub", capacity=64)
    with hub.subscribe(overflow="latest", max_lag=2) as events:
        hub.update_scalar("rare", 1.0)
        for number in range(5000):
            hub.update_scalar("flood", float(number))
        assert [event.key for event in await rest(events)] == ["rare", "flood"]


async def test_block_makes_a_foreign_publisher_wait_until_the_reader_moves() -> None:
    hub = MessageHub("hub")
    published: list[int] = []

    def publish() -> None:
        for number in range(50):
            hub.update_scalar("a", float(number))
            published.append(number)

    got: list[float] = []
    with fail_after(20), hub.subscribe(overflow="block", max_lag=5) as events:
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, publish)
            async for batch in events.batches():
                got += values(batch)
                assert len(published) <= len(got) + 5 + 1
                if len(got) == 50:
                    break
    assert got == list(range(50))
    assert events.statistics().dropped == 0


async def test_block_is_refused_on_the_readers_own_loop_and_nothing_is_recorded() -> None:
    hub = MessageHub("hub")
    with hub.subscribe(overflow="block", max_lag=2) as events:
        hub.update_scalars({"a": 1.0, "b": 1.0})
        seq = hub.statistics().seq
        for update in (
            functools.partial(hub.update_scalar, "a", 2.0),
            functools.partial(hub.update_scalars, {"a": 2.0}),
            functools.partial(hub.update_info, "c", 1),
            functools.partial(hub.publish, Event(key="mine")),
        ):
            with pytest.raises(DeadlockError, match="publish from another thread"):
                update()
        assert hub.statistics().seq == seq
        assert hub.get_scalar("a").data[0].tolist() == [1.0]
        assert values(await rest(events)) == [1.0, 1.0]
    hub.update_scalar("a", 3.0)


def test_a_blocked_publisher_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynchub.bus.BLOCK_TIMEOUT", 0.05)
    hub = MessageHub("hub")
    with hub.subscribe(overflow="block", max_lag=1):
        hub.update_scalar("a", 1.0)
        with pytest.raises(WaitTimeoutError, match="made no room"):
            hub.update_scalar("a", 2.0)
    assert hub.get_scalar("a").data[0].tolist() == [1.0]


def test_closing_a_blocking_subscription_lets_its_publishers_go_on() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe(overflow="block", max_lag=1)
    hub.update_scalar("a", 1.0)
    publisher = threading.Thread(target=hub.update_scalar, args=("a", 2.0))
    publisher.start()
    events.close()
    publisher.join(10)
    assert not publisher.is_alive()
    assert hub.get_scalar("a").data[0].tolist() == [1.0, 2.0]


def test_a_control_subscriber_may_not_block() -> None:
    async def rule(events: Subscription) -> None: ...

    with pytest.raises(ArgumentError, match="another overflow"):
        MessageHub("hub").attach(rule, role="control", overflow="block")


async def test_raise_fails_the_reader_alone() -> None:
    hub = MessageHub("hub")
    with hub.subscribe(overflow="raise", max_lag=3) as strict, hub.subscribe() as other:
        for number in range(4):
            hub.update_scalar("a", float(number))
        with pytest.raises(LagExceededError, match="4 events behind, 3 allowed"):
            await anext(strict)
        assert strict.closed
        assert [event async for event in strict] == []
        assert values(await rest(other)) == [0.0, 1.0, 2.0, 3.0]


async def test_raise_also_fails_a_reader_that_was_closed_first() -> None:
    hub = MessageHub("hub")
    with hub.subscribe(overflow="raise", max_lag=3) as strict:
        for number in range(4):
            hub.update_scalar("a", float(number))
    with pytest.raises(LagExceededError):
        await anext(strict)


def test_an_observer_that_falls_behind_with_raise_is_a_failed_observer() -> None:
    hub = MessageHub("hub")

    async def reader(events: Subscription) -> None:
        async for _ in events:
            pass

    hub.attach(reader, overflow="raise", max_lag=3, on_error="raise")
    for number in range(10):
        hub.update_scalar("a", float(number))
    with pytest.raises(SubscribersFailedError) as caught, hub:
        hub.flush(10)
    assert isinstance(caught.value.exceptions[0], LagExceededError)


@pytest.mark.parametrize("max_lag", [0, -1, True, 1.5, "3"])
def test_a_max_lag_that_is_no_positive_int_is_refused(max_lag: object) -> None:
    with pytest.raises(ArgumentError, match="max_lag"):
        MessageHub("hub").subscribe(max_lag=max_lag)  # type: ignore[arg-type]
