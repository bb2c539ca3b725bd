"""When readers are woken, and how often."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint

from asynchub import Event, MessageHub, Subscription
from asynchub.stations import Station


class Kicks:
    """Counts the wake-ups that publishers cause, here and from other threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        kick = Station.kick

        def counted(station: Station) -> None:
            self.count += 1
            kick(station)

        monkeypatch.setattr(Station, "kick", counted)


@pytest.fixture
def kicks(monkeypatch: pytest.MonkeyPatch) -> Kicks:
    return Kicks(monkeypatch)


@pytest.fixture(autouse=True)
def _no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no reader look by itself: what it sees, it was woken for."""
    monkeypatch.setattr("asynchub.stations.FALLBACK_POLL", 3600.0)


class Waiting:
    """An observer that says when it has seen so many events."""

    def __init__(self, number: int = 1) -> None:
        self.seen: list[Event] = []
        self.number = number
        self.enough = threading.Event()

    async def __call__(self, events: Subscription) -> None:
        async for event in events:
            self.seen.append(event)
            if len(self.seen) >= self.number:
                self.enough.set()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_idle_reader_in_a_thread_wakes_at_the_first_publish(backend: str) -> None:
    hub = MessageHub("hub", latency=3600.0, backend=backend)
    reader = Waiting()
    hub.attach(reader)
    with hub:
        hub.flush(10)
        hub.update_scalar("a", 1.0)
        assert reader.enough.wait(20)


def test_a_reader_is_not_woken_while_it_lets_events_gather(kicks: Kicks) -> None:
    hub = MessageHub("hub", latency=3600.0)
    reader = Waiting()
    hub.attach(reader)
    with hub:
        deadline = time.monotonic() + 20
        while not any(station._timer and station._next_look > deadline for station in hub._bus._stations.values()):
            hub.update_scalar("a", 1.0)
            time.sleep(0.001)
            assert time.monotonic() < deadline
        kicked, seen = kicks.count, len(reader.seen)
        for number in range(50_000):
            hub.update_scalar("a", float(number))
        assert kicks.count == kicked
        assert len(reader.seen) == seen
        hub.flush(10)  # cuts the sleep short
        assert len(reader.seen) == hub.statistics().seq
        hub.update_scalar("a", 2.0)
    assert len(reader.seen) == hub.statistics().seq  # and so does leaving


def test_a_steady_publisher_wakes_a_reader_about_never(kicks: Kicks) -> None:
    hub = MessageHub("hub", latency=0.02)
    readers = [Waiting(), Waiting(), Waiting()]
    for reader in readers:
        hub.attach(reader)
    with hub:
        start = time.monotonic()
        while time.monotonic() - start < 0.5:
            hub.update_scalar("a", 1.0)
            time.sleep(0.0005)
        assert kicks.count <= 5
        hub.flush(10)
        for reader in readers:
            assert len(reader.seen) == hub.statistics().seq


def test_publishing_what_nobody_reads_wakes_nobody(kicks: Kicks) -> None:
    hub = MessageHub("hub")
    reader = Waiting()
    hub.attach(reader, "val/*")
    with hub:
        hub.flush(10)
        for number in range(5000):
            hub.update_scalar("train/loss", float(number))
            hub.update_info("train/info", number)
        assert kicks.count == 0
        hub.update_scalar("val/loss", 1.0)
        assert reader.enough.wait(20)


async def test_a_reader_on_the_publishers_loop_runs_as_soon_as_the_publisher_lets_it() -> None:
    hub = MessageHub("hub", latency=3600.0)
    reader = Waiting()
    async with hub:
        hub.attach(reader)
        for number in range(1, 100):
            hub.update_scalar("a", float(number))
            with fail_after(20):
                while len(reader.seen) < number:
                    await checkpoint()


async def test_readers_of_one_loop_share_one_sleeper_and_all_wake() -> None:
    hub = MessageHub("hub", latency=0.001)
    counts = [0] * 10

    async def read(index: int, events: Subscription) -> None:
        async for _ in events:
            counts[index] += 1

    with fail_after(20):
        async with anyio.create_task_group() as group:
            subscriptions = [hub.subscribe(f"{index % 3}") for index in range(10)]
            for index, events in enumerate(subscriptions):
                group.start_soon(read, index, events)
            await anyio.wait_all_tasks_blocked()

            def publish() -> None:
                for number in range(300):
                    hub.update_scalar(f"{number % 3}", float(number))

            await to_thread.run_sync(publish)
            while sum(counts) < 1000:
                await checkpoint()
            for events in subscriptions:
                events.close()
    assert counts == [100] * 10


async def test_a_sleeper_that_leaves_is_replaced() -> None:
    hub = MessageHub("hub", latency=0.001)
    with fail_after(20), hub.subscribe() as first, hub.subscribe() as second:
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def give_up() -> None:
                with scope:
                    await anext(first)

            async def read() -> None:
                assert (await anext(second)).key == "a"

            group.start_soon(give_up)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await to_thread.run_sync(hub.update_scalar, "a", 1.0)


async def test_a_reader_sees_that_its_subscription_was_closed_from_a_thread() -> None:
    hub = MessageHub("hub", latency=3600.0)
    with fail_after(20):
        async with anyio.create_task_group() as group:
            events = hub.subscribe()

            async def read() -> None:
                assert [event async for event in events] == []

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await to_thread.run_sync(events.close)


def test_loops_that_have_ended_are_forgotten() -> None:
    hub = MessageHub("hub")
    hub.update_scalar("a", 1.0)

    async def read_one() -> None:
        with hub.subscribe(replay="all") as events:
            await anext(events)
            with anyio.move_on_after(0):
                await anext(events)

    for _ in range(5):
        anyio.run(read_one)
    hub.update_scalar("a", 1.0)
    hub.subscribe().close()
    assert not hub._bus._stations


async def test_readers_that_come_and_go_leave_nobody_asleep() -> None:
    """Some give up at every moment, while another thread publishes: who stays gets all."""
    hub = MessageHub("hub", latency=0.0)
    with fail_after(60):
        async with anyio.create_task_group() as group:
            staying = [hub.subscribe() for _ in range(2)]
            seen: list[list[float]] = [[], []]

            async def read(index: int) -> None:
                async for event in staying[index]:
                    seen[index].append(event.value)  # type: ignore[attr-defined]  # it reads scalars only

            for index in range(2):
                group.start_soon(read, index)
            for number in range(200):
                with hub.subscribe() as events:
                    await to_thread.run_sync(hub.update_scalar, "a", float(number))
                    with anyio.move_on_after(0.0005 * (number % 3)):
                        while True:
                            await anext(events)
            while min(map(len, seen)) < 200:
                await anyio.sleep(0.0005)
            for events in staying:
                events.close()
    assert seen == [[float(number) for number in range(200)]] * 2


async def test_what_another_thread_collects_before_a_reader_sleeps_is_not_left_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = MessageHub("hub")
    arm = hub._bus.arm

    def late(station: Station) -> bool:
        monkeypatch.undo()
        monkeypatch.setattr("asynchub.stations.FALLBACK_POLL", 3600.0)
        hub.update_scalar("a", 1.0)
        hub.statistics()  # collects
        return arm(station)

    with fail_after(20), hub.subscribe() as events:
        monkeypatch.setattr(hub._bus, "arm", late)
        assert (await anext(events)).key == "a"


async def test_what_is_wrong_with_looking_is_told_to_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MessageHub("hub", latency=0.001)
    told: list[str] = []

    def collect() -> None:
        raise MemoryError("no room to collect")

    async def read(events: Subscription) -> None:
        try:
            await anext(events)
        except MemoryError as error:
            told.append(str(error))

    with fail_after(20), hub.subscribe() as first, hub.subscribe() as second:
        async with anyio.create_task_group() as group:
            group.start_soon(read, first)
            group.start_soon(read, second)
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(hub._bus, "collect", collect)
            await to_thread.run_sync(hub.update_scalar, "a", 1.0)
        monkeypatch.undo()
    assert told == ["no room to collect"] * 2


def test_a_publisher_does_not_mind_a_loop_that_was_closed_on_its_readers() -> None:
    hub = MessageHub("hub")
    loop = asyncio.new_event_loop()
    events = hub.subscribe()

    async def read() -> None:
        await anext(events)

    task = loop.create_task(read())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # which is what this is about
    loop.close()
    hub.update_scalar("a", 1.0)
    events.close()
    assert hub.get_scalar("a").current() == 1.0
    assert not hub._bus._stations
