"""Brokers and ranks that are killed, late, absent or slow: a run goes on, and all that it published is stored, once.

Times that are asserted are for a machine that is shared with others; what was measured is printed (``-s``).
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import nats
import numpy as np
import psutil
import pytest

import asynchub
from asynchub.bridges.bridge import Bridge
from asynchub.bridges.broker import plan_broker
from asynchub.bridges.reducer import Reducer
from asynchub.bridges.spooled import spooled_epochs
from asynchub.bridges.subjects import Subjects
from asynchub.events import EventsDropped, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import Request, RequestApplied, RequestRefused, StopRequested
from asynchub.subscription import Subscription
from tests.benchmarks.connections import made_frames, measure
from tests.bridges.acceptance_ranks import (
    Plan,
    check_ranks,
    launch,
    progress,
    read_stored,
    results,
    until,
    value_of,
)
from tests.bridges.broker import Broker, free_port
from tests.bridges.ranks import Rank, ranks

# --- the broker is killed


def killed(broker: Broker, plan: Plan, ranks: int, kills: list[tuple[float, float]], *, torchrun: bool) -> None:
    """Run ranks, kill the broker at some seconds for some seconds, and check that nothing is lost."""
    folder = Path(plan.folder)
    with launch(plan, ranks, torchrun=torchrun):
        until(lambda: all(progress(folder, rank) for rank in range(ranks)), "the first step", folder=folder)
        begun = time.monotonic()
        for at, seconds in kills:
            time.sleep(max(0.0, begun + at - time.monotonic()))  # not to wait for something: the schedule of the test
            broker.kill()
            time.sleep(seconds)
            broker.start()
        told = results(folder, ranks)
    check_ranks(read_stored(broker.url, plan.run), plan, ranks)
    print()
    for rank, one in enumerate(told):
        print(
            f"rank {rank}: publishing {one['with']['mean_us']:.2f} us, at worst {one['with']['worst_ms']:.1f} ms; "
            f"without a bridge {one['without']['mean_us']:.2f} us, {one['without']['worst_ms']:.1f} ms; step "
            f"{one['with']['step_ms']:.3f} and {one['without']['step_ms']:.3f} ms; left in {one['leaving']:.2f} s"
        )
        assert one["statistics"]["waiting"] == 0
        assert one["leaving"] < 10  # 5 s on a quiet machine
        assert one["with"]["mean_us"] < 50  # 2 us on a quiet machine; a publish that waited for anything takes 1,000
        assert one["with"]["worst_ms"] < 1000  # 20 ms on a quiet machine, where nobody else wants the processor


def test_a_broker_that_is_killed_gets_all_that_two_ranks_publish_once(tmp_path: Path, broker: Broker) -> None:
    plan = Plan(broker.url, str(tmp_path / "run"), steps=50, interval=0.2)
    killed(broker, plan, 2, [(0.5, 0.7)], torchrun=False)


@pytest.mark.slow
def test_a_broker_that_is_killed_twice_gets_all_that_four_ranks_of_torchrun_publish_once(
    tmp_path: Path, broker: Broker
) -> None:
    plan = Plan(broker.url, str(tmp_path / "run"), steps=400)
    killed(broker, plan, 4, [(5.0, 2.0), (11.0, 4.0)], torchrun=True)


# --- the broker is late, or never there


def test_a_broker_that_comes_late_gets_everything(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    plan = Plan(broker.url, str(tmp_path), run="late", keys=50, steps=100)
    hub = MessageHub("run")
    bridge = Bridge(hub, broker.url, run="late", spool=tmp_path / "spool", interval=0.05)
    try:
        begun = time.perf_counter()
        with hub:
            entered = time.perf_counter() - begun
            for hub.step in range(1, plan.steps + 1):
                for key in range(plan.keys):
                    hub.update_scalar(f"key/{key}", value_of(hub.step, key))
            until(lambda: bridge.statistics().error, "a look for the broker")
            assert bridge.statistics().waiting
            broker.start()
            bridge.deliver(30)
        print(f"\nentered in {entered * 1e3:.1f} ms")
        assert entered < 1  # 50 ms on a quiet machine
        check_ranks(read_stored(broker.url, "late"), plan, 1)
    finally:
        broker.kill()


@pytest.mark.slow
def test_a_broker_that_is_never_there_costs_a_bounded_spool_some_memory_and_no_wait(tmp_path: Path) -> None:
    max_spool = 2**22
    plan = Plan(
        f"nats://127.0.0.1:{free_port()}",
        str(tmp_path / "bridged"),
        steps=15_000,
        pace=0,
        max_spool=max_spool,
        drain_timeout=5.0,
        flush_every=100,
    )
    other = replace(plan, folder=str(tmp_path / "bare"), bridged=False)
    with launch(plan, 1), launch(other, 1):
        bridged, bare = (results(Path(one.folder), 1, 200)[0] for one in (plan, other))
    (spooled,) = spooled_epochs(tmp_path / "bridged" / "spool")
    size = sum(path.stat().st_size for path in (tmp_path / "bridged" / "spool").rglob("*.ahf"))
    more = (bridged["peak_bytes"] - bare["peak_bytes"]) / 2**20
    print(
        f"\n{spooled.events:,} events, {spooled.left_out:,} left out; spool {size / 2**20:.1f} MiB of "
        f"{max_spool / 2**20:.0f}; memory +{more:.1f} MiB; left in {bridged['leaving']:.2f} s"
    )
    assert spooled.events == bridged["seq"]
    assert spooled.left_out == bridged["statistics"]["left_out"] > 0
    assert spooled.damaged == 0
    assert size <= max_spool
    assert more < 50
    assert bridged["leaving"] < 4  # 2 s on a quiet machine


# --- a rank is killed


@pytest.mark.parametrize(
    "journaled", [pytest.param(False, id="alone", marks=pytest.mark.slow), pytest.param(True, id="journal")]
)
def test_a_killed_rank_that_comes_back_loses_an_interval_or_with_a_journal_nothing(
    tmp_path: Path, broker: Broker, journaled: bool
) -> None:
    folder = tmp_path / "run"
    plan = Plan(broker.url, str(folder), keys=5, steps=1_000_000, pace=200, interval=0.2, journaled=journaled)
    with asynchub.attach(broker.url, run=plan.run, past="all", timeout=30) as follower:
        with launch(plan, 1) as (process,):
            until(lambda: len(progress(folder, 0)) > 20, "a step", folder=folder)
            broker.kill()
            steps = len(progress(folder, 0))
            until(lambda: len(progress(folder, 0)) > steps + 60, "a step without the broker", folder=folder)
            killed_at = time.time()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        published = progress(folder, 0)
        broker.start()
        until_step = published[-1][0] + 50 if journaled else 60
        with launch(replace(plan, steps=until_step), 1):
            (told,) = results(folder, 1)
        follower.catch_up(30)
        followed = {key: follower.get_scalar(key).data[0].tolist() for key in told["history"]}
    with asynchub.attach(broker.url, run=plan.run, past="all") as reader:
        read = {key: reader.get_scalar(key).data[0].tolist() for key in told["history"]}
    assert read == followed == told["history"]

    first, second = read_stored(broker.url, plan.run).values()
    seqs = first.seqs + second.seqs if journaled else first.seqs
    assert seqs == list(range(1, len(seqs) + 1))
    stored = {step for step, _ in first.scalars["key/4"]}
    if journaled:
        for key, values in told["history"].items():
            assert [value for _, value in first.scalars[key] + second.scalars[key]] == values
        assert len(told["history"]["key/4"]) >= until_step - 1  # the step in which it was killed may lack this key
        stored |= {step for step, _ in second.scalars["key/4"]}
        assert {step for step, _ in published} <= stored
    else:
        assert second.seqs == list(range(1, len(second.seqs) + 1))
        lost = [when for step, when in published if step not in stored]
        longest = killed_at - min(lost, default=killed_at)
        print(f"\n{len(lost)} steps lost, of the last {longest:.2f} s")
        assert longest < plan.interval + 1  # and what a busy machine adds


# --- somebody comes late


async def fill(url: str, run: str, count: int) -> None:
    """Store frames of rank 1."""
    client = await nats.connect(url)
    stream = client.jetstream()
    subject = Subjects(run).events(1, 1)
    frames = made_frames(run, [1], range(1, count + 1))
    while some := list(itertools.islice(frames, 500)):
        for one in [await stream.publish_async(subject, data) for (data,) in some]:
            await one
    await client.close()


@contextmanager
def publishing(hub: MessageHub, pace: float, publish: object) -> Iterator[list[float]]:
    """Call ``publish(number)`` in a thread, some times a second; yield a list with how long each call took."""
    ending = threading.Event()
    took: list[float] = []

    def work() -> None:
        begun = time.perf_counter()
        for number in itertools.count(1):
            before = time.perf_counter()
            publish(number)  # type: ignore[operator]
            took.append(time.perf_counter() - before)
            if ending.wait(max(0.0, begun + number / pace - time.perf_counter())):
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield took
    finally:
        ending.set()
        thread.join(10)


async def join_late(broker: Broker, folder: Path, frames: int) -> None:
    hub = MessageHub("run")
    bridge = Bridge(hub, broker.url, run="late", rank=0, world=2, spool=folder, interval=0.05)
    with hub:
        hub.update_info("model", "small")
        await bridge.delivered(30)
        await anyio.to_thread.run_sync(anyio.run, fill, broker.url, "late", frames)  # nats-py knows asyncio only
        for step in range(100):
            hub.step = step
            hub.update_scalars({f"key/{key}": step + key for key in range(1000)} if step % 33 == 0 else {"few": step})
            await bridge.delivered(30)
        with publishing(hub, 200, lambda number: hub.update_scalar("live", number)):
            with anyio.fail_after(30):
                while hub.log_scalars.get("live") is None:
                    await anyio.sleep(0.01)
            begun = time.perf_counter()
            async with asynchub.attach(broker.url, run="late", timeout=30) as remote:
                joined = time.perf_counter() - begun
                assert [remote.get_scalar(f"key/{key}").current() for key in range(1000)] == [
                    99 + key for key in range(1000)
                ]
                with anyio.fail_after(30), remote.subscribe("live", replay="all") as events:
                    values = [(await anext(events)).value for _ in range(200)]
                assert values == [values[0] + number for number in range(200)]
    print(f"\n1,000 keys, {frames:,} frames of another rank: joined in {joined * 1e3:.0f} ms")
    assert joined < 5  # 250 ms on a quiet machine


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_who_comes_late_has_the_newest_of_each_key_and_then_all_without_a_gap(
    tmp_path: Path, broker: Broker
) -> None:
    await join_late(broker, tmp_path / "spool", 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_comes_after_twenty_thousand_frames_has_the_newest_of_each_key(
    tmp_path: Path, broker: Broker
) -> None:
    await join_late(broker, tmp_path / "spool", 20_000)


# --- a reader is slow


@pytest.mark.slow
def test_a_slow_reader_holds_up_nobody_and_is_told_what_it_missed(tmp_path: Path, broker: Broker) -> None:
    hub = MessageHub("run")
    bridge = Bridge(hub, broker.url, run="slow", spool=tmp_path / "spool", interval=0.05)
    names = [f"key/{key}" for key in range(100)]
    fast_seen: list[tuple[int, str]] = []
    missed: list[int] = []

    async def read_fast(events: Subscription) -> None:
        async for batch in events.batches():
            fast_seen.extend((event.step, event.key) for event in batch if isinstance(event, ScalarUpdated))

    async def read_slowly(events: Subscription) -> None:
        async for event in events:
            if isinstance(event, EventsDropped):
                missed.append(event.missed)
            await anyio.sleep(0.001)

    def publish(number: int) -> None:
        hub.step = number
        for name in names:
            hub.update_scalar(name, number)

    memory = psutil.Process(broker._pid()).memory_info
    with hub:
        hub.update_info("model", "small")
        bridge.deliver(30)
        before = memory().rss
        with asynchub.attach(broker.url, run="slow") as fast, asynchub.attach(broker.url, run="slow") as slow:
            fast.attach(read_fast, "key/*")
            slow_one = slow.attach(read_slowly, "key/*", max_lag=2_000)
            with publishing(hub, 100, publish) as took:
                until(lambda: len(took) >= 300, "300 steps")
            bridge.deliver(30)
            more = memory().rss - before
            fast.catch_up(30)
            fast.flush(30)
            slow.catch_up(30)
            until(lambda: slow_one.statistics().lag <= 2_000, "dropping")
            statistics = slow_one.statistics()
            assert statistics.dropped > 0
            assert sum(missed) <= statistics.dropped
            until(lambda: missed, "being told")
    print(
        f"\n{len(took) * 100:,} events; 100 took {np.median(took) * 1e3:.2f} ms, at worst {max(took) * 1e3:.1f}; "
        f"lag {statistics.lag:,}, dropped {statistics.dropped:,}; broker +{more / 2**20:.1f} MiB"
    )
    assert fast_seen == [(step, name) for step in range(1, len(took) + 1) for name in names]
    assert more < 2**20 * 50
    assert np.median(took) < 0.05


# --- there are very many of them


@pytest.mark.slow
def test_two_thousand_connections_with_a_frame_a_second_are_all_stored(tmp_path: Path) -> None:
    found = measure(2_000, 5, tmp_path)
    print(
        f"\nthe broker took {found.broker:.0%} of a core, {found.memory / 2**20:.0f} MiB, p99 {found.p99 * 1e3:.0f} ms"
    )
    assert (found.connections, found.sent, found.stored, found.refused) == (2_000, 10_000, 10_000, 0)
    assert found.broker < 0.6  # 15 % on a quiet machine


# --- it is steered from afar


def steered(rank: Rank, url: str) -> tuple[int, list[int]]:
    """Train until somebody says stop; return the step of that, and those at which something was asked for."""
    hub = MessageHub("run")
    reducer = Reducer(hub, {"train/*": "mean"}, every=5)
    asked: list[int] = []

    def agree(request: Request) -> None:
        asked.append(hub.step)
        reducer.request(request)

    Bridge(hub, url, run="steered", spool=None, interval=0.05, allow=("stop",), agree=agree)
    with hub:
        while not hub.stop_requested:
            hub.step += 1
            hub.update_scalar("train/loss", 1 / hub.step)
            hub.settle()
            time.sleep(0.005)  # a step of training
            if hub.step == 20 and rank.index == 0:
                rank.say("here")
    return hub.step, asked


def test_a_stop_from_afar_has_all_ranks_leave_at_one_step_and_only_from_who_may(tmp_path: Path) -> None:
    plan = plan_broker(tmp_path / "broker", port=free_port())
    broker = Broker(tmp_path / "broker", plan=plan)
    try:
        broker.start()
        with ranks(2, steered, plan.url("run")) as running:
            assert running.hear(0) == "here"

            async def ask(user: str) -> RequestApplied | RequestRefused:
                async with asynchub.attach(plan.url(user), run="steered", author=user) as remote:
                    return await remote.requested(StopRequested(reason="enough"), 30)

            refused = anyio.run(ask, "viewer")
            begun = time.perf_counter()
            applied = anyio.run(ask, "controller")
            took = time.perf_counter() - begun
            left = running.results()
    finally:
        broker.kill()
    assert isinstance(refused, RequestRefused)
    assert "AccessRefusedError" in refused.error
    assert isinstance(applied, RequestApplied)
    assert (applied.author, applied.reason) == ("controller", "enough")
    (first, asked), (second, _) = left
    assert first == second == applied.step
    assert len(asked) == 1
    assert first - asked[0] <= 2 * 5 + 1
    print(f"\nasked at step {asked[0]}, left at step {first}; joined, asked and told in {took:.2f} s")
