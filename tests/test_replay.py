"""From the past to the live log, without a gap or a repeat."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread
from hypothesis import given
from hypothesis import strategies as st

from asynchub import Event, InfoUpdated, MessageHub, ScalarUpdated, Subscription
from asynchub.errors import ArgumentError


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events]


async def rest(events: Subscription) -> list[Event]:
    events.close()
    return [event async for event in events]


def read(events: Subscription) -> list[Event]:
    """Close ``events`` and return what it holds."""
    return anyio.run(rest, events)


@pytest.mark.parametrize("replay", ["all", "since"])
async def test_a_late_reader_gets_everything_once_while_threads_publish(replay: str) -> None:
    hub = MessageHub("hub", latency=0.001)
    threads, each = 4, 4000

    def publish(thread: int) -> None:
        chance = random.Random(thread)
        for number in range(each):
            if chance.random() < 0.3:
                hub.update_scalars({f"{thread}/a": float(number), f"{thread}/b": float(number)})
            else:
                hub.update_scalar(f"{thread}/a", float(number))

    for number in range(300):
        hub.update_scalar("first", float(number))
    seen: list[list[int]] = []

    async def read_all(after: int) -> None:
        terms: dict[str, Any] = {"since": after} if replay == "since" else {"replay": "all"}
        got: list[int] = []
        seen.append(got)
        with hub.subscribe(max_lag=1 << 20, **terms) as events:
            async for batch in events.batches():
                got += seqs(batch)
                if done.is_set() and got[-1] >= hub.statistics().seq:
                    return

    done = anyio.Event()
    with fail_after(60):
        async with anyio.create_task_group() as readers:
            async with anyio.create_task_group() as publishers:
                for thread in range(threads):
                    publishers.start_soon(to_thread.run_sync, functools.partial(publish, thread))
                for number in range(8):
                    readers.start_soon(read_all, 37 * number)
                    await anyio.lowlevel.checkpoint()
            done.set()
            hub.update_scalar("last", 0.0)
    total = hub.statistics().seq
    firsts = [37 * number + 1 for number in range(8)] if replay == "since" else [1] * 8
    assert sorted(seen) == sorted(list(range(first, total + 1)) for first in firsts)


updates = st.lists(st.tuples(st.sampled_from(["a", "b", "c/d"]), st.integers(0, 3)), max_size=80)


@given(updates, st.integers(-1, 90))
def test_the_past_is_what_was_published(published: list[tuple[str, int]], since: int) -> None:
    hub = MessageHub("hub")
    live = hub.subscribe("**", ScalarUpdated)
    for number, (key, count) in enumerate(published):
        hub.update_scalar(key, number, count, step=number * 2)
    expected = read(live)
    assert read(hub.subscribe(replay="all")) == expected
    assert read(hub.subscribe(since=since)) == [event for event in expected if event.seq > since]
    assert read(hub.subscribe("c/*", since=since)) == [e for e in expected if e.seq > since and e.key == "c/d"]
    newest = {event.key: event for event in expected}
    assert read(hub.subscribe(replay="last")) == sorted(newest.values(), key=lambda event: event.seq)
    assert read(hub.subscribe()) == []


def test_a_long_past_of_many_keys_comes_in_order() -> None:
    hub = MessageHub("hub")
    chance = random.Random(1)
    keys = [f"key/{index}" for index in range(40)]
    weights = [1.5**-index for index in range(40)]
    for _ in range(30_000):
        hub.update_scalar(chance.choices(keys, weights)[0], 1.0)
    assert seqs(read(hub.subscribe(replay="all"))) == list(range(1, 30_001))


def test_runtime_infos_come_back_with_their_newest_value_in_their_place() -> None:
    hub = MessageHub("hub")
    hub.update_info("epoch", 1)
    hub.update_scalar("a", 1.0)
    hub.update_info("epoch", 2)
    hub.update_scalar("a", 2.0)
    hub.update_info("gone", 1)
    hub.pop_info("gone")
    past = read(hub.subscribe(replay="all"))
    assert [(event.seq, event.key) for event in past] == [(2, "a"), (3, "epoch"), (4, "a")]
    assert isinstance(past[1], InfoUpdated)
    assert past[1].value == 2


async def test_what_is_published_while_the_past_is_read_comes_after_it() -> None:
    hub = MessageHub("hub")
    for number in range(1000):
        hub.update_scalar("a", float(number))
    with fail_after(5), hub.subscribe(replay="all") as events:
        got = []
        for number in range(1500):
            if number < 500:
                hub.update_scalar("a", 1000.0 + number)
            event = await anext(events)
            assert isinstance(event, ScalarUpdated)
            got.append(event.value)
        assert got == list(range(1500))


async def test_replay_counts_only_what_the_history_still_holds() -> None:
    hub = MessageHub("hub")
    hub.update_scalar("a", 0.0)
    hub.get_scalar("a").max_length = 10
    for number in range(1, 100):
        hub.update_scalar("a", float(number))
    with hub.subscribe(replay="all") as events:
        got = await rest(events)
    assert [event.value for event in got if isinstance(event, ScalarUpdated)] == list(range(90, 100))


def test_past_events_go_through_every_and_when() -> None:
    hub = MessageHub("hub")
    for number in range(1, 101):
        hub.update_scalar("a", float(number), step=number)
    due = read(hub.subscribe(replay="all", every="10ba", when=lambda event: event.value > 50))
    assert [event.step for event in due] == [60, 70, 80, 90, 100]


@pytest.fixture
def bad() -> Iterator[MessageHub]:
    hub = MessageHub("hub")
    yield hub
    assert hub.statistics().subscriptions == ()


@pytest.mark.parametrize("terms", [{"replay": "some"}, {"replay": 3}, {"since": "3"}, {"since": 1.5}, {"since": True}])
def test_a_replay_that_is_none_is_refused(bad: MessageHub, terms: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"replay must be|since must be"):
        bad.subscribe(**terms)
