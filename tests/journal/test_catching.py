"""A reader that falls behind loses nothing where there is a journal, and holds no memory for that."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import fail_after, to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from asynchub import Event, EventsDropped, Journal, MessageHub, ScalarUpdated, StopRequested, Subscription
from asynchub.errors import ArgumentError
from asynchub.journal.reading import read_journal
from tests.journal.force import Listening, assert_same


async def rest(events: Subscription) -> list[Event]:
    """Close ``events`` and return what it still holds."""
    events.close()
    return [event async for event in events]


def values(events: list[Event]) -> list[float]:
    return [event.value for event in events if isinstance(event, ScalarUpdated)]


def publish(hub: MessageHub, number: int) -> None:
    """Publish something of every kind now and then."""
    hub.update_scalar("loss", number, step=number)
    if number % 3 == 0:
        hub.update_scalars({"a/b": number / 7, "c": {"value": number, "count": 4}})
    if number % 11 == 0:
        hub.update_info("lr", {"group": [number, None]})
    if number % 17 == 0:
        hub.publish(Event(key="mine"))


@pytest.fixture
def hub() -> MessageHub:
    return MessageHub("hub", latency=0)


@pytest.mark.parametrize("level", ["memory", "process"])
@pytest.mark.parametrize("wanted", [(), ("a/*", "mine"), (StopRequested, "lr")], ids=str)
async def test_it_gets_every_event_once_and_as_it_was(
    hub: MessageHub, tmp_path: Path, level: Any, wanted: tuple[Any, ...]
) -> None:
    hub.attach(Journal(tmp_path / "journal", level=level, interval=1000, segment_size=4000))
    with Listening(hub) as listening, hub.subscribe(*wanted, max_lag=5, overflow="catch_up") as events, fail_after(30):
        test = events._test  # type: ignore[attr-defined]
        got = []
        for number in range(1500):
            publish(hub, number)
            if number % 100 == 0:
                hub.request(StopRequested(reason="enough"))
                got += [await anext(events) for _ in range(min(number // 100, 9)) if events.ready()]
        assert events.statistics().lag > 50
        got += await rest(events)
        statistics = events.statistics()
        assert (statistics.dropped, statistics.lag, statistics.delivered) == (0, 0, len(got))
        assert_same(got, [event for event in listening.events() if test(event.key, type(event))])
    hub.close()


async def test_memory_does_not_grow_with_what_it_is_behind(hub: MessageHub, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "journal"))
    with hub.subscribe(max_lag=100, overflow="catch_up") as events, fail_after(30):
        for number in range(200_000):
            hub.update_scalar("loss", number)
        hub._bus.collect()
        channel = hub._bus.channels[0]
        assert channel.end - channel.base <= hub._bus.capacity / 8
        assert values(await rest(events)) == list(range(200_000))
    hub.close()


async def test_nothing_is_lost_or_repeated_while_others_publish(hub: MessageHub, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "journal", interval=0.02, segment_size=100_000))
    each, threads = 20_000, 3

    def flood(who: int) -> None:
        for number in range(each):
            hub.update_scalar(f"thread/{who}", number)

    with hub.subscribe("thread/*", max_lag=64, overflow="catch_up") as events, fail_after(100):
        async with anyio.create_task_group() as tasks:
            for who in range(threads):
                tasks.start_soon(to_thread.run_sync, flood, who)
            got: list[Event] = []
            async for batch in events.batches():
                got += batch
                if len(got) == each * threads:
                    break
        assert events.statistics().dropped == 0
    assert [event.seq for event in got] == sorted(event.seq for event in got)
    for who in range(threads):
        assert values([event for event in got if event.key == f"thread/{who}"]) == list(range(each))
    hub.close()


@settings(max_examples=50)
@given(
    max_lag=st.integers(1, 9),
    capacity=st.integers(1, 20),
    turns=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=12),
)
def test_however_it_reads_it_gets_all(
    tmp_path_factory: pytest.TempPathFactory, max_lag: int, capacity: int, turns: list[tuple[int, int]]
) -> None:
    hub = MessageHub("hub", capacity=capacity)
    hub.attach(Journal(tmp_path_factory.mktemp("run") / "journal", level="memory", interval=1000))
    published = 0
    got: list[Event] = []
    events = hub.subscribe(max_lag=max_lag, overflow="catch_up")

    async def take(number: int) -> None:
        for _ in range(number):
            if events.ready():
                got.append(await anext(events))

    for publish, read in turns:
        for _ in range(publish):
            published += 1
            hub.update_scalar("a", published)
        anyio.run(take, read)
        statistics = events.statistics()
        assert statistics.lag + statistics.delivered == published
    got += anyio.run(rest, events)
    assert values(got) == list(range(1, published + 1))
    hub.close()


async def test_without_a_journal_it_is_told_what_it_lost(hub: MessageHub) -> None:
    with hub.subscribe(max_lag=3, overflow="catch_up") as events, fail_after(5):
        for number in range(10):
            hub.update_scalar("loss", number, step=number)
        mark, *others = await rest(events)
        assert events.statistics().dropped == 7
    assert isinstance(mark, EventsDropped)
    assert (mark.missed, mark.seq, mark.step) == (7, 7, 6)
    assert values(others) == [7, 8, 9]


async def test_what_was_before_the_journal_is_lost_and_what_came_after_is_not(hub: MessageHub, tmp_path: Path) -> None:
    with hub.subscribe(max_lag=3, overflow="catch_up") as events, fail_after(5):
        for number in range(10):
            hub.update_scalar("loss", number)
        hub.attach(Journal(tmp_path / "journal"))
        for number in range(10, 20):
            hub.update_scalar("loss", number)
        got = await rest(events)
        assert events.statistics().dropped == 10
    assert values(got) == list(range(10, 20))
    assert [(event.missed, event.seq) for event in got if isinstance(event, EventsDropped)] == [(10, 17)]
    hub.close()


async def test_it_gets_the_rest_when_the_hub_is_left(hub: MessageHub, tmp_path: Path) -> None:
    got: list[Event] = []

    async def slow(events: Subscription) -> None:
        async for event in events:
            got.append(event)
            if len(got) < 20:
                await anyio.sleep(0.001)

    hub.attach(Journal(tmp_path / "journal", interval=1000))
    hub.attach(slow, "loss", max_lag=10, overflow="catch_up")
    async with hub:
        for number in range(5000):
            hub.update_scalar("loss", number)
    assert values(got) == list(range(5000))


async def test_a_reader_that_is_cancelled_while_it_catches_up_loses_nothing(hub: MessageHub, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "journal", interval=1000, segment_size=2000))
    got: list[Event] = []

    async def read() -> None:
        async for event in events:
            got.append(event)

    with hub.subscribe(max_lag=2, overflow="catch_up") as events, fail_after(30):
        for turn in range(40):
            for number in range(50):
                hub.update_scalar("loss", turn * 50 + number)
            with anyio.move_on_after(0.0002 * (turn % 10)):
                await read()
        got += await rest(events)
    assert values(got) == list(range(2000))
    hub.close()


async def test_compaction_leaves_what_it_has_still_to_read(hub: MessageHub, tmp_path: Path) -> None:
    hub.attach(Journal(tmp_path / "journal", compact=True, interval=1000, segment_size=1))
    with hub.subscribe("loss", max_lag=2, overflow="catch_up") as events, fail_after(30):
        for turn in range(10):
            for number in range(20):
                hub.update_scalar("loss", turn * 20 + number)
            hub.commit()
            hub.save(f"{tmp_path}/", keep=1)
        got = [await anext(events) for _ in range(50)]
        got += await rest(events)
    assert values(got) == list(range(200))
    for _ in range(2):  # of the segments that it needed, two are kept in any case
        hub.update_scalar("loss", 0)
        hub.commit()
        hub.save(f"{tmp_path}/", keep=1)
    assert read_journal(tmp_path / "journal").first_seq > 100
    hub.close()


async def test_it_waits_for_a_disk_that_refuses(
    hub: MessageHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    hub.attach(Journal(tmp_path / "journal", interval=0.02))
    refused = threading.Event()
    write = os.write

    def refusing(*arguments: Any) -> int:
        refused.set()
        raise OSError(errno.ENOSPC, "the disk refuses")

    with hub.subscribe("loss", max_lag=5, overflow="catch_up") as events, fail_after(30):
        monkeypatch.setattr(os, "write", refusing)
        for number in range(500):
            hub.update_scalar("loss", number)
        async with anyio.create_task_group() as tasks:
            got: list[Event] = []

            async def read() -> None:
                got.extend([await anext(events) for _ in range(500)])

            tasks.start_soon(read)
            await to_thread.run_sync(refused.wait)
            assert got == []
            monkeypatch.setattr(os, "write", write)
        assert values(got) == list(range(500))
        assert events.statistics().dropped == 0
    hub.close()


async def test_what_cannot_be_read_is_lost_and_said(
    hub: MessageHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.attach(Journal(tmp_path / "journal", interval=1000, segment_size=1))
    with hub.subscribe("loss", max_lag=5, overflow="catch_up") as events, fail_after(30):
        for number in range(100):
            hub.update_scalar("loss", number)
            if number % 10 == 9:
                hub.commit()
        segments = sorted((tmp_path / "journal").glob("*.ahj"))
        data = bytearray(segments[3].read_bytes())
        data[-100] ^= 1
        segments[3].write_bytes(data)
        got = await rest(events)
    lost = events.statistics().dropped
    assert lost > 0
    assert len(values(got)) == 100 - lost
    assert sum(event.missed for event in got if isinstance(event, EventsDropped)) == lost
    assert "could not be read" in caplog.text
    hub.close()


def test_a_control_subscriber_cannot_wait_for_a_disk(hub: MessageHub) -> None:
    async def decide(events: Subscription) -> None: ...

    with pytest.raises(ArgumentError, match="nor for it to read a journal"):
        hub.attach(decide, role="control", overflow="catch_up")
    with pytest.raises(ArgumentError, match="'block', 'raise' or 'catch_up', got 'spill'"):
        hub.subscribe(overflow="spill")  # type: ignore[arg-type]
