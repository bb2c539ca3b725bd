"""Many threads publish, read, attach and detach at once: one order, nothing lost, nothing doubled."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable

import anyio
import pytest
from anyio import fail_after, to_thread

from asynchub import Event, MessageHub, ScalarUpdated, Subscription

THREADS = 4
EACH = 10_000


class Recorder:
    """Keeps the ``(seq, key, value)`` of each event, one by one or in batches."""

    def __init__(self, batches: bool = False) -> None:
        self.seen: list[tuple[int, str, float]] = []
        self.batches = batches

    def note(self, event: Event) -> None:
        assert isinstance(event, ScalarUpdated)
        self.seen.append((event.seq, event.key, event.value))

    async def __call__(self, events: Subscription) -> None:
        if self.batches:
            async for batch in events.batches():
                assert batch
                for event in batch:
                    self.note(event)
        else:
            async for event in events:
                self.note(event)


def publishing(hub: MessageHub, thread: int, pauses: bool = False, each: int = EACH) -> None:
    chance = random.Random(thread)
    for number in range(each):
        hub.update_scalar(f"thread/{thread}", float(number))
        if pauses and chance.random() < 0.01:
            time.sleep(chance.random() * 1e-4)


def in_threads(*calls: Callable[[], object]) -> None:
    """Run each call in a thread of its own, all at once; raise what any raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def check_whole(seen: list[tuple[int, str, float]], threads: int = THREADS, each: int = EACH) -> None:
    """Check that ``seen`` holds every event of every thread once, in the order of seq, and each thread's in its own."""
    assert [seq for seq, _, _ in seen] == list(range(1, threads * each + 1))
    for thread in range(threads):
        assert [value for _, key, value in seen if key == f"thread/{thread}"] == list(range(each))


@pytest.mark.parametrize("pauses", [False, True], ids=["at full speed", "with pauses"])
@pytest.mark.parametrize("latency", [0.0, 0.005])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_observer_in_a_thread_sees_all_threads_events_in_one_order(
    backend: str, latency: float, pauses: bool
) -> None:
    hub = MessageHub("hub", latency=latency, backend=backend)
    recorders = [Recorder(), Recorder(batches=True), Recorder()]
    for recorder in recorders:
        hub.attach(recorder, max_lag=1 << 20)
    with hub:
        in_threads(*(functools.partial(publishing, hub, thread, pauses) for thread in range(THREADS)))
        hub.flush(30)
        for recorder in recorders:
            check_whole(recorder.seen)
    for recorder in recorders:
        check_whole(recorder.seen)


async def test_every_observer_on_the_programs_loop_sees_all_threads_events_in_one_order() -> None:
    hub = MessageHub("hub", latency=0.002)
    recorders = [Recorder(), Recorder(batches=True)]
    async with hub:
        for recorder in recorders:
            hub.attach(recorder, max_lag=1 << 20)
        with fail_after(60):
            async with anyio.create_task_group() as group:
                for thread in range(THREADS - 1):
                    group.start_soon(to_thread.run_sync, functools.partial(publishing, hub, thread, True))
                group.start_soon(publish_here, hub, THREADS - 1)
        await hub.flushed(30)
        for recorder in recorders:
            check_whole(recorder.seen)


async def publish_here(hub: MessageHub, thread: int) -> None:
    for number in range(EACH):
        hub.update_scalar(f"thread/{thread}", float(number))
        if number % 100 == 0:
            await anyio.lowlevel.checkpoint()


def test_leaving_hands_over_all_that_was_published_before() -> None:
    hub = MessageHub("hub", latency=3600.0)
    recorder = Recorder(batches=True)
    hub.attach(recorder, max_lag=1 << 20)
    with hub:
        in_threads(*(functools.partial(publishing, hub, thread) for thread in range(THREADS)))
    check_whole(recorder.seen)


def test_subscribers_come_and_go_from_random_threads_while_others_publish() -> None:
    hub = MessageHub("hub", latency=0.001)
    steady = Recorder()
    hub.attach(steady, "thread/*", max_lag=1 << 20)
    passing: list[Recorder] = []

    def come_and_go(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            recorder = Recorder(batches=chance.random() < 0.5)
            passing.append(recorder)
            pattern = chance.choice(["**", "thread/*", "thread/0", "*/1"])
            attachment = hub.attach(recorder, pattern, name=f"{seed} {len(passing)} {chance.random()}")
            subscription = hub.subscribe(chance.choice(["**", "thread/2"]))
            time.sleep(chance.random() * 1e-3)
            hub.statistics()
            attachment.detach()
            subscription.close()

    with hub:
        in_threads(
            *(functools.partial(publishing, hub, thread, True) for thread in range(THREADS)),
            *(functools.partial(come_and_go, seed) for seed in range(3)),
        )
        hub.flush(30)
    check_whole(steady.seen)
    assert len(hub.statistics().subscriptions) == 1
    for recorder in passing:
        seqs = [seq for seq, _, _ in recorder.seen]
        assert seqs == sorted(set(seqs))
        everything = {key for _, key, _ in recorder.seen} == {f"thread/{thread}" for thread in range(THREADS)}
        if everything and len(seqs) > 1:
            assert seqs == list(range(seqs[0], seqs[-1] + 1))


def test_what_eight_threads_update_at_once_is_whole() -> None:
    hub = MessageHub("hub")
    events = hub.subscribe(max_lag=1 << 20)

    def update(thread: int) -> None:
        for number in range(1000):
            try:
                hub.update_scalars({"a": number, "b": {"value": thread, "count": 2}, f"own/{thread}": 1.0})
                hub.update_scalars({"a": 1.0, "b": "junk"})
            except TypeError:
                pass
            else:
                raise AssertionError("junk was accepted")

    in_threads(*(functools.partial(update, thread) for thread in range(8)))
    values, counts = hub.get_scalar("b").data
    assert len(hub.get_scalar("a").data[0]) == len(values) == len(counts) == 8000
    assert set(counts.tolist()) == {2}
    seqs = hub.get_scalar("a").records().seqs
    assert (hub.get_scalar("b").records().seqs == seqs + 1).all()
    assert hub.statistics().seq == 24_000
    assert hub.statistics().subscriptions[0].lag == 24_000
    events.close()


def test_reads_of_histories_while_they_grow_are_consistent() -> None:
    hub = MessageHub("hub")
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if "thread/0" in hub.log_scalars:
                values, counts = hub.get_scalar("thread/0").data
                assert len(values) == len(counts)
                assert values.tolist() == list(range(len(values)))

    def write() -> None:
        try:
            publishing(hub, 0)
        finally:
            done.set()

    in_threads(write, read, read)


async def test_a_reader_that_is_cancelled_again_and_again_loses_nothing() -> None:
    hub = MessageHub("hub", latency=0.001)
    seen: list[float] = []
    with hub.subscribe("thread/0", max_lag=1 << 20) as events, fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(to_thread.run_sync, functools.partial(publishing, hub, 0, True, 3000))
            while len(seen) < 3000:
                with anyio.move_on_after(0.0005):
                    async for event in events:
                        assert isinstance(event, ScalarUpdated)
                        seen.append(event.value)
                        if len(seen) == 3000:
                            break
    assert seen == list(range(3000))
