"""Figures are those that a log kept on the side gives, and what is not known is not there."""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynchub.pipeline.clock import SECOND, clock
from asynchub.pipeline.consumer import ConsumerCounters
from asynchub.pipeline.figures import consumer_report, latency_ms, loop_report, queue_report, servers, stage_report
from asynchub.pipeline.histogram import BUCKETS, bucket_of, empty, indices
from asynchub.pipeline.loops import LoopCounters
from asynchub.pipeline.parts import Parts
from asynchub.pipeline.pipeline_report import PipelineReport
from asynchub.pipeline.queues import QueueCounters, QueueMeter
from asynchub.pipeline.report import ConsumerReport, StageReport
from asynchub.pipeline.tally import Counters, Meter
from asynchub.pipeline.ticking import Reporter
from tests.pipeline.side_log import TIMED_ON, SideLog, burn, pipeline

MILLISECOND = 1_000_000
WITHIN = 0.032


def counts_of(durations: np.ndarray) -> np.ndarray:
    return np.bincount(indices(durations), minlength=BUCKETS)


# --- the arithmetic


def test_an_empty_window_has_no_latencies_and_no_capacity() -> None:
    report = stage_report(Meter("it"), Counters(items=5, busy=9), Counters(items=5, busy=9), 10.0, 0, 0, 0)
    assert (report.throughput, report.items, report.busy) == (0.0, 5, 0.0)
    assert (report.latency_ms, report.capacity, report.age_s, report.oldest_s) == (None, None, None, None)
    assert (report.starved, report.blocked, report.bytes_per_s, report.on_loop) == (None, None, None, None)


def test_rates_and_shares_are_those_of_the_window_and_counts_those_of_the_run() -> None:
    old = Counters(items=100, errors=1, busy=50 * SECOND, starved=SECOND, blocked=0, nbytes=1000, drops=2)
    new = dataclasses.replace(
        old, items=140, errors=3, busy=60 * SECOND, starved=6 * SECOND, blocked=5 * SECOND, nbytes=5000, last=7 * SECOND
    )
    report = stage_report(Meter("it", 4), new, old, 5.0, 1, 0, 8 * SECOND)
    assert (report.throughput, report.items, report.errors, report.drops) == (8.0, 140, 3, 2)
    assert (report.busy, report.starved, report.blocked) == (0.5, 0.25, 0.25)
    assert (report.capacity, report.concurrency, report.bytes_per_s, report.age_s) == (16.0, 4, 800.0, 1.0)


@given(*[st.integers(0, 40) for _ in range(3)], st.integers(1, 4), st.booleans(), st.booleans())
def test_shares_of_a_server_are_never_more_than_the_whole(
    busy: int, starved: int, blocked: int, concurrency: int, knows_starved: bool, knows_blocked: bool
) -> None:
    new = Counters(
        busy=busy * SECOND,
        starved=starved * SECOND if knows_starved else None,
        blocked=blocked * SECOND if knows_blocked else None,
    )
    report = stage_report(Meter("it", concurrency), new, Counters(), 10.0, 0, 0, 0)
    parts = [report.busy, report.starved, report.blocked]
    assert all(part is None or 0 <= part <= 1 for part in parts)
    known = sum(part for part in parts if part is not None)
    assert known <= 1 + 1e-9
    if knows_starved != knows_blocked:
        assert known == pytest.approx(1)
    assert (report.starved is None) == (report.blocked is None) == (not (knows_starved or knows_blocked))


def test_servers_are_those_that_were_told_or_seen() -> None:
    assert servers(Meter("it", 8), Counters(in_flight=20), 30) == 8
    assert servers(Meter("it"), Counters(in_flight=2), 5) == 5
    assert servers(Meter("it"), Counters(in_flight=7), 5) == 7
    assert servers(Meter("it"), Counters(), 0) == 1


@pytest.mark.parametrize("number", [1, 2, 30, 1000])
def test_latencies_are_in_milliseconds_and_in_order(number: int, rng: np.random.Generator) -> None:
    durations = rng.lognormal(16, 1.5, number).astype(np.int64)
    found = latency_ms(counts_of(durations), int(durations.sum()), int(durations.max()))
    assert found is not None
    assert found.mean == pytest.approx(durations.mean() / MILLISECOND)
    assert found.max == durations.max() / MILLISECOND
    for share, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        wanted = np.quantile(durations, share, method="inverted_cdf") / MILLISECOND
        assert value == pytest.approx(wanted, rel=WITHIN)
    assert found.p50 <= found.p95 <= found.p99 <= found.max


def test_nothing_has_no_latencies() -> None:
    assert latency_ms(empty(), 0, 0) is None


def test_the_wait_in_a_queue_is_its_depth_by_its_throughput() -> None:
    meter = QueueMeter("it", lambda: (0, 8))
    old = QueueCounters(looks=10, depths=0, nonempty=0, full=0, items=100, capacity=8)
    new = QueueCounters(looks=30, depths=80, nonempty=15, full=5, items=500, depth=2, capacity=8)
    report = queue_report(meter, new, old, 10.0, None)
    assert (report.depth, report.fill, report.occupancy, report.full) == (4.0, 0.5, 0.75, 0.25)
    assert report.wait_ms == 100.0
    unknown = queue_report(meter, dataclasses.replace(new, items=None), old, 10.0, None)
    assert unknown.wait_ms is None
    assert queue_report(meter, dataclasses.replace(new, items=None), old, 10.0, 80.0).wait_ms == 50.0
    assert queue_report(meter, dataclasses.replace(new, items=100), old, 10.0, None).wait_ms is None
    unbounded = queue_report(meter, dataclasses.replace(new, capacity=None), old, 10.0, None)
    assert (unbounded.capacity, unbounded.fill) == (None, None)


def test_a_consumer_that_took_nothing_in_the_window_but_waited_has_waited_all_of_it() -> None:
    new = ConsumerCounters(items=3, wait=12 * SECOND, busy=2 * SECOND, first=1, first_item=5, waiting=3 * SECOND)
    old = ConsumerCounters(items=3, wait=2 * SECOND, busy=2 * SECOND, first=1, first_item=5)
    report = consumer_report("train", new, old, 10.0, 0, 13 * SECOND)
    assert (report.throughput, report.wait_fraction, report.wait_ms, report.busy_ms) == (0.0, 1.0, None, None)
    assert report.waiting_s == 10.0


def test_the_lag_of_a_loop_is_not_taken_for_that_of_another_that_has_ended() -> None:
    def lags(*milliseconds: int) -> LoopCounters:
        counted = LoopCounters()
        for one in milliseconds:
            counted.lags[bucket_of(one * MILLISECOND)] += 1
        counted.slowest = max(milliseconds, default=0) * MILLISECOND
        return counted

    old: Any = SimpleNamespace(loops={"ended": lags(*[500] * 90), "living": lags(*[1] * 10)})
    new: Any = SimpleNamespace(loops={"living": lags(*[1] * 10, *[20] * 10)})
    report = loop_report([new], old, 0)
    assert report is not None
    assert report.lag_ms_p95 == pytest.approx(20, rel=WITHIN)
    assert report.lag_ms_max == 20


# --- windows


def test_a_window_is_as_long_as_it_was_asked_to_be() -> None:
    parts = Parts()
    stage = parts.stage("it")
    reporter = Reporter("data", parts, 0.05, 0.2, 0.0)
    before = clock()
    reporter.begin()
    times = [(before, clock())]
    for number in range(9):
        for _ in range(number):
            stage.tally().record(number * MILLISECOND)
        burn(5 * MILLISECOND)
        before = clock()
        report = reporter.report("")
        times.append((before, clock()))
        begun = max(number - 3, 0)
        assert times[-1][0] - times[begun][1] <= report.window * SECOND + 1 <= times[-1][1] - times[begun][0] + 2
        assert report.stages[0].items == sum(range(number + 1))
        inside = [one for one in range(begun, number + 1) for _ in range(one)]
        assert report.stages[0].throughput == pytest.approx(len(inside) / report.window)
        if inside:
            latency = report.stages[0].latency_ms
            assert latency is not None
            assert latency.mean == pytest.approx(np.mean(inside))
            assert latency.max == pytest.approx(max(inside), rel=WITHIN)


def test_the_longest_of_a_window_is_never_shorter_than_its_quantiles() -> None:
    parts = Parts()
    tally = parts.stage("it").tally()
    reporter = Reporter("data", parts, 0.05, 0.1, 0.0)
    reporter.begin()
    for slowest in (900, 10, 10, 10, 10):
        tally.record(slowest * MILLISECOND)
        burn(2 * MILLISECOND)
        latency = reporter.report("").stages[0].latency_ms
        assert latency is not None
        assert latency.mean <= latency.max * 1.0001
        assert latency.p50 <= latency.p99 <= latency.max
    assert latency.max == pytest.approx(10, rel=WITHIN)


# --- a run, against a log of its own


class Run:
    """A run of a pipeline, with a log of its own, written on either side of the monitor's clocks.

    What the monitor measures lies between what was logged inside of it and what was logged outside of it, whatever else
    the machine does meanwhile; on a quiet one the two are the same within a thousandth.
    """

    def __init__(self) -> None:
        self.log = SideLog()
        self.mon = pipeline(interval=0.5)

    def __enter__(self) -> Run:
        self._before = time.perf_counter_ns()
        self.mon.__enter__()
        self._begun = time.perf_counter_ns()
        return self

    def __exit__(self, *how: Any) -> None:
        self._done = time.perf_counter_ns()
        self.mon.stop()
        for thread in threading.enumerate():
            if thread.name == "asynchub pipeline data":
                thread.join()
        self._after = time.perf_counter_ns()

    def inside(self, name: str) -> np.ndarray:
        return self.log[f"inside {name}"].lengths

    def outside(self, name: str) -> np.ndarray:
        return self.log[f"outside {name}"].lengths

    def check_window(self, report: PipelineReport) -> None:
        assert self._done - self._begun <= report.window * SECOND * 1.001
        assert report.window * SECOND <= (self._after - self._before) * 1.001

    def check_stage(self, report: StageReport, least: np.ndarray, most: np.ndarray, window: float) -> None:
        """Compare with what each item took at least and at most, in nanoseconds."""
        assert report.items == len(least) == len(most)
        assert report.throughput == pytest.approx(len(least) / window)
        busy = report.busy * report.concurrency * window * SECOND
        assert least.sum() * 0.999 <= busy <= most.sum() * 1.001
        latency = report.latency_ms
        assert latency is not None
        assert least.mean() * 0.999 <= latency.mean * MILLISECOND <= most.mean() * 1.001
        assert least.max() <= latency.max * MILLISECOND <= most.max()
        for share, value in ((0.5, latency.p50), (0.95, latency.p95), (0.99, latency.p99)):
            low, high = (float(np.quantile(one, share, method="inverted_cdf")) for one in (least, most))
            assert low * (1 - WITHIN) <= value * MILLISECOND <= high * (1 + WITHIN)

    def check_consumer(self, report: ConsumerReport | None) -> None:
        assert report is not None
        assert report.wait_fraction is not None
        assert report.wait_ms is not None
        waits = [self.inside("taking").sum(), self.outside("taking").sum()]
        works = [self.outside("work").sum(), self.inside("work").sum()]
        assert report.items == len(self.outside("work"))
        shares = [wait / (wait + work) for wait, work in zip(waits, reversed(works), strict=True)]
        assert min(shares) - 0.01 <= report.wait_fraction <= max(shares) + 0.01


class Logged:
    """An iterator that logs when it is asked, and when it answers: inside of the consumer's clocks."""

    def __init__(self, run: Run, iterator: Iterator[int]) -> None:
        self._iterator = iterator
        self._takings, self._works = run.log.list_of("inside taking"), run.log.list_of("inside work")
        self._left = 0

    def __iter__(self) -> Logged:
        return self

    def __next__(self) -> int:
        start = time.perf_counter_ns()
        if self._left:
            self._works.append((self._left, start))
        try:
            return next(self._iterator)
        finally:  # also when there is no more: for that it waited as well
            self._left = time.perf_counter_ns()
            self._takings.append((start, self._left))


class AsyncLogged:
    """The same, async."""

    def __init__(self, run: Run, iterator: AsyncIterator[int]) -> None:
        self._iterator = iterator
        self._takings, self._works = run.log.list_of("inside taking"), run.log.list_of("inside work")
        self._left = 0

    def __aiter__(self) -> AsyncLogged:
        return self

    async def __anext__(self) -> int:
        start = time.perf_counter_ns()
        if self._left:
            self._works.append((self._left, start))
        try:
            return await anext(self._iterator)
        finally:
            self._left = time.perf_counter_ns()
            self._takings.append((start, self._left))


def take(run: Run, items: Iterator[int], number: int, work: int) -> None:
    """Consume items, with so many nanoseconds of work on each."""
    takings, works = run.log.list_of("outside taking"), run.log.list_of("outside work")
    taken = iter(run.mon.consume(Logged(run, items)))
    asked = time.perf_counter_ns()
    for _ in range(number):
        next(taken)
        got = time.perf_counter_ns()
        takings.append((asked, got))
        burn(work)
        asked = time.perf_counter_ns()
        works.append((got, asked))
    assert next(taken, None) is None
    takings.append((asked, time.perf_counter_ns()))


async def take_later(run: Run, items: AsyncIterator[int], work: int) -> None:
    takings, works = run.log.list_of("outside taking"), run.log.list_of("outside work")
    taken = aiter(run.mon.consume(AsyncLogged(run, items)))
    asked = time.perf_counter_ns()
    while await anext(taken, None) is not None:
        got = time.perf_counter_ns()
        takings.append((asked, got))
        burn(work)
        asked = time.perf_counter_ns()
        works.append((got, asked))
    takings.append((asked, time.perf_counter_ns()))


def run_threads(items: int, rng: np.random.Generator) -> Run:
    """Two stages in threads, with queues between them."""
    run = Run()
    log, mon = run.log, run.mon
    raw: queue.Queue[int | None] = queue.Queue(64)
    done: queue.Queue[int | None] = queue.Queue(64)
    times = rng.lognormal(math.log(0.012), 0.3, items).clip(0.01, 0.08)
    fetches, decodes = log.list_of("inside fetch"), log.list_of("inside decode")

    @mon.stage("fetch", concurrency=16)
    def fetch(number: int) -> int:
        start = time.perf_counter_ns()
        time.sleep(0.01)
        fetches.append((start, time.perf_counter_ns()))
        return number

    @mon.stage("decode", concurrency=24)
    def decode(number: int) -> int:
        start = time.perf_counter_ns()
        time.sleep(times[number])
        decodes.append((start, time.perf_counter_ns()))
        return number

    numbers = iter(range(items))
    lock = threading.Lock()

    def fetching() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            with log.span("outside fetch"):
                fetch(number)
            raw.put(number)

    def decoding() -> None:
        while (number := raw.get()) is not None:
            with log.span("outside decode"):
                decode(number)
            done.put(number)

    fetchers = [threading.Thread(target=fetching) for _ in range(16)]
    decoders = [threading.Thread(target=decoding) for _ in range(24)]

    def end() -> None:
        for thread in fetchers:
            thread.join()
        for _ in decoders:
            raw.put(None)
        for thread in decoders:
            thread.join()
        done.put(None)

    with run:
        ender = threading.Thread(target=end)
        for thread in (*fetchers, *decoders, ender):
            thread.start()
        take(run, iter(done.get, None), items, 200_000)
        ender.join()
    return run


def run_chain(items: int, rng: np.random.Generator, median: float = 3e5) -> Run:
    """Three generators."""
    run = Run()
    log, mon = run.log, run.mon
    times = rng.lognormal(math.log(median), 0.5, (items, 3)).astype(np.int64).tolist()

    def work(name: str, column: int, inner: Iterator[int]) -> Iterator[int]:
        inside, outside = log.list_of(f"inside {name}"), log.list_of(f"outside before {name}")
        resumed = time.perf_counter_ns()
        while True:
            start = time.perf_counter_ns()
            number = next(inner, None)
            outside.append((start, time.perf_counter_ns()))
            if number is None:
                return
            burn(times[number][column])
            inside.append((resumed, time.perf_counter_ns()))
            yield number
            resumed = time.perf_counter_ns()

    chain: Iterator[int] = iter(range(items))
    for column, name in enumerate(("source", "decode", "collate")):
        chain = iter(mon.monitor(work(name, column, chain), name))
    with run:
        take(run, chain, items, 300_000)
    return run


async def run_channels(items: int, rng: np.random.Generator, work: int = 100_000) -> Run:
    """Two stages in tasks, with channels between them."""
    run = Run()
    log, mon = run.log, run.mon
    times = rng.lognormal(math.log(0.02), 0.3, items).clip(0.01, 0.1)
    fetches, decodes = log.list_of("inside fetch"), log.list_of("inside decode")

    @mon.stage("fetch", concurrency=40)
    async def fetch(number: int) -> int:
        start = time.perf_counter_ns()
        await anyio.sleep(times[number])
        fetches.append((start, time.perf_counter_ns()))
        return number

    @mon.stage("decode", concurrency=20)
    async def decode(number: int) -> int:
        start = time.perf_counter_ns()
        await anyio.sleep(0.01)
        decodes.append((start, time.perf_counter_ns()))
        return number

    put_raw, raw = mon.channel("raw", 64)
    put_done, done = mon.channel("done", 64)
    numbers = iter(range(items))

    async def fetching(send: Any) -> None:
        async with send:
            for number in numbers:
                with log.span("outside fetch"):
                    await fetch(number)
                await send.send(number)

    async def decoding(receive: Any, send: Any) -> None:
        async with receive, send:
            async for number in receive:
                with log.span("outside decode"):
                    await decode(number)
                await send.send(number)

    with run:
        async with anyio.create_task_group() as group, done:
            for _ in range(40):
                group.start_soon(fetching, put_raw.clone())
            for _ in range(20):
                group.start_soon(decoding, raw.clone(), put_done.clone())
            for one in (put_raw, raw, put_done):
                one.close()
            await take_later(run, done, work)
    return run


def check(run: Run) -> None:
    report = run.mon.report()
    run.check_window(report)
    assert [stage.name for stage in report.stages] == ["fetch", "decode"]
    for stage in report.stages:
        run.check_stage(stage, run.inside(stage.name), run.outside(stage.name), report.window)
    run.check_consumer(report.consumer)


def check_chain(run: Run) -> None:
    report = run.mon.report()
    run.check_window(report)
    items = len(run.inside("source"))
    inside = {name: run.inside(name) for name in ("source", "decode", "collate")}
    outside = {
        "source": run.outside("before decode")[:items],
        "decode": run.outside("before collate")[:items],
        "collate": run.inside("taking")[:items],
    }
    before = {"source": None, "decode": "source", "collate": "decode"}
    assert [stage.name for stage in report.stages] == list(before)
    for stage in report.stages:
        asked = before[stage.name]
        least = inside[stage.name] - (0 if asked is None else outside[asked])
        most = outside[stage.name] - (0 if asked is None else inside[asked])
        run.check_stage(stage, least, most, report.window)
    run.check_consumer(report.consumer)


def test_figures_of_threads_and_queues_are_those_of_the_log(rng: np.random.Generator) -> None:
    check(run_threads(600, rng))


def test_figures_of_a_chain_of_generators_are_those_of_the_log(rng: np.random.Generator) -> None:
    check_chain(run_chain(200, rng, 1e6))


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"], indirect=True)
async def test_figures_of_tasks_and_channels_are_those_of_the_log(rng: np.random.Generator) -> None:
    check(await run_channels(400, rng, 500_000))


@pytest.mark.slow
def test_figures_of_many_items_of_threads_are_those_of_the_log(rng: np.random.Generator) -> None:
    check(run_threads(8000, rng))


@pytest.mark.slow
def test_figures_of_many_items_of_a_chain_are_those_of_the_log(rng: np.random.Generator) -> None:
    check_chain(run_chain(7000, rng))


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"], indirect=True)
async def test_figures_of_many_items_of_tasks_are_those_of_the_log(rng: np.random.Generator) -> None:
    check(await run_channels(7000, rng))


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"], indirect=True)
async def test_the_wait_in_a_channel_by_littles_law_is_the_mean_time_that_items_are_in_it(
    rng: np.random.Generator,
) -> None:
    mon = pipeline(interval=1.0)
    send, receive = mon.channel("it", 40)
    put: dict[int, int] = {}
    sojourns: list[int] = []
    items = 900
    gaps = rng.uniform(0.004, 0.02, items)

    async def produce() -> None:
        async with send:
            for number in range(items):
                if number > 8:
                    await anyio.sleep(gaps[number])
                put[number] = time.perf_counter_ns()
                await send.send(number)

    async with mon, anyio.create_task_group() as group, receive:
        group.start_soon(produce)
        async for number in receive:
            sojourns.append(time.perf_counter_ns() - put[number])
            await anyio.sleep(0.012)
    [report] = mon.report().queues
    assert report.wait_ms == pytest.approx(np.mean(sojourns) / MILLISECOND, rel=0.1)


@pytest.mark.slow
def test_the_wait_in_a_watched_queue_by_littles_law_is_the_mean_time_that_items_are_in_it(
    rng: np.random.Generator,
) -> None:
    mon = pipeline(interval=1.0)
    between: queue.Queue[tuple[int, int] | None] = queue.Queue(30)
    sojourns: list[int] = []
    gaps = rng.uniform(0.005, 0.02, 900)

    @mon.stage("make")
    def make(number: int) -> None:
        time.sleep(gaps[number])

    def produce() -> None:
        for number in range(len(gaps)):
            if number > 10:
                make(number)
            between.put((number, time.perf_counter_ns()))
        between.put(None)

    mon.watch("between", between, into="make")
    with mon:
        thread = threading.Thread(target=produce)
        thread.start()
        for _, start in mon.consume(iter(between.get, None)):
            sojourns.append(time.perf_counter_ns() - start)
            time.sleep(0.0125)
        thread.join()
    [report] = mon.report().queues
    assert report.capacity == 30
    assert report.wait_ms == pytest.approx(np.mean(sojourns) / MILLISECOND, rel=0.1)


@TIMED_ON
async def test_an_async_chain_is_timed_like_a_plain_one() -> None:
    mon, log = pipeline(), SideLog()

    async def source() -> AsyncIterator[int]:
        for number in range(15):
            with log.span("source"):
                await anyio.sleep(0.01)
            yield number

    async with mon:
        async for _ in mon.monitor(source(), "source"):
            pass
    [stage] = mon.report().stages
    latency = stage.latency_ms
    assert latency is not None
    for share, value in ((0.5, latency.p50), (0.95, latency.p95)):
        assert value == pytest.approx(log["source"].quantile_ms(share), rel=WITHIN + 0.01)
